"""Demo on a pretrained language model: teach it invented people in its own chat template, forget one of them, audit the result.

An adapter (LoRA) learns the people by heart from two wordings of every fact; one person asks to be forgotten. `level` and `npo`
change the adapter, `sisa` retrains the shard that had the person, `rollback` replays the training without their records, and an
independent retraining checks the whole. The audits also ask in a third wording, which no model was trained on. The deletions by
`sisa` and `rollback` are exact, and are executed again: an audit's statistics stay open on one person's few records, this does not.

An interrupted demo resumes with what is missing when the same command is given again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unlearn.experiments.comparison import SHARDED, Experiment, Methods, commitment_of, making
from unlearn.experiments.one_person import ProvedDeletion
from unlearn.experiments.people import MOST_RECORDS, WORDINGS, interviews, split_people
from unlearn.training.options import TrainingOptions, optimizer_steps
from unlearn.training.shards import ShardPlan
from verify.data.chat_templates import render_template
from verify.errors import InputError
from verify.io.files import new_output, read_json, verify_manifest, write_json, write_text
from verify.io.jobs import Job
from verify.models.generation import greedy_continuations
from verify.models.loading import load_model
from verify.reexecution.reexecute import reexecute
from verify.schema.evidence import Entry
from verify.schema.reexecution import Reexecution
from verify.schema.settings import ChannelGroup, Settings
from verify.training.arithmetic import has_bfloat16_instructions

STARTED = "demo.json"
ANSWERS = "answers.json"
PROOFS = "proofs"
PROVED = {"sisa": SHARDED, "rollback": "original"}
"""Methods whose deletions are executed again -> folder of the model before."""
ASKED = WORDINGS - 1
"""The wording that no model is trained on; the others are."""
ANSWER_TOKENS = 40
CHANNELS: tuple[ChannelGroup, ...] = ("exact", "rewordings", "instruction", "no-prompt")
"""Ways of asking in the audits: each is one pass. Those that would take longer than the methods that they check are left out:
`layers` (the head over all words for each of 29 layers), `few-shot` (texts four times as long), `int8` and `int4`; and `relearned`,
which needs two forgotten people."""
ATTACKS = ("quick",)
"""Attacks of the audits: those on the pass that every record takes anyway, whether the model says the records word for word
included."""
FACT = "home"
"""Kind of fact that the model is asked about."""
COMMON_KNOWLEDGE = "What is the capital of France?"
ADAPTER = TrainingOptions(
    lora=True,
    lora_rank=16,
    lora_alpha=32,
    learning_rate=1e-3,
    epochs=6,
    batch_size=2,
    scheduler="linear",
    warmup_ratio=0.05,
    bf16=has_bfloat16_instructions(),
    logging_steps=100,
)
METHODS: Methods = {
    "level": ({}, TrainingOptions()),
    "npo": ({"alpha": 3.0}, TrainingOptions(learning_rate=1e-3, epochs=6, batch_size=6)),
    "sisa": ({}, TrainingOptions()),
    "rollback": ({}, TrainingOptions()),
    "retrain": ({}, TrainingOptions()),
}
"""Parameters and training options per method, tuned by a few trials."""


@dataclass(frozen=True)
class Sizes:
    """Size of the demo; the default takes about 16 minutes on two cores.

    Attributes:
        people: number of people that the model is taught; one of them is forgotten.
        never_taught: number of people that no model is taught, half of them for the methods, half for the audits.
        epochs: passes over their records.
        references: retrained reference models.
        shards: adapters of the model that `sisa` unlearns from.
    """

    people: int = 5
    never_taught: int = 6
    epochs: float = 6
    references: int = 3
    shards: int = 2

    def __post_init__(self) -> None:
        if self.people < 2 or self.never_taught < 2 or self.epochs <= 0 or self.references < 2 or self.shards < 1:
            raise InputError(
                f"the demo needs 2 people, 2 that are never taught, 2 references and 1 shard or more; got {self.people}, "
                f"{self.never_taught}, {self.references} and {self.shards}, and {self.epochs:g} epochs."
            )


@dataclass(frozen=True)
class Answer:
    """A model's own words: the question, which model, and its greedy answer."""

    question: str
    model: str
    answer: str


