"""Habits from `transformers`, `trl`, `peft` and OpenUnlearning: every foreign name is answered with what to write instead.

Python calls raise an `ArgumentError`; command lines accept what means the same and exit with 2 otherwise. Both read one table.
"""

import dataclasses
import inspect
import json
import shlex
import subprocess
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from tiny_models import make_llama

import unlearn
import unlearn.cli.main
import verify
import verify.cli.main
from unlearn import NPO, DifferentialPrivacy, Federated, Selection, ShardPlan, TrainingOptions, finetune, forget
from unlearn.methods import method_classes
from verify import Fields, Settings, audit
from verify.cli.dispatch import Command, find_command_of
from verify.cli.foreign_flags import find_command, in_our_words
from verify.errors import ArgumentError, InputError
from verify.io.foreign_names import OMIT, TABLE, foreign_name, markdown_table
from verify.models.loading import load_model

PLACES: dict[str, Any] = {"forget_set": "f.jsonl", "output_dir": "never-made"}
ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(8)]


def translated(program: str, commands: Mapping[str, Command], given: str) -> str:
    """A command line as the program passes it on, its name in front."""
    kind, words, named = find_command_of(program, commands, shlex.split(given))
    return " ".join((named, *in_our_words(kind, words, named)))


def training_arguments(**given: Any) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(output_dir="never-made", **given)


# ---- the table ----------------------------------------------------------------------------------------------------------------


def test_every_name_is_there_once() -> None:
    """A name given twice would hide the first."""
    assert len({entry.name for entry in TABLE}) == len(TABLE)


def test_every_training_argument_is_known() -> None:
    """Each field of the installed `TrainingArguments` has an entry, or the same name here; no entry is of a field that is gone."""
    theirs = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    ours = {field.name for field in dataclasses.fields(TrainingOptions)}
    assert theirs - ours <= {entry.name for entry in TABLE}
    assert {entry.name for entry in TABLE if entry.library == "TrainingArguments"} <= theirs
    assert not {entry.name for entry in TABLE if entry.library == "older TrainingArguments"} & theirs


def test_other_foreign_names_exist() -> None:
    """Names said to come from `from_pretrained`, `Trainer` and `peft` are in the installed libraries."""
    loading = "".join(
        inspect.getsource(one)
        for one in (
            transformers.PreTrainedModel.from_pretrained,
            transformers.BitsAndBytesConfig,
            transformers.AutoModelForCausalLM.from_pretrained,
        )
    )
    known = {
        "from_pretrained": lambda name: name in loading,
        "Trainer": lambda name: name in inspect.signature(transformers.Trainer.__init__).parameters,
        "peft": lambda name: name in {field.name for field in dataclasses.fields(peft.LoraConfig)},
    }
    assert not [entry.name for entry in TABLE if not known.get(entry.library, lambda _: True)(entry.name)]


def test_every_counterpart_exists() -> None:
    """Each of our names is an argument of a public function or class, and its flag is one of `unlearn train` or `forget`."""
    functions = set(inspect.signature(forget).parameters) | set(inspect.signature(finetune).parameters)
    classes = {"TrainingOptions": TrainingOptions, "Fields": Fields}
    flags = set[str]()
    for words in (["train"], ["forget", "npo"]):
        command = find_command(*find_command_of("unlearn", unlearn.cli.main.COMMANDS, words))
        flags |= set(command.flags if command else ())
    for entry in (one for one in TABLE if one.ours and one.argument != "options"):
        assert entry.argument in (inspect.signature(classes[entry.owner]).parameters if entry.owner else functions), entry.name
        assert entry.flag in flags, entry.name


def test_every_value_is_one_of_ours() -> None:
    """A value the table promises is accepted here."""
    hints = typing.get_type_hints(TrainingOptions)
    for entry in (one for one in TABLE if one.owner == "TrainingOptions"):
        for value in set(entry.values.values()) - {OMIT}:
            kind = hints[entry.argument]
            parsed = value == "true" if kind is bool else int(value) if kind is int else value
            assert getattr(TrainingOptions(**{entry.argument: parsed}), entry.argument) == parsed


