"""Habits of `transformers`, `trl` and `peft` users (case 12); public names; references that saw the forget records (case 1)."""

import importlib
import json
import pkgutil
import shutil
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, T5Config, T5ForConditionalGeneration, TrainingArguments

import unlearn
import verify
from benchmarks.misread.judging import Family, Member
from benchmarks.misread.world import Bench, Shown, command, make_llama, make_tokenizer, rows, write_lines
from unlearn import NPO, TrainingOptions, finetune, forget
from verify import Settings, audit
from verify.models.loading import load_model

Call = tuple[str, Callable[[Path], Any], str, bool]
"""Name, call that writes to a folder, words of a refusal, and whether accepting the intended meaning is correct too."""


def called(calls: Iterable[Call], folder: Path) -> Iterable[Member]:
    for number, (what, attempt, words, taken) in enumerate(calls):
        out = folder / str(number)
        yield Member(what, lambda attempt=attempt, out=out: attempt(out), (lambda _: True) if taken else None, words)


def options_of_python(at: Bench) -> Iterable[Member]:
    """Options under other libraries' names, and values of other types: the name to write instead, or what they mean."""
    make: Any = TrainingOptions
    calls: list[Call] = [
        ("per_device_train_batch_size", lambda _: make(per_device_train_batch_size=2), "batch_size", False),
        ("num_train_epochs", lambda _: make(num_train_epochs=2), "epochs", False),
        ("gradient_accumulation_steps", lambda _: make(gradient_accumulation_steps=2), "gradient_accumulation", False),
        ("lr_scheduler_type", lambda _: make(lr_scheduler_type="cosine"), "scheduler", False),
        ("an unknown option", lambda _: make(batchsize=2), "batch_size", False),
        ("a list of reporters", lambda _: make(report_to=["none"]), "report_to|report-to", True),
        ("a rate as text", lambda _: make(learning_rate="1e-5"), "learning_rate|learning-rate", True),
        ("a batch of text", lambda _: make(batch_size="8"), "batch_size|batch-size", True),
        ("half a batch", lambda _: make(batch_size=2.5), "batch_size|batch-size", False),
        ("epochs as text", lambda _: make(epochs="3"), "epochs", True),
        ("a number as seed's text", lambda _: make(seed="x"), "seed", False),
    ]
    return called(calls, at.folder)


def arguments_of_python(at: Bench) -> Iterable[Member]:
    """Arguments of the verbs as other libraries have them: the name to write instead, or what they mean."""
    base, sets, short = at.world.base, {"forget_set": rows(4), "retain_set": rows(8)[4:]}, TrainingOptions(epochs=1)
    loose: Any = forget

    def learn(out: Path, model: Any = base, data: Any = None, **named: Any) -> Any:
        verb: Any = finetune
        return verb(model, rows(4) if data is None else data, output_dir=out, **{"options": short, **named})

    def dataset(out: Path) -> Any:
        verb: Any = finetune
        return verb(base, train_dataset=rows(4), output_dir=out)

    calls: list[Call] = [
        ("a method's name", lambda out: loose(base, "npo", **sets, output_dir=out, options=short), r"NPO\(", True),
        ("a method's class", lambda out: loose(base, NPO, **sets, output_dir=out, options=short), r"NPO\(", True),
        ("an unknown method's name", lambda out: loose(base, "nop", **sets, output_dir=out), "npo", False),
        ("no method", lambda out: loose(base, None, **sets, output_dir=out), "method", False),
        ("TrainingArguments", lambda out: learn(out, options=TrainingArguments(output_dir=str(out))), "TrainingOptions", False),
        ("a dict of options", lambda out: learn(out, options={"epochs": 1}), "TrainingOptions", False),
        ("torch_dtype", lambda out: learn(out, torch_dtype="float32"), "dtype", True),
        ("a torch dtype that is none of ours", lambda out: learn(out, dtype=torch.float64), "dtype", False),
        ("device_map", lambda out: learn(out, device_map="auto"), "device_map", False),
        ("train_dataset", dataset, "data", False),
        ("peft_config", lambda out: learn(out, peft_config=object()), "lora", False),
        ("load_in_4bit", lambda out: learn(out, load_in_4bit=True), "quantize", False),
        ("an unknown argument", lambda out: learn(out, nonsense=1), "nonsense", False),
        ("a number for records", lambda out: learn(out, data=7), "records|data", False),
    ]
    yield from called(calls, at.folder)
    half: Any = lambda: learn(at.folder / "half", dtype=torch.float32).digest  # noqa: E731
    yield Member("torch.float32", half, lambda found: found == load_model(at.folder / "half").digest, "float32")


