"""The command lines are a contract: flags and exit statuses that scripts rely on."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import unlearn.cli.main
import verify.cli.main
from unlearn import Level
from verify.cli.flags import EXIT_STATUS

AUDIT_FLAGS = {
    "--accept-reference-differences",
    "--accept-used-holdout",
    "--model",
    "--original",
    "--forget",
    "--output",
    "--base",
    "--references",
    "--retain",
    "--holdout",
    "--data",
    "--text-field",
    "--prompt-field",
    "--completion-field",
    "--messages-field",
    "--id-field",
    "--subject-field",
    "--secret-field",
    "--read-special-tokens",
    "--attacks",
    "--margin",
    "--alpha",
    "--utility-tolerance",
    "--utility-ceiling",
    "--retain-records",
    "--overflow",
    "--dtype",
    "--seed",
    "--cache",
    "--fresh",
    "--registration",
    "--canaries",
    "--earlier",
    "--level-table",
    "--level-table-key",
    "--looks",
    "--reference-proofs",
    "--twins",
    "--shard-siblings",
    "--expected-audits",
    "--canary-guesses",
    "--epsilon",
    "--channels",
    "--relearning-rate",
    "--rewordings",
    "--rewording-model",
}
TRAINING_FLAGS = {
    "--learning-rate",
    "--epochs",
    "--max-steps",
    "--batch-size",
    "--gradient-accumulation",
    "--scheduler",
    "--warmup-ratio",
    "--weight-decay",
    "--max-grad-norm",
    "--seed",
    "--bf16",
    "--gradient-checkpointing",
    "--lora",
    "--lora-rank",
    "--lora-alpha",
    "--lora-dropout",
    "--lora-targets",
    "--save-steps",
    "--keep-checkpoints",
    "--optimizer",
    "--logging-steps",
    "--report-to",
    "--overflow",
}
FIELD_FLAGS = {flag for flag in AUDIT_FLAGS if flag.endswith("-field")} | {"--read-special-tokens"}
TRAIN_FLAGS = (
    {"--model", "--data", "--output", "--tokenizer", "--dtype", "--quantize", "--canaries", "--shards", "--slices", "--combine"}
    | {"--defense", "--target-epsilon", "--target-delta", "--privacy-unit", "--accountant", "--noise-seed"}
    | {"--level-table", "--level-table-share", "--holdout-share", "--holdout", "--rewordings", "--operator-key"}
    | {"--workers", "--pool-engine"}
    | {"--client-field", "--clients", "--rounds", "--local-epochs", "--engine", "--keep-updates"}
    | FIELD_FLAGS
    | TRAINING_FLAGS
)
FORGET_FLAGS = (
    {"--model", "--forget", "--output", "--retain", "--holdout", "--data", "--base", "--dtype", "--quantize"}
    | FIELD_FLAGS
    | TRAINING_FLAGS
)
SELECTION_FLAGS = {"--select", "--look-every", "--look-records", "--utility-floor"}
"""Of the objectives, which have a best step to keep."""
GRADIENT_FLAGS = {"--project-gradients", "--separate-moments"}
"""Of methods whose steps read forget and retain records."""


def flags_of(main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Every long flag that the help of a command names, without the negated forms."""
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help-all"])
    assert stop.value.code == 0
    return set(re.findall(r"^[^\w-]*(--[a-z][a-z0-9-]*)", capsys.readouterr().out, flags=re.MULTILINE))


def test_audit_flags_are_pinned(capsys: pytest.CaptureFixture[str]) -> None:
    """`verify-unlearning audit` takes exactly these flags."""
    assert flags_of(verify.cli.main.main, ["audit"], capsys) == AUDIT_FLAGS