def test_entries_without_a_counterpart_give_advice() -> None:
    """Nobody is left with a bare no."""
    assert not [entry.name for entry in TABLE if not entry.ours and not entry.advice.endswith(".")]


def test_the_page_shows_the_table() -> None:
    """docs/coming-from-transformers.md holds the table as it is."""
    page = (Path(__file__).parents[2] / "docs" / "coming-from-transformers.md").read_text()
    assert markdown_table() in page


# ---- Python -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("npo", r"Write NPO\(\), after from unlearn import NPO"),
        (NPO, r"got the class NPO. Write NPO\(\)"),
        ("Grad-Diff", r"Write GradDiff\(\)"),
        ("GradAscent", r"Write GradientAscent\(\)"),
        ("task arithmetic", r"Write TaskVector\(\)"),
        (None, r"got None. Write one of .*NPO\(\)"),
        (transformers.Trainer, r"got the class Trainer. Write one of"),
        ({"name": "npo"}, "of type dict"),
    ],
)
def test_a_method_is_an_instance(method: Any, said: str) -> None:
    """Names and classes are answered with the call that makes the method."""
    with pytest.raises(ArgumentError, match=said):
        forget("m", method, **PLACES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"torch_dtype": torch.bfloat16}, "Write dtype='bfloat16'"),
        ({"torch_dtype": "auto"}, "Write dtype='auto'"),
        ({"dtype": "bf16"}, "Write dtype='bfloat16'"),
        ({"dtype": torch.float64}, "Write one of 'auto', 'float32'"),
        ({"device_map": "auto"}, "CUDA_VISIBLE_DEVICES"),
        ({"processing_class": None}, "Write tokenizer="),
        ({"load_in_4bit": True}, "Write quantize='4bit'"),
        ({"report_to": ["wandb"]}, r"Write options=TrainingOptions\(report_to='wandb'\)"),
        ({"learning_rate": 1e-5}, r"Write options=TrainingOptions\(learning_rate=1e-05\)"),
        ({"per_device_train_batch_size": 4}, r"Write options=TrainingOptions\(batch_size=4\)"),
        ({"dataset_text_field": "content"}, r"Write fields=Fields\(text=\.\.\.\)"),
        ({"trust_remote_code": True}, "never run"),
        ({"retian_set": "r.jsonl"}, "Did you mean retain_set"),
        ({"tokeniser": None}, "Did you mean tokenizer"),
        ({"options": {"epochs": 3}}, r"Write options=TrainingOptions\(\*\*"),
        ({"options": TrainingOptions}, r"Write options=TrainingOptions\(\)"),
        ({"selection": True}, r"Write selection=Selection\("),
        ({"fields": {"text": "content"}}, r"Write fields=Fields\(\*\*"),
        ({"zebra": 1}, "It takes model, method, forget_set"),
    ],
)
def test_foreign_arguments_of_forget(given: dict[str, Any], said: str) -> None:
    """Each is an InputError and a TypeError that names what to write; nothing is loaded."""
    with pytest.raises(ArgumentError, match=said) as caught:
        forget("m", NPO(), **{**PLACES, **given})
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, InputError)


def test_several_foreign_arguments_are_answered_together() -> None:
    """One run is enough to learn all of them."""
    with pytest.raises(ArgumentError, match=r"batch_size=8.*epochs=3"):
        TrainingOptions(per_device_train_batch_size=8, num_train_epochs=3)  # type: ignore[call-arg]