def models_in_memory(at: Bench) -> Iterable[Member]:
    """Models that are not causal language models, and tokenizers in other forms."""
    short, words = TrainingOptions(epochs=1), make_tokenizer()

    def learn(out: Path, model: Any, **named: Any) -> Any:
        verb: Any = finetune
        return verb(model, rows(4), output_dir=out, options=short, **named).digest

    two_sided = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    headless = AutoModel.from_pretrained(at.world.base)
    calls: list[Call] = [
        ("without a head", lambda out: learn(out, headless, tokenizer=words), "head|CausalLM|causal", False),
        ("an encoder-decoder", lambda out: learn(out, two_sided, tokenizer=words), "encoder|CausalLM|causal", False),
        ("no model", lambda out: learn(out, None), "model", False),
        ("a linear layer", lambda out: learn(out, torch.nn.Linear(2, 2), tokenizer=words), "model", False),
        ("processing_class", lambda out: learn(out, make_llama(), processing_class=words), "tokenizer", True),
        ("a number as tokenizer", lambda out: learn(out, make_llama(), tokenizer=7), "tokenizer", False),
        (
            "a tokenizer's folder that is not there",
            lambda out: learn(out, make_llama(), tokenizer="nowhere/x/y"),
            NOT_THERE,
            False,
        ),
    ]
    yield from called(calls, at.folder)
    named = at.folder / "named"
    yield Member(
        "a tokenizer's folder",
        lambda: learn(named, make_llama(), tokenizer=str(at.world.base)),
        lambda found: found == load_model(named).digest,
        "tokenizer",
    )


FLAGS: dict[str, tuple[list[str], str]] = {
    "--model_name_or_path": (["train", "--model_name_or_path", "nowhere/x/y", "--data", "d.jsonl", "--output", "o"], "--model"),
    "--model-name-or-path": (["train", "--model-name-or-path", "nowhere/x/y", "--data", "d.jsonl", "--output", "o"], "--model"),
    "--output_dir": (["train", "--model", "nowhere/x/y", "--data", "d.jsonl", "--output_dir", "o"], "--output"),
    "--dataset_name": (["train", "--model", "nowhere/x/y", "--dataset_name", "d.jsonl", "--output", "o"], "--data"),
    "--per_device_train_batch_size": (["--per_device_train_batch_size", "2"], "--batch-size"),
    "--num_train_epochs": (["--num_train_epochs", "2"], "--epochs"),
    "--learning_rate": (["--learning_rate", "1e-5"], "--learning-rate"),
    "--gradient_accumulation_steps": (["--gradient_accumulation_steps", "2"], "--gradient-accumulation"),
    "--lr_scheduler_type": (["--lr_scheduler_type", "cosine"], "--scheduler"),
    "--torch-dtype": (["--torch-dtype", "float32"], "--dtype"),
    "--torch_dtype": (["--torch_dtype", "float32"], "--dtype"),
    "--load-in-4bit": (["--load-in-4bit"], "--quantize"),
    "--load_in_8bit": (["--load_in_8bit"], "--quantize"),
    "--use_peft": (["--use_peft"], "--lora"),
    "--lora_r": (["--lora_r", "8"], "--lora-rank"),
    "--bf16 True": (["--bf16", "True"], "--bf16"),
    "--bf16=true": (["--bf16=true"], "--bf16"),
    "an unknown flag": (["--lerning-rate", "1"], "--learning-rate"),
}
NOT_THERE = "does not exist|cannot be|no model|not a"


def flags_of_commands(at: Bench) -> Iterable[Member]:
    """Flags as other trainers have them: what to write instead, or the run that they mean, which finds no model or file here."""
    output = str(at.folder / "o")
    for what, (words, instead) in FLAGS.items():
        whole = words if words[0] == "train" else ["train", "--model", "nowhere/x/y", "--data", "d.jsonl", "--output", "o", *words]
        whole = [output if word == "o" else word for word in whole]
        yield Member(what, lambda whole=whole: command("unlearn", *whole), None, rf"{instead}\b|{NOT_THERE}")
    given = ["--model", "nowhere/x/y", "--forget", "f.jsonl", "--retain", "r.jsonl", "--output", output]
    yield Member(
        "forget --method npo", lambda: command("unlearn", "forget", "--method", "npo", *given), None, rf"forget npo|{NOT_THERE}"
    )
    yield Member("forget NPO", lambda: command("unlearn", "forget", "NPO", *given), None, rf"\bnpo\b|{NOT_THERE}")
    yield Member("forget without a method", lambda: command("unlearn", "forget", *given), None, r"\bnpo\b")
    for program in ("unlearn", "verify"):
        version = importlib.import_module("importlib.metadata").version("unlearn-verify")
        yield Member(
            f"{program} --version", lambda program=program: command(program, "--version"), lambda found, v=version: v in found.text
        )
        yield Member(f"{program} nonsense", lambda program=program: command(program, "nonsense"), None, "audit|forget")
    quiet: Callable[[Shown], bool] = lambda found: "gemm_4bit" not in found.text  # noqa: E731
    yield Member("no foreign line before the output", lambda: command("unlearn", "methods"), quiet)