def test_train_flags_are_pinned(capsys: pytest.CaptureFixture[str]) -> None:
    """`unlearn train` takes exactly these flags."""
    assert flags_of(unlearn.cli.main.main, ["train"], capsys) == TRAIN_FLAGS


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("gradient_ascent", {"--check-every"} | SELECTION_FLAGS),
        ("grad_diff", {"--gamma", "--alpha", "--ceiling"} | SELECTION_FLAGS | GRADIENT_FLAGS),
        ("npo", {"--beta", "--alpha"} | SELECTION_FLAGS | GRADIENT_FLAGS),
        ("task_vector", {"--origin", "--per", "--mask-share", "--tolerance", "--scales", "--control-records"}),
        ("retrain", set()),
        ("client_retrain", set()),
        ("federaser", {"--calibration", "--interval"}),
    ],
)
def test_forget_flags_are_pinned(method: str, own: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`unlearn forget METHOD` takes the common flags and the method's own."""
    assert flags_of(unlearn.cli.main.main, ["forget", method], capsys) == FORGET_FLAGS | own


@pytest.mark.parametrize(
    ("given", "belongs"),
    [
        (["--target-epsilon", "8"], "--defense dp"),
        (["--defense", "dp", "--rounds", "3"], "--defense federated"),
        (["--defense", "federated", "--privacy-unit", "subject"], "--defense dp"),
        (["--defense", "dp", "--shards", "2"], "--shards"),
    ],
)
def test_flags_of_another_defense_are_refused(given: list[str], belongs: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that would be passed over is a usage error that says where it belongs."""
    assert unlearn.cli.main.main(["train", "--model", "m", "--data", "d.jsonl", "--output", "o", *given]) == 2
    assert belongs in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--holdout-share", "0.03"], ["--level-table", "8"]])
def test_shards_refuse_the_flags_of_a_table_that_were_given(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the flag in the command, and none that is not."""
    command = ["train", "--model", "m", "--data", "d.jsonl", "--output", "o", "--shards", "2", *given]
    assert unlearn.cli.main.main(command) == 2
    assert f"--shards cannot be combined with {given[0]}:" in " ".join(capsys.readouterr().err.split())


def test_exit_statuses_are_pinned() -> None:
    """0, 10, 11, 12: what a deployment script may rely on."""
    assert EXIT_STATUS == {"EQUIVALENT_WITHIN": 0, "NOT_FORGOTTEN": 10, "INCONCLUSIVE": 11, "NOT_TESTABLE": 12}


@pytest.mark.parametrize("module", ["unlearn", "verify"])
def test_modules_run_as_commands(module: str) -> None:
    """`python -m unlearn` and `python -m verify` are the two commands."""
    listing = {"unlearn": "methods", "verify": "attacks"}[module]
    done = subprocess.run([sys.executable, "-m", module, listing], capture_output=True, text=True, check=True)
    assert {"unlearn": "npo", "verify": "min_k"}[module] in done.stdout


def test_lists_name_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    """`methods` and `attacks` list what is in the directories, each with its paper."""
    assert unlearn.cli.main.main(["methods"]) == 0
    methods = capsys.readouterr().out
    assert all(name in methods for name in ("gradient_ascent", "grad_diff", "npo", "task_vector", "retrain", "arXiv"))
    assert verify.cli.main.main(["attacks"]) == 0
    attacks = capsys.readouterr().out
    assert all(name in attacks for name in ("loss", "zlib", "reference", "min_k_plus_plus", "verbatim"))


def test_methods_say_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    """What a method demands as it stands: level begins with the base model, unless told to take another source."""
    assert unlearn.cli.main.main(["methods"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "needs:" in line}
    assert lines["level"].endswith("needs: --forget, --retain, --base (by its settings))")
    assert lines["npo"].endswith("needs: --forget, --retain (by its settings))")
    assert lines["grad_diff"].endswith("needs: --forget, --retain)")
    assert [Level(sources=("controls",)).needs_base, Level(sources=("checkpoint", "base")).needs_base] == [False, True]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--beta", "0"], "--beta must be a number greater than 0, got 0.0"),
        (["--scheduler", "step"], "--scheduler must be one of linear, cosine,"),
        (["--scheduler", "warmup_stable_decay"], "got warmup_stable_decay"),
        (["--lora", "--lora-dropout", "1.5"], "--lora-dropout must be at least 0 and below 1, got 1.5"),
        (["--report-to", "wandb"], "pip install wandb"),
    ],
)
def test_values_that_cannot_work_are_usage_errors(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 2 and a sentence before any model is read, never a traceback."""
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", list)
    places = ["--model", "m", "--forget", "f.jsonl", "--retain", "r.jsonl", "--output", str(tmp_path / "out")]
    try:
        status: object = unlearn.cli.main.main(["forget", "npo", *places, *given])
    except SystemExit as stop:
        status = stop.code
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert status == 2
    assert said in error
    assert "Traceback" not in error


def test_usage_errors_exit_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown flag, a missing one and a missing folder are usage errors, without a traceback."""
    assert verify.cli.main.main(["audit", "--nonsense"]) == 2
    with pytest.raises(SystemExit) as stop:
        verify.cli.main.main(["audit", "--model", "m"])
    assert stop.value.code == 2
    forget = tmp_path / "forget.jsonl"
    forget.write_text('{"text": "a b c"}\n{"text": "d e f"}\n')
    given = ["--model", "./no-such-folder", "--original", "./no-such-folder", "--forget", str(forget)]
    assert verify.cli.main.main(["audit", *given, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "does not exist" in error
    assert "Traceback" not in error


def test_settings_out_of_range_name_their_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A margin of 3 is refused with the flag's name."""
    given = ["--model", "m", "--original", "o", "--forget", "f.jsonl", "--output", str(tmp_path / "out"), "--margin", "3"]
    assert verify.cli.main.main(["audit", *given]) == 2
    assert "--margin" in capsys.readouterr().err


def test_a_reader_who_leaves_early_is_no_error() -> None:
    """`| head` ends a command without a traceback."""
    script = "from verify.cli.console import run_command; exit(run_command(lambda: [print('line') for _ in range(99999)]))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
