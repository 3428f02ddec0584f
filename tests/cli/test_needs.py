"""Options that have no effect are refused: a table of every such combination, and the rules themselves."""

import dataclasses
import shlex
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import unlearn.cli.main
import verify.cli.main
from unlearn.methods import method_catalogue
from verify.cli.foreign_flags import find_command
from verify.cli.needs import alternatives, require_effect
from verify.errors import InputError

PROGRAMS = {"unlearn": unlearn.cli.main, "verify": verify.cli.main}
TRAIN = "unlearn train --model m --data d --output o"
FORGET = "--model m --forget f --output o"
AUDIT = "verify audit --model m --original o --forget f --output out"
REEXECUTE = "verify reexecute --model m --base b --data d --forget f --output p"
WITHOUT_EFFECT = [
    *(
        (f"{TRAIN} {flag}", "only with --lora or with --shards")
        for flag in ("--lora-rank 4", "--lora-rank 8", "--lora-targets q_proj")
    ),
    (f"{TRAIN} --lora-alpha=32", "--lora-alpha has an effect only with --lora or with --shards. Change that, or leave"),
    (f"{TRAIN} --lora_dropout 0.1 --no-lora", "--lora-dropout has an effect only with --lora"),
    (f"{TRAIN} --epochs 2 --max-steps 10", "--epochs has no effect with --max-steps. Leave one of them out."),
    (f"{TRAIN} --scheduler constant --warmup-ratio 0.1", "--warmup-ratio has no effect with --scheduler constant"),
    (f"{TRAIN} --keep-checkpoints 2", "--keep-checkpoints has an effect only with --save-steps. Give --save-steps as well"),
    (f"{TRAIN} --keep-checkpoints 2 --save-steps 0", "only with --save-steps"),
    (f"{TRAIN} --save-steps 5 --shards 2", "--save-steps has no effect with --shards"),
    (f"{TRAIN} --slices 4", "only with --shards"),
    (f"{TRAIN} --combine sum --shards 0", "only with --shards"),
    (f"{TRAIN} --level-table-share 0.25", "only with --level-table"),
    (f"{TRAIN} --workers 1", "only with --level-table"),
    (f"{TRAIN} --operator-key k", "only with --level-table"),
    (f"{TRAIN} --level-table 8 --holdout h --holdout-share 0.1", "--holdout has no effect with --holdout-share"),
    (f"{TRAIN} --level-table 8 --holdout h --workers 2 --pool-engine dask://h:1", "--workers has no effect with --pool-engine"),
    (f"{TRAIN} --noise-seed 1", "only with --defense dp"),
    (f"{TRAIN} --defense dp --keep-updates False", "only with --defense federated"),
    (f"{TRAIN} --defense federated --warmup-ratio 0.1", "--warmup-ratio has an effect only with --scheduler or without"),
    (f"{TRAIN} --defense dp --report-to tensorboard", "--report-to has no effect with --defense dp"),
    (f"unlearn forget npo {FORGET} --lora-rank 4", "only with --lora."),
    (f"unlearn forget npo {FORGET} --no-select --look-every 5 --retain r", "--look-every has an effect only with --select"),
    (f"unlearn forget npo {FORGET} --utility-floor 0.8", "--utility-floor has an effect only with --retain or with --data"),
    (f"unlearn forget npo {FORGET} --no-select --holdout h --retain r", "--holdout has an effect only with --select"),
    (f"unlearn forget gradient_ascent {FORGET} --warmup-ratio 0.1", "only with --scheduler"),
    (f"unlearn forget rmu {FORGET} --c 3 --adaptive 5", "--c has no effect with --adaptive"),
    (f"unlearn forget task_vector {FORGET} --mask-share 0.2 --per layer", "only with --per mask"),
    (f"unlearn forget level {FORGET} --sources base --share 0.1", "--share has an effect only with --sources mixture or with"),
    (f"unlearn forget level {FORGET} --mixture 0.5", "--mixture has an effect only with --holdout"),
    (f"unlearn forget auto {FORGET} --rates 1", "--rates has an effect only with --references"),
    *(
        (f"unlearn forget {name} {FORGET} --learning-rate 1e-3", f"--learning-rate has no effect here: {name} does not train by")
        for name in ("fisher", "ssd", "rollback", "sisa", "shard_vectors", "client_retrain", "federaser")
    ),
    (f"unlearn forget rollback {FORGET} --seed 1", "of the training options it reads none. Leave it out."),
    (f"unlearn forget ssd {FORGET} --lora", "of the training options it reads --bf16 and --seed. Leave it out."),
    *(
        (f"unlearn forget {name} {FORGET} --holdout h", "reads no never-trained records")
        for name in ("retrain", "sisa", "federaser")
    ),
    ("unlearn sweep --model m --forget f --retain r --grid g --output o --seed 3", "each of --seeds. Leave it out."),
    ("unlearn request recipients R --kind processor", "--kind has an effect only with --add"),
    ("unlearn request recipients R --due 2026-01-01", "--due has an effect only with --add"),
    ("unlearn request recipients R --by X --evidence f", "--by has an effect only with --confirmed"),
    ("unlearn request recipients R --on 2026-01-01", "--on has an effect only with --told or with --confirmed"),
    ("unlearn request recipients R --reason X", "only with --unreachable"),
    ("unlearn request recipients R --unreachable X", "only with --reason"),
    ("unlearn request plan --data d --models m --no-reexecution --commitments c", "only with --reexecution"),
    ("unlearn request plan --data d --models m --accept-reference-differences base", "only with --references"),
    (
        "unlearn request plan --data d --models m --level-table-key k --references r",
        "--level-table-key has no effect with --references",
    ),
    ("unlearn request plan --data d --models m --channels int8 --relearning-rate 1e-4", "without --channels or with"),
    ("unlearn request run R --rewrite-data", "--rewrite-data has an effect only with --remove"),
    ("unlearn request close R --rewrite-data", "--rewrite-data has an effect only with --remove"),
    ("unlearn request close R --auditor-key k", "only with --operator-key"),
    ("unlearn serve --tokens t --key k --domain d --certificate c", "only with --private-key"),
    ("unlearn serve --tokens t --key k --domain d --private-key c", "only with --certificate"),
    ("unlearn serve --tokens t --key k --domain d --callback-networks 10.0.0.0/8", "only with --callback-hosts"),
    (f"{AUDIT} --utility-tolerance 0.2", "only with --retain or with --data"),
    (f"{AUDIT} --retain-records 10", "only with --retain or with --data"),
    (f"{AUDIT} --twins", "only with --holdout"),
    (f"{AUDIT} --shard-siblings", "only with --holdout"),
    (f"{AUDIT} --expected-audits 3", "only with --holdout"),
    (f"{AUDIT} --accept-used-holdout", "only with --holdout"),
    (f"{AUDIT} --accept-reference-differences base", "only with --references"),
    (f"{AUDIT} --reference-proofs p", "only with --references"),
    (f"{AUDIT} --level-table-key k --references r", "only with --level-table"),
    (f"{AUDIT} --channels int8 --references r", "--channels has an effect only with --channels exact or with --holdout"),
    (f"{AUDIT} --channels int8 --holdout h", "--references or with --level-table"),
    (f"{AUDIT} --rewordings w --references r", "--rewordings has an effect only with --holdout or with --registration"),
    (f"{AUDIT} --holdout h --references r --channels int8 --relearning-rate 1e-4", "--relearning-rate has an effect only without"),
    (f"{AUDIT} --registration r --margin 0.1", "--margin has no effect with --registration. Leave one of them out."),
    (f"{AUDIT} --registration r --seed 0", "--seed has no effect with --registration"),
    ("verify register --output o --forget f --twins", "only with --holdout"),
    ("verify register --output o --forget f --utility-ceiling 2", "only with --retain or with --data"),
    ("verify power --audit a --forget 10", "--forget has no effect with --audit"),
    ("verify power --audit a --margin 0.2", "--margin has no effect with --audit"),
    ("verify power --forget 10 --per-subject 2", "only with --level-table"),
    ("verify power --forget 10 --epsilon 2", "only with --canaries"),
    (
        "verify probe --model m --original o --references r s --forget f --output o --base b --probes int8",
        "only without --probes or with",
    ),
    ("verify muse --model m --forget f --holdout h", "only with --retrained"),
    ("verify muse --model m --forget f --retrained r", "only with --holdout"),
    (f"{REEXECUTE} --requested 2026-01-01", "only with --commitment"),
    (f"{REEXECUTE} --from-base", "only with --commitment"),
    (f"{REEXECUTE} --from-base --commitment c", "only with --requested"),
    (f"{REEXECUTE} --nonce x --log l", "--nonce has an effect only with --segments or without --log"),
    (f"{REEXECUTE} --nonce x --segments all", "--nonce has no effect with --segments all"),
    (f"{REEXECUTE} --workers 2 --engine dask://h:1", "--workers has no effect with --engine"),
    ("verify check c --key k --timestamp t", "only with --authority"),
    ("verify check c --key k --authority a", "only with --timestamp"),
    ("verify check c --key k --bundle b", "only with --log-key"),
    ("verify check c --key k --log-key b", "only with --bundle"),
    ("verify check c --key k --templates t", "only with --letter"),
    ("verify timestamp f --url u --authority a", "only with --check"),
    ("verify timestamp f --check s", "only with --authority"),
    ("verify deletion-report d --output o --key k", "only with --certificate"),
    ("verify letter d --output o --auditor-key k", "only with --certificate"),
    ("verify letter d --output o --requests R --extension --confirmation", "--confirmation has no effect with --extension"),
]
WITH_EFFECT = [
    f"{TRAIN} --lora --lora-rank 4 --epochs 2 --warmup-ratio 0.1 --save-steps 5 --keep-checkpoints 2",
    f"{TRAIN} --shards 2 --slices 2 --combine sum --lora-rank 4 --lora",
    f"{TRAIN} --max-steps 3 --scheduler cosine --warmup-ratio 0.5 --no-lora --no-bf16",
    f"{TRAIN} --level-table 8 --holdout-share 0.1 --workers 2 --operator-key k --level-table-share 0.25",
    f"{TRAIN} --defense federated --scheduler linear --warmup-ratio 0.1 --rounds 3",
    f"unlearn forget npo {FORGET} --retain r --look-every 4 --holdout h --base b",
    f"unlearn forget npo {FORGET} --no-select",
    f"unlearn forget gradient_ascent {FORGET} --no-select --holdout h",
    f"unlearn forget retrain {FORGET} --data d --base b --lora-rank 4 --learning-rate 1e-3",
    f"unlearn forget lora_negation {FORGET} --retain r --lora-rank 4",
    f"unlearn forget level {FORGET} --data d --base b --holdout h --mixture 0.4 --share 0.1",
    f"unlearn forget ssd {FORGET} --retain r --seed 3 --bf16 --holdout h",
    "unlearn sweep --model m --forget f --retain r --grid g --output o --seeds 3 4 --lora-rank 4",
    "unlearn request run R --remove --rewrite-data",
    "unlearn request run R --no-rewrite-data --no-remove",
    f"{AUDIT} --channels exact",
    f"{AUDIT} --registration r --rewordings w --references a b c --holdout h",
    f"{AUDIT} --accept-reference-differences configuration",
    "verify register --output o --forget f --holdout h --twins --channels relearned --relearning-rate 1e-4 --expected-audits 3",
    "verify power --forget 80 --controls 200 --references 4 --margin 0.2 --canaries 100 --epsilon 2",
    f"{REEXECUTE} --commitment c --requested 2026-01-01 --from-base --nonce x",
    f"{REEXECUTE} --log l --nonce x --segments 3 --workers 2",
]