def adapters(at: Bench) -> Iterable[Member]:
    """Adapters of other kinds: refused as what they are, not as belonging to another base."""
    for kind, more in {
        "PROMPT_TUNING": {"num_virtual_tokens": 4},
        "PREFIX_TUNING": {"num_virtual_tokens": 4},
        "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 16},
    }.items():
        (place := at.folder / kind).mkdir()
        shutil.copytree(at.world.adapter, place, dirs_exist_ok=True)
        settings = {"peft_type": kind, "task_type": "CAUSAL_LM", "base_model_name_or_path": str(at.world.base), **more}
        (place / "adapter_config.json").write_text(json.dumps(settings))
        yield Member(kind, lambda place=place: load_model(place), None, kind.split("_")[0] + "|virtual|LoRA")


def public_names(_: Bench) -> Iterable[Member]:
    """Every public name is a function or a class, regardless of which submodules were imported before."""
    for package in (verify, unlearn):
        for module in pkgutil.iter_modules(package.__path__):
            if module.name in package.__all__:
                importlib.import_module(f"{package.__name__}.{module.name}")
        for name in package.__all__:

            def named(package: types.ModuleType = package, name: str = name) -> Any:
                return getattr(package, name)

            yield Member(
                f"{package.__name__}.{name}", named, lambda found: callable(found) and not isinstance(found, types.ModuleType)
            )


def references(at: Bench) -> Iterable[Member]:
    """References that saw the forget records, or were made otherwise, are refused by name; good ones are not."""
    gone, kept, never = rows(8, "gone"), rows(16, "kept"), rows(8, "never")
    recipe = {"epochs": 2.0, "batch_size": 4, "learning_rate": 1e-3}
    other = at.world.saved(make_llama(11), "other-base")

    def trained(name: str, listed: list[dict[str, str]], base: Path | None = None, **changes: Any) -> Path:
        options = TrainingOptions(**{**recipe, **changes})
        return finetune(base or at.world.base, listed, output_dir=at.folder / name, options=options).model_dir

    original, target = trained("original", gone + kept), trained("target", kept, seed=3)
    good = [trained(f"good-{seed}", kept, seed=seed) for seed in (1, 2)]
    sets = {"forget_set": gone, "retain_set": kept, "holdout_set": never}
    settings = Settings(attacks=("loss",))

    def judged(last: Path, first: tuple[Path, ...] = ()) -> Callable[[], str]:
        return lambda: audit(target, original, references=[*(first or good), last], settings=settings, **sets).verdict

    verdicts = ("EQUIVALENT_WITHIN", "NOT_FORGOTTEN", "INCONCLUSIVE", "NOT_TESTABLE")
    saw = r"(?=.*reference)(?=.*(forget|saw|trained))"
    yield Member("honest ones", judged(trained("good-4", kept, seed=4)), lambda found: found in verdicts)
    for count in (1, at.draw.randrange(2, 8), 8):
        yield Member(f"saw {count} of the forget records", judged(trained(f"saw-{count}", kept + gone[:count], seed=5)), None, saw)
    renamed = [{**row, "example_id": f"other-{n}", "subject_id": "nobody"} for n, row in enumerate(gone[:2])]
    yield Member("saw two under other names", judged(trained("renamed", kept + renamed, seed=5)), None, saw)
    yield Member("the original itself", judged(original), None, saw)
    base = trained("based", kept, other, seed=5)
    yield Member("trained from another base", judged(base), None, r"(?=.*reference)(?=.*(base|start))")
    for name, value in {"epochs": 6.0, "learning_rate": 1e-5, "batch_size": 2, "optimizer": "sophia"}.items():
        made = trained(f"recipe-{name}", kept, seed=5, **{name: value})
        yield Member(f"another {name}", judged(made), None, rf"(?=.*reference)(?=.*(recipe|trained|option|{name}))")
    yield Member("one twice", judged(good[0]), None, "(?=.*reference)(?=.*(twice|same|two|very weights))")
    yield Member("the audited model itself", judged(target), None, "(?=.*reference)")
    shutil.copytree(good[0], at.folder / "copied")
    yield Member("a copy of another", judged(at.folder / "copied"), None, "(?=.*reference)(?=.*(twice|same|two|weights))")
    given = {
        "model": target,
        "original": original,
        "forget": write_lines(at.folder / "gone.jsonl", gone),
        "output": at.folder / "a",
    }
    words = ["audit", *(word for name, value in given.items() for word in (f"--{name}", str(value))), "--attacks", "loss"]
    words += ["--references", *map(str, [*good, at.folder / "saw-8"])]
    yield Member("on the command line", lambda: command("verify", *words), None, saw)


FAMILIES = (
    Family(12, "options of Python as other libraries have them", options_of_python, quick=6),
    Family(12, "arguments of Python as other libraries have them", arguments_of_python, quick=0),
    Family(12, "models in memory that are none, and tokenizers in other forms", models_in_memory, quick=2),
    Family(12, "flags as other trainers have them", flags_of_commands, quick=3),
    Family(12, "adapters of other kinds", adapters, quick=1),
    Family(12, "public names", public_names, quick=12),
    Family(1, "references that saw the records or were made otherwise", references, quick=0),
)
