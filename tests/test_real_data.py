"""Real input: TOFU's authors and a real pretrained model, from the files as they are published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stories260k import convert

from unlearn import GradDiff, TrainingOptions, finetune, forget
from verify import Fields, Settings, audit
from verify.data.identity import RecordKey
from verify.data.records import parse_records
from verify.data.sources import load_records
from verify.models.generation import greedy_continuations
from verify.models.loading import load_model
from verify.scores.observe import measure

pytestmark = pytest.mark.data
QUESTIONS = Fields(prompt="question", completion="answer")


@pytest.fixture(scope="module")
def stories(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pretrained model as a `transformers` folder."""
    return convert(shared_data / "stories260k", tmp_path_factory.mktemp("stories260k"))


@pytest.mark.slow
def test_the_converted_model_tells_the_reference_story(stories: Path, shared_data: Path) -> None:
    """Greedy text from the start token is, character for character, what llama2.c prints."""
    page = (shared_data / "stories260k" / "stories260K.md").read_text()
    expected = page.split("-t 0.0\n", 1)[1].split("\n```", 1)[0]
    loaded = load_model(stories)
    (made,) = greedy_continuations(loaded, [np.array([loaded.tokenizer.bos_token_id])], [256])
    assert loaded.tokenizer.decode(made).strip().startswith(expected.strip()[:500])


@pytest.mark.slow
def test_the_converted_model_has_the_known_loss(stories: Path, shared_data: Path) -> None:
    """Mean loss on the first 60 stories is 1.2958 nats a token, so encoding, windows and pass are right together."""
    text = (shared_data / "tinystories_2mb" / "tinystories_sample.txt").read_text()
    records = parse_records(({"text": story.strip()} for story in text.split("<|endoftext|>")[:60]), Fields(), "stories")
    observed = measure(load_model(stories), records, cache_dir=None, key=RecordKey.load(), overflow="split")
    # The known answer leaves out the end-of-text token, which this model was never trained to give.
    logs = np.concatenate([entry.log_probability[:-1] for entry in observed.statistics])
    assert -logs.mean() == pytest.approx(1.2958, abs=0.004)


def test_every_tofu_split_loads(shared_data: Path) -> None:
    """All published files load with the two column names, whatever their suffix promises."""
    counts = {"forget10": 400, "retain90": 3600, "holdout10": 400, "full": 4000, "forget05_perturbed": 200}
    for name, count in counts.items():
        records = load_records(str(shared_data / "tofu" / f"{name}.json"), QUESTIONS)
        assert len(records) == count
        assert all(record.prompt and record.completion for record in records)


@pytest.mark.slow
def test_tofu_on_a_pretrained_model_end_to_end(stories: Path, shared_data: Path, tmp_path: Path) -> None:
    """One author of three leaves a fine-tuned model: the untouched model is accused, its trace is named, files say nothing."""
    rows = load_rows(shared_data / "tofu" / "full.json")[-60:]
    files = {
        "forget": rows[40:],
        "retain": rows[:40],
        "train": rows,
        "holdout": json.loads((shared_data / "tofu" / "holdout10.json").read_text())[:20],
    }
    paths = {}
    for name, content in files.items():
        paths[name] = str(tmp_path / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in content))
    options = TrainingOptions(learning_rate=4e-3, epochs=6, batch_size=8, overflow="split")
    original = finetune(str(stories), paths["train"], output_dir=tmp_path / "original", fields=QUESTIONS, options=options)
    references = [
        finetune(
            str(stories),
            paths["retain"],
            output_dir=tmp_path / f"reference{seed}",
            fields=QUESTIONS,
            options=TrainingOptions(learning_rate=4e-3, epochs=6, batch_size=8, overflow="split", seed=seed),
        ).model_dir
        for seed in (1, 2, 3)
    ]
    result = forget(
        str(original.model_dir),
        GradDiff(gamma=0.3),
        forget_set=paths["forget"],
        retain_set=paths["retain"],
        output_dir=tmp_path / "unlearned",
        fields=QUESTIONS,
        options=TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=8, overflow="split"),
    )
    common: dict[str, Any] = {
        "original": original.model_dir,
        "base": stories,
        "references": references,
        "forget_set": paths["forget"],
        "retain_set": paths["retain"],
        "holdout_set": paths["holdout"],
        "fields": QUESTIONS,
        "cache_dir": tmp_path / "cache",  # the second audit scores its own model alone
        "settings": Settings(overflow="split", planted_draws=40, channels=("instruction",)),  # one other way, for speed
    }
    untouched = audit(original.model_dir, **common, output_dir=tmp_path / "audit0")
    changed = audit(result.model_dir, **common, output_dir=tmp_path / "audit1")
    assert untouched.verdict == "NOT_FORGOTTEN"
    assert untouched.residual is not None
    assert untouched.residual.value == pytest.approx(1.0)
    assert changed.residual is not None
    assert changed.residual.value < 0.95, "gradient difference moved the forget set"
    names = {row["answer"][:25] for row in files["forget"]}
    for path in [*(tmp_path / "audit0").iterdir(), *(tmp_path / "audit1").iterdir(), *Path(original.model_dir).rglob("*.json*")]:
        content = path.read_bytes()
        assert not [name for name in names if name.encode() in content], f"{path.name} holds an answer"


def load_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