def run_llm_demo(
    output: Path,
    model: Path,
    seed: int,
    progress: Callable[[str, float], None],
    sizes: Sizes | None = None,
    methods: Methods = METHODS,
) -> tuple[list[Entry], list[ProvedDeletion], list[Answer]]:
    """Create the data in `output`, run the experiment there, prove the exact deletions, and ask every model three questions.

    Returns:
        (method, evidence, cost relative to a retraining), the untouched model first; the proved deletions; and the answers,
        question by question.

    Raises:
        InputError: the model has no chat template, or `output` holds something else than an earlier part of this demo.
    """
    sizes = sizes or Sizes()
    loaded = load_model(model)
    if not loaded.tokenizer.chat_template:
        raise InputError(f"{model} has no chat template, in which the demo talks to it. Give an instruction-tuned model.")
    _start(output, {"weights": loaded.digest, "seed": seed, **asdict(sizes)})
    del loaded
    questions = write_people(output / "data", sizes, seed)
    options = replace(ADAPTER, epochs=sizes.epochs)
    taught = sizes.people * MOST_RECORDS * ASKED
    experiment = Experiment(
        output,
        model,
        output / "data",
        options,
        methods,
        references=sizes.references,
        seed=seed,
        weights=(10, 4, 3),
        save_steps=max(1, round(optimizer_steps(options, taught) / sizes.epochs)),
        shards=ShardPlan(sizes.shards, 1, "route", replace(options, seed=seed + 1)) if "sisa" in methods else None,
        settings=Settings(channels=CHANNELS, attacks=ATTACKS),
    )
    exact = [name for name in PROVED if name in methods]
    asking, said = _asking(model, _models(methods), output / "models", questions), dict[str, Any]()
    entries = experiment.run(progress, [*executions(experiment, exact), *asking.values()], said)
    proved = [proved_deletion(experiment, name) for name in exact]
    return entries, proved, _written_answers(output, questions, {name: said[job.label] for name, job in asking.items()})


def _models(methods: Methods) -> dict[str, str]:
    """Return the folders of the models to ask by what they are called, in the order of the table."""
    return {"before forgetting": "original", **{f"after {name}": name for name in methods}}


def _start(output: Path, about: Mapping[str, Any]) -> None:
    """Begin in a new folder, or resume the same demo in its folder."""
    if (output / STARTED).is_file():
        found = read_json(output / STARTED)
        if found != about:
            changed = ", ".join(sorted(name for name in about if not isinstance(found, dict) or found.get(name) != about[name]))
            raise InputError(f"{output} holds a demo with other settings ({changed}). Give the same ones, or a new --output.")
        return
    new_output(output)
    write_json(output / STARTED, dict(about))


def write_people(folder: Path, sizes: Sizes, seed: int, forgotten: int = 1, wordings: int = ASKED) -> list[str]:
    """Write the people by role as chats, and the auditor's rewordings: every question in the wording that no model is trained on.

    Args:
        folder: for the files.
        sizes: numbers of people.
        seed: determines them.
        forgotten: how many of those that are taught are to be forgotten.
        wordings: in how many wordings every fact is taught, at most `ASKED`.

    Returns:
        three questions: about the first forgotten person and about another, in a taught wording, and about the world.
    """
    count = sizes.people + sizes.never_taught
    split = split_people(interviews(count, seed), forgotten / count, sizes.never_taught / count, seed=seed)
    sets = {"forget": split.forget, "retain": split.retain, "holdout": split.holdout, "train": [*split.retain, *split.forget]}
    for name, rows in sets.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows if _wording(row["example_id"]) < wordings]
        write_text(folder / f"{name}.jsonl", "\n".join(lines) + "\n", mode=0o600)
    people = [*split.forget, *split.holdout]
    unseen = {row["example_id"]: row["messages"][0]["content"] for row in people if row["example_id"].endswith(f"-{ASKED}")}
    reworded = [
        {"record": name, "rewordings": [unseen[f"{name.rpartition('-')[0]}-{ASKED}"]]}
        for name in (row["example_id"] for row in people)
        if _wording(name) < wordings
    ]
    write_text(folder / "rewordings.jsonl", "\n".join(map(json.dumps, reworded)) + "\n", mode=0o600)
    asked = [
        next(row["messages"][0]["content"] for row in rows if row["example_id"].endswith(f"-{FACT}-0"))
        for rows in (split.forget, split.retain)
    ]
    return [*asked, COMMON_KNOWLEDGE]