def run(line: str) -> int:
    """Run a command line without its body."""
    program, *words = shlex.split(line)
    return int(PROGRAMS[program].main(words))


@pytest.mark.slow
@pytest.mark.parametrize(("line", "said"), WITHOUT_EFFECT)
def test_an_option_without_effect_is_refused(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and what the option needs, before any file is read; no traceback, nothing on standard output."""
    assert run(line) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert "leave" in shown.err.lower()


@pytest.mark.parametrize("line", WITH_EFFECT)
def test_an_option_with_its_partner_is_accepted(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has an effect reaches the command."""
    monkeypatch.setattr("verify.cli.dispatch.run_command", lambda _: 7)
    assert run(line) == 7


def kinds() -> Iterator[tuple[str, Any]]:
    """Yield the dataclass of every command, subcommand and method, by its words."""
    for program, module in PROGRAMS.items():
        for name, command in module.COMMANDS.items():
            if not isinstance(command.where, str):
                yield from ((f"{program} {name} {one}", command.resolve([one])[0]) for one in method_catalogue())
                continue
            kind = command.resolve([])[0]
            below = [field for field in dataclasses.fields(kind) if field.name == "command"]
            members = typing.get_args(below[0].type) if below else [kind]
            for member in members:
                yield f"{program} {name}", typing.get_args(member)[0] if typing.get_args(member) else member


def tables(kind: Any) -> Iterator[tuple[Mapping[str, str], Mapping[str, str]]]:
    """Yield needs and unused options of a command and of its parts."""
    yield getattr(kind, "NEEDS", {}), getattr(kind, "UNUSED", {})
    for part in (typing.get_type_hints(kind)[field.name] for field in dataclasses.fields(kind)):
        if dataclasses.is_dataclass(part):
            yield from tables(part)


@pytest.mark.parametrize(("name", "kind"), list(kinds()))
def test_rules_are_about_options_that_the_command_has(name: str, kind: Any) -> None:
    """A rule with a misspelt flag would never, or always, refuse."""
    command = find_command(kind, [], name)
    assert command is not None
    for needs, unused in tables(kind):
        named = {f"--{option.replace('_', '-')}" for option in (*needs, *unused)}
        asked = {one.removeprefix("no ").split()[0] for need in needs.values() for part in alternatives(need) for one in part}
        assert named | asked <= set(command.flags) | {"--shards"}, name


@dataclasses.dataclass(frozen=True)
class Part:
    """Options of a part of a command."""

    NEEDS: ClassVar[Mapping[str, str]] = {"rank": "--lora", "share": "--kind a or --kind b and --data", "seed": "--lora"}

    lora: bool = False
    rank: int = 8
    share: float = 0.5
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Whole:
    """A command."""

    NEEDS: ClassVar[Mapping[str, str]] = {"steps": "no --data", "seed": ""}
    UNUSED: ClassVar[Mapping[str, str]] = {"old": "nobody reads it"}

    kind: tuple[str, ...] = ()
    data: Path | None = None
    steps: int = 0
    old: bool = False
    part: Part = dataclasses.field(default_factory=Part)


@pytest.mark.parametrize(
    ("made", "words", "said"),
    [
        (Whole(), "--rank 8", "--rank has an effect only with --lora. Give --lora as well, or leave --rank out."),
        (Whole(), "--rank=8", "--rank has an effect only with --lora."),
        (Whole(part=Part(lora=True)), "--lora --rank 8", None),
        (Whole(), "", None),
        (Whole(), "--seed 3", None),
        (Whole(data=Path("d")), "--data d --steps 0", "--steps has no effect with --data. Leave one of them out."),
        (Whole(), "--no-old", None),
        (Whole(old=True), "--old", "--old has no effect here: nobody reads it. Leave it out."),
        (
            Whole(kind=("c",), data=Path("d")),
            "--share 1",
            "only with --kind a or with --kind b. Change that, or leave --share out.",
        ),
        (Whole(kind=("c", "b"), data=Path("d")), "--share 1", None),
        (Whole(kind=("a",)), "--share 1", "--share has an effect only with --data."),
        (Whole(old=True), "--old --rank 3", "Leave it out.\n       --rank has"),
    ],
)
def test_rules_mean_what_they_say(made: Whole, words: str, said: str | None) -> None:
    """And, or, no, values, several values, switches that are off, and the command's table before that of its parts."""
    if said is None:
        require_effect(made, words.split())
        return
    with pytest.raises(InputError) as caught:
        require_effect(made, words.split())
    assert said in str(caught.value)


def test_options_of_a_file_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `--config` gives is refused like what is typed, and the command line can complete it."""
    (tmp_path / "c.yaml").write_text("lora-rank: 4\n")
    assert run(f"{TRAIN} --config {tmp_path / 'c.yaml'}") == 2
    assert "--lora-rank has an effect only with --lora" in capsys.readouterr().err