def test_configurations_of_other_libraries_are_translated() -> None:
    """`TrainingArguments` and `LoraConfig` are answered with the TrainingOptions that says the same; no secret is repeated."""
    given = training_arguments(
        per_device_train_batch_size=4,
        num_train_epochs=2,
        learning_rate=2e-5,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        eval_strategy="steps",
        eval_steps=10,
        hub_token="hf_not_to_be_shown",
    )
    with pytest.raises(ArgumentError) as caught:
        forget("m", NPO(), options=given, **PLACES)  # type: ignore[arg-type]
    said = str(caught.value)
    call = said[said.index("TrainingOptions(", said.index("Write")) :].split(". Without")[0]
    assert eval(call) == TrainingOptions(batch_size=4, epochs=2, learning_rate=2e-5, scheduler="cosine", warmup_ratio=0.1)
    assert "eval_strategy" in said
    assert "hf_not_to_be_shown" not in said
    adapter = peft.LoraConfig(r=32, target_modules=["q_proj", "v_proj"], use_dora=True)
    with pytest.raises(ArgumentError, match=r"lora=True, lora_rank=32, lora_targets='(q_proj,v_proj)'\).*use_dora"):
        finetune("m", "d.jsonl", output_dir="never-made", options=adapter)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rate": "1e-5"}, "learning_rate takes a number, got '1e-5'. Write learning_rate=1e-05"),
        ({"batch_size": 8.0}, "Write batch_size=8"),
        ({"bf16": "True"}, "Write bf16=True"),
        ({"bf16": 1}, "Write bf16=True"),
        ({"report_to": ["wandb", "tensorboard"]}, "Write report_to='all'"),
        ({"report_to": None}, "Write report_to='none'"),
        ({"lora_targets": ["q_proj", "v_proj"]}, "Write lora_targets='q_proj,v_proj'"),
        ({"optimizer": "AdamW"}, "Write optimizer='adamw'"),
        ({"optim": "adafactor"}, "adamw or sophia"),
        ({"warmup_steps": 100}, "share of all steps"),
        ({"warmup_steps": 0.1}, "Write warmup_ratio=0.1"),
        ({"lora_r": 16}, "Write lora_rank=16"),
        ({"per_device_batch_size": 8}, "Did you mean batch_size"),
        ({"output_dir": "x"}, "Give it to the function itself"),
        ({"hub_token": "hf_not_to_be_shown"}, "Nothing is ever uploaded"),
        ({"weight_decay": -0.1}, "--weight-decay must be 0"),
        ({"seed": -1}, "--seed must be 0"),
    ],
)
def test_foreign_settings_of_training(given: dict[str, Any], said: str) -> None:
    """`TrainingOptions` names the setting to write."""
    with pytest.raises(InputError) as caught:
        TrainingOptions(**given)
    assert said in str(caught.value)
    assert "hf_not_to_be_shown" not in str(caught.value)


@pytest.mark.parametrize("field", dataclasses.fields(transformers.TrainingArguments), ids=lambda field: field.name)
def test_every_field_of_training_arguments_is_answered(field: Any) -> None:
    """No field of `TrainingArguments` ends in a bare list of what there is."""
    if field.name in {one.name for one in dataclasses.fields(TrainingOptions)}:
        return
    with pytest.raises(ArgumentError) as caught:
        TrainingOptions(**{field.name: "some value"})
    assert "It takes learning_rate" not in str(caught.value)
    assert len(str(caught.value)) > len(f"TrainingOptions has no argument {field.name}. ")