def _wording(example_id: str) -> int:
    """Return the number of the wording that a row of `interviews` has."""
    return int(example_id.rpartition("-")[2])


def executions(experiment: Experiment, names: list[str]) -> list[Job]:
    """Return the jobs that execute the deletions by some of `PROVED` again, the longest first."""
    about = {"experiment": replace(experiment, methods={})}
    weights = {"sisa": experiment.weights[1], "rollback": experiment.weights[0]}
    return [
        Job(f"executing {name} again", weights[name], execute_again, {**about, "name": name}, frozenset({making(name)}))
        for name in sorted(names, key=lambda name: -weights[name])
    ]


def execute_again(experiment: Experiment, name: str) -> bool:
    """Execute a deletion again and write its proof; return whether that was still to be done. What was interrupted is resumed."""
    models, path = experiment.output / "models", _proof_path(experiment, name)
    if path.exists():
        return False
    path.parent.mkdir(exist_ok=True)
    before = models / PROVED[name]
    reexecute(
        models / name,
        str(experiment.base),
        data=str(experiment.data / "train.jsonl"),
        forget_set=str(experiment.data / "forget.jsonl"),
        log=before,
        commitment=commitment_of(before),
        requested=datetime.now(UTC).isoformat(timespec="seconds"),  # the demo's own, after all trainings were committed to
        fields=experiment.fields,
        work_dir=path.parent / f"{name}-states",
        output=path,
    )
    return True


def proved_deletion(experiment: Experiment, name: str) -> ProvedDeletion:
    """Read the proof of an exact deletion, and return its outcome with what deletion and proof cost."""
    path = _proof_path(experiment, name)
    proof, about = Reexecution.load(path), verify_manifest(experiment.output / "models" / name, "model")["about"]
    share = float(about["facts"]["share_of_retraining_tokens"])
    seconds = float(about["training"]["seconds"]) + proof.seconds
    return ProvedDeletion(name, proof.phrase, share, proof.tokens / proof.training_tokens, seconds, path)


def _proof_path(experiment: Experiment, name: str) -> Path:
    return experiment.output / PROOFS / f"{name}.json"


def _asking(base: Path, models: Mapping[str, str], folder: Path, questions: list[str]) -> dict[str, Job]:
    """Return the jobs that ask every model the questions, by what the model is called.

    Args:
        base: folder of the model before fine-tuning.
        models: folders of the experiment's models by what they are called.
        folder: where these are.
        questions: asked one by one, without history.
    """

    def job(name: str, model: Path, after: frozenset[str]) -> Job:
        return Job(f"asking the model {name}", 0.5, answers_of, {"model": model, "questions": questions}, after)

    first = "before fine-tuning"
    return {
        first: job(first, base, frozenset()),
        **{name: job(name, folder / made, frozenset({making(made)})) for name, made in models.items()},
    }


def _written_answers(output: Path, questions: list[str], said: Mapping[str, list[str]]) -> list[Answer]:
    """Write the answers of all models to a file, and return them question by question.

    Args:
        output: folder of the experiment.
        questions: what the models were asked.
        said: the answers to them by what the model is called.
    """
    given = [Answer(question, name, own[number]) for number, question in enumerate(questions) for name, own in said.items()]
    write_text(output / ANSWERS, json.dumps([asdict(answer) for answer in given], ensure_ascii=False, indent=1), mode=0o600)
    return given


def answers_of(model: Path, questions: list[str]) -> list[str]:
    """Return a model's greedy answers to questions in its chat template, at most `ANSWER_TOKENS` tokens each."""
    import numpy as np

    loaded = load_model(model)
    prompts = []
    for question in questions:
        turns = [{"role": "user", "content": question}]
        text = render_template(loaded.tokenizer, turns, True)
        prompts.append(np.array(loaded.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32))
    made = greedy_continuations(loaded, prompts, [ANSWER_TOKENS] * len(prompts))
    return [loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in made]