CLASSES = {**method_classes(), "TrainingOptions": TrainingOptions, "Selection": Selection, "Federated": Federated}
CLASSES |= {"DifferentialPrivacy": DifferentialPrivacy}


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_numbers_are_numbers(kind: Any) -> None:
    """No number of a method, a defence or the training may be a text, NaN, infinite, a truth value, negative, or None unasked."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        several = typing.get_origin(hint) is tuple
        members = {one for one in (hint, *typing.get_args(hint)) if one in (int, float)}
        for bad in ("0.5", float("nan"), float("inf"), True, -1, None) if members else ():
            if bad is None and type(None) in typing.get_args(hint):
                continue
            with pytest.raises(InputError):
                kind(**{field.name: (bad,) if several else bad})


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_misspelled_parameters_are_suggested(kind: Any) -> None:
    """Every class of parameters suggests the one that was meant."""
    for field in dataclasses.fields(kind):
        if len(field.name) < 5:
            continue
        wrong = field.name[:2] + field.name[3] + field.name[2] + field.name[4:]
        if wrong != field.name:
            with pytest.raises(ArgumentError, match=rf"Did you mean {field.name}\?"):
                kind(**{wrong: 1})


def test_numpy_scalars_and_enumerations_are_taken() -> None:
    """What can mean one thing only is converted, to what JSON and a manifest can hold."""
    made = TrainingOptions(learning_rate=np.float32(0.5), batch_size=np.int64(8), scheduler=transformers.SchedulerType.COSINE)  # type: ignore[arg-type]
    assert [type(value) for value in (made.learning_rate, made.batch_size, made.scheduler)] == [float, int, str]
    assert json.loads(json.dumps(dataclasses.asdict(made)))["scheduler"] == "cosine"
    assert method_classes()["ssd"](thresholds=[3, 2.0]).thresholds == (3, 2.0)
    assert Settings(dtype=torch.bfloat16).dtype == "bfloat16"  # type: ignore[arg-type]


def test_arguments_by_position_and_missing_ones() -> None:
    """Too many by position are answered with their names, missing ones are all named."""
    with pytest.raises(ArgumentError, match=r"by position \(model, method\), and 4 were given. Name the others: forget_set="):
        forget("m", NPO(), "f.jsonl", "out")  # type: ignore[misc]
    with pytest.raises(ArgumentError, match=r"also needs forget_set=... and output_dir=..."):
        forget("m", NPO())  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="ShardPlan also needs options"):
        ShardPlan(2, 1, "average")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"margin": 0.2}, r"Write settings=Settings\(margin=0.2\)"),
        ({"settings": {"margin": 0.2}}, r"Write settings=Settings\(\*\*"),
        ({"references": "models/one"}, r"Write references=\['models/one'\]"),
        ({"references": Path("models/one")}, "takes several values, got one"),
        ({"device_map": "auto"}, "CUDA_VISIBLE_DEVICES"),
        ({"eval_dataset": "d"}, "Audit the result"),
        ({"holdout": "h.jsonl"}, "Did you mean holdout_set"),
    ],
)
def test_foreign_arguments_of_audit(given: dict[str, Any], said: str) -> None:
    """`audit` answers like `forget`."""
    with pytest.raises(ArgumentError, match=said):
        audit("m", "o", forget_set="f.jsonl", **given)


def test_every_public_function_and_class_is_checked() -> None:
    """Whatever is public and takes arguments answers an unknown one; records, of which there are millions, are left out."""
    left_out = {"Record", "Evidence", "check_certificate", "summary", "write_report"}
    for package in (unlearn, verify):
        for name in set(package.__all__) - left_out:
            value = getattr(package, name)
            if isinstance(value, type) and (issubclass(value, Exception) or name.endswith("Result")):
                continue
            with pytest.raises(ArgumentError, match="device_map"):
                value(device_map="auto")


def test_a_torch_dtype_and_a_tokenizer_folder_are_taken(tokenizer: Any, tokenizer_dir: Path, tmp_path: Path) -> None:
    """`dtype=torch.float32` and `tokenizer="folder"` mean one thing, and the manifest names the precision."""
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:4]))
    model = make_llama(tokenizer)
    model.save_pretrained(tmp_path / "model")  # without its tokenizer
    forget(
        tmp_path / "model",
        NPO(alpha=0.0),
        forget_set=tmp_path / "forget.jsonl",
        output_dir=tmp_path / "out",
        tokenizer=str(tokenizer_dir),
        dtype=torch.float32,
        options=TrainingOptions(max_steps=1, batch_size=2),
    )
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())["about"]
    assert about["inputs"]["dtype"] == "float32"
    by_folder = load_model(model, tokenizer=tokenizer_dir)
    assert by_folder.tokenizer_digest == load_model(model, tokenizer=tokenizer).tokenizer_digest


# ---- command lines ------------------------------------------------------------------------------------------------------------

TRAIN = "train --model m --data d.jsonl --output o"


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("train --model_name_or_path m --train_file d.jsonl --output_dir o", TRAIN),
        ("train --model-name-or-path=m --dataset_name d.jsonl --output-dir o", TRAIN),
        (f"{TRAIN} --per_device_train_batch_size 4", f"{TRAIN} --batch-size 4"),
        (f"{TRAIN} --num_train_epochs 3", f"{TRAIN} --epochs 3"),
        (f"{TRAIN} --torch-dtype bfloat16", f"{TRAIN} --dtype bfloat16"),
        (f"{TRAIN} --torch_dtype torch.float16", f"{TRAIN} --dtype float16"),
        (f"{TRAIN} --load-in-4bit", f"{TRAIN} --quantize 4bit"),
        (f"{TRAIN} --load_in_8bit True", f"{TRAIN} --quantize 8bit"),
        (f"{TRAIN} --load_in_4bit False", TRAIN),
        (f"{TRAIN} --bf16 True", f"{TRAIN} --bf16"),
        (f"{TRAIN} --bf16=false", f"{TRAIN} --no-bf16"),
        (f"{TRAIN} --no-bf16 False", f"{TRAIN} --bf16"),
        (f"{TRAIN} --activation_checkpointing true", f"{TRAIN} --gradient-checkpointing"),
        (f"{TRAIN} --gradient_accumulation_steps 2", f"{TRAIN} --gradient-accumulation 2"),
        (f"{TRAIN} --warmup_steps 0.1", f"{TRAIN} --warmup-ratio 0.1"),
        (f"{TRAIN} --lr_scheduler_type cosine", f"{TRAIN} --scheduler cosine"),
        (f"{TRAIN} --optim adamw_torch_fused", f"{TRAIN} --optimizer adamw"),
        (f"{TRAIN} --save_strategy no", f"{TRAIN} --save-steps 0"),
        (f"{TRAIN} --save_strategy steps --save_steps 5", f"{TRAIN} --save_steps 5"),
        (f"{TRAIN} --max_steps -1", TRAIN),
        (f"{TRAIN} --fp16 False --push_to_hub False --eval_strategy no", TRAIN),
        (f"{TRAIN} --use_peft --lora_r 8", f"{TRAIN} --lora --lora-rank 8"),
        (f"{TRAIN} --lora_target_modules q_proj v_proj", f"{TRAIN} --lora-targets q_proj,v_proj"),
        (f"{TRAIN} --dataset_text_field content", f"{TRAIN} --text-field content"),
        (f"{TRAIN} --weight_decay 0.1 --seed 3", f"{TRAIN} --weight_decay 0.1 --seed 3"),
        ("forget grad-diff --model m", "forget grad_diff --model m"),
        ("request plan --output_dir o", "request plan --output o"),
        ("plan_shards --shards 2", "plan-shards --shards 2"),
        ("forget npo --help", "forget npo --help"),
    ],
)
def test_flags_that_mean_the_same_are_accepted(given: str, ours: str) -> None:
    """HF flags, with dashes or underscores, with values as HF writes them, become ours."""
    assert translated("unlearn", unlearn.cli.main.COMMANDS, given) == f"unlearn {ours}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (f"{TRAIN} --warmup_steps 100", "--warmup-ratio"),
        (f"{TRAIN} --optim adafactor", "adamw or sophia"),
        (f"{TRAIN} --fp16", "Use bf16=True (--bf16)"),
        (f"{TRAIN} --max_seq_length 512", "--overflow split"),
        (f"{TRAIN} --device_map auto", "CUDA_VISIBLE_DEVICES"),
        (f"{TRAIN} --push_to_hub", "Nothing is ever uploaded"),
        (f"{TRAIN} --model_name_or_path other", "mean the same (--model). Give one of them"),
        (f"{TRAIN} --learning-rat 1", "Did you mean --learning-rate?"),
        (f"{TRAIN} --per_device_batch_size 1", "Did you mean --batch-size?"),
        (f"{TRAIN} --zebra 1", "unlearn train --help lists those it has"),
        (f"{TRAIN} trainer.args.learning_rate=1e-5", "write --learning-rate"),
        ("scan --data d.jsonl --model_name_or_path m", "is --model here, and unlearn scan has no such option"),
        ("forget --method npo --model m", "Write unlearn forget npo"),
        ("forget --model m --method=Grad-Diff", "Write unlearn forget grad_diff"),
        ("forget --trainer SimNPO", "Write unlearn forget simnpo"),
        ("forget --method mine.py", "path/to/file.py:Class"),
        ("forget --method", "needs a method"),
        ("forget", "needs a method"),
        ("forget NPOO --model m", "Did you mean unlearn forget npo?"),
        ("forget trainer=GradAscent", "Did you mean unlearn forget gradient_ascent?"),
        ("forget npo forget_split=forget10", "write --forget"),
        ("finetune --model m", "Write unlearn train."),
        ("audit --model m", "Write verify-unlearning audit."),
    ],
)
def test_flags_that_do_not_mean_the_same_say_what_to_write(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, nothing on standard error but the sentence, nothing on standard output."""
    assert unlearn.cli.main.main(shlex.split(given)) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.startswith("error: ")
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_the_auditors_command_line_answers_alike(capsys: pytest.CaptureFixture[str]) -> None:
    """`verify-unlearning` reads the same table, and has a line for every unknown flag."""
    given = "audit --model_name_or_path m --original o --forget f --output_dir x --torch_dtype torch.bfloat16"
    ours = "audit --model m --original o --forget f --output x --dtype bfloat16"
    assert translated("verify-unlearning", verify.cli.main.COMMANDS, given) == f"verify-unlearning {ours}"
    assert verify.cli.main.main(["audit", "--modle", "m", "--eval_strategy", "epoch", "--nonsense"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "Did you mean --model?" in lines[0]
    assert "Audit the result" in lines[1]
    assert verify.cli.main.main(["forget", "npo"]) == 2
    assert "Write unlearn forget METHOD." in capsys.readouterr().err


def test_a_command_line_in_foreign_words_runs(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way: what was asked for in HF words is what the manifest says was done."""
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = f"--model_name_or_path {model_dir} --train_file {tmp_path / 'd.jsonl'} --output_dir {tmp_path / 'out'}"
    more = "--per_device_train_batch_size 2 --max_steps 1 --learning_rate 1e-3 --bf16 False --warmup_steps 0 --optim adamw_torch"
    assert unlearn.cli.main.main(["train", *shlex.split(words), *more.split()]) == 0, capsys.readouterr().err
    options = json.loads((tmp_path / "out" / "manifest.json").read_text())["about"]["options"]
    assert (options["batch_size"], options["max_steps"], options["learning_rate"], options["bf16"]) == (2, 1, 1e-3, False)


@pytest.mark.parametrize("module", ["unlearn", "verify"])
def test_version_needs_no_torch(module: str) -> None:
    """`--version` prints the distribution's version, with neither torch nor transformers imported."""
    program = (
        "import runpy, sys\n"
        "sys.argv = ['program', '--version']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["unlearn-verify 0.1.0", "0 []"]
    assert done.stderr == ""


def test_the_table_knows_dashes() -> None:
    """Names are found with dashes as with underscores."""
    assert foreign_name("torch-dtype") is foreign_name("torch_dtype") is not None
