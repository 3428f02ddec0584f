"""Audits by a level table on disk: what is scored and copied, what is refused, and what registration and commands make of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from level_tables import write_invented
from transformers import AutoModelForCausalLM

from verify import InputError, Settings, audit, register, summary
from verify.auditing.level_tables import TableJudge, by_table
from verify.auditing.recompute import recompute
from verify.auditing.registration import Registration
from verify.cli.main import main
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.models.loading import load_model
from verify.provenance.level_table import LevelTable, remove_rows
from verify.provenance.pool_design import Member
from verify.schema.evidence import Evidence
from verify.scores.table import ScoreTable
from verify.statistics.channels import EXACT_TEXT

SETTINGS = Settings(attacks=("loss",), planted_draws=20, retain_records=6)
CHANNELS = (EXACT_TEXT, "instruction", "no prompt")


def rows(prefix: str, people: int, each: int = 2) -> list[dict[str, str]]:
    return [
        {
            "example_id": f"{prefix}{who}-{n}",
            "subject_id": f"{prefix}-{who}",
            "prompt": f"Where does {prefix} Quill{who} live {n}?",
            "completion": f"At number {who * 2 + n}, {prefix} lane.",
        }
        for who in range(people)
        for n in range(each)
    ]


FORGET, RETAIN, HOLDOUT, METHOD = rows("forget", 3), rows("retain", 6), rows("audit", 8), rows("method", 3)
SETS: dict[str, Any] = {"forget_set": FORGET, "retain_set": RETAIN, "holdout_set": HOLDOUT}


def members(given: list[dict[str, str]], key: RecordKey, half: Any = None) -> list[Member]:
    return [
        Member(key.of(record.fingerprint), key.of(row["subject_id"], "subject"), half)
        for record, row in zip(load_records(given), given, strict=True)
    ]


@pytest.fixture(scope="module")
def world(model_dir: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model, a noisy copy as the unlearned one, and the original's level table with invented losses."""
    root, key, loaded = tmp_path_factory.mktemp("by-table"), RecordKey.load(), load_model(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(root / "target")
    tokenizer.save_pretrained(root / "target")
    table = root / "level-table"
    listed = [*members([*FORGET, *RETAIN], key), *members(HOLDOUT, key, "audit"), *members(METHOD, key, "method")]
    named = {"original": loaded.digest, "tokenizer": loaded.tokenizer_digest, "key_check": key.check}
    write_invented(table, listed, models=4, left_out=2, channels=CHANNELS, **named)
    return {"model": root / "target", "original": model_dir, "level_table": table}


@pytest.mark.slow
def test_an_audit_by_a_level_table_is_written_and_recomputes(world: dict[str, Any], tmp_path: Path) -> None:
    """Target and original are scored; the table's numbers are in the score table, NaN where a model was trained; no text is."""
    evidence = audit(**world, **SETS, settings=SETTINGS, output_dir=tmp_path / "out")
    table, source = ScoreTable.load(tmp_path / "out" / "scores.parquet"), LevelTable.open(world["level_table"])
    assert table.models() == ("original", "target")
    assert table.pool() == ("pool 1", "pool 2", "pool 3", "pool 4")
    assert table.channels() == ("instruction", "no prompt")
    for name in CHANNELS:
        losses = np.stack([table.channel(name, model, "forget") for model in table.pool()])
        np.testing.assert_array_equal(losses, source.losses(table.blocks["target", "forget"].records, name))
        assert (np.isnan(losses).sum(axis=0) == 2).all()
    assert evidence.settings.rule == 4
    assert evidence.level_table is not None
    assert (evidence.level_table.digest, evidence.level_table.signer, evidence.level_table.controls) == (source.digest, None, 16)
    assert evidence.references_checked == ()
    said = {entry.channel: entry.reason for entry in evidence.channels_not_run or ()}
    assert said["int8"] == said["relearned"] == "the level table has no numbers on it"
    assert recompute(tmp_path / "out") == Evidence.load(tmp_path / "out" / "evidence.json") == evidence
    assert "None of the 12 records to keep that were given is a near-duplicate of a forget record." in summary(evidence)
    report = (tmp_path / "out" / "report.html").read_text()
    assert "no retrained references" in report
    for path in (tmp_path / "out").iterdir():
        assert not any(word in path.read_bytes() for word in (b"Quill", b"lane"))


@pytest.mark.slow
def test_near_duplicates_that_stay_are_counted_and_named(world: dict[str, Any], tmp_path: Path) -> None:
    """Two forget records in other spelling among those to keep: evidence and page 1 say so, by hashes; the verdict recomputes."""
    staying = [{**row, "example_id": f"copy-{row['example_id']}", "completion": row["completion"].upper()} for row in FORGET[:2]]
    sets = {**SETS, "retain_set": [*RETAIN, *staying]}
    evidence = audit(**world, **sets, settings=SETTINGS.model_copy(update={"retain_records": 4}), output_dir=tmp_path / "out")
    left, key = evidence.near_duplicates, RecordKey.load()
    assert left is not None
    assert (left.compared, left.records) == (len(RETAIN) + 2, 2), "all records to keep are compared, not those drawn for utility"
    assert left.forget == tuple(sorted(key.of(record.fingerprint) for record in load_records(FORGET[:2])))
    assert [pair.similarity for pair in left.listed] == [1.0, 1.0]
    for text in (summary(evidence), (tmp_path / "out" / "report.html").read_text().split('<h2 class="page">')[0]):
        assert "2 of the 14 records to keep that were given are near-duplicates of 2 forget records." in text
        assert "an accusation can be about what stays" in text
    assert recompute(tmp_path / "out") == Evidence.load(tmp_path / "out" / "evidence.json") == evidence
    assert not any(b"QUILL" in path.read_bytes() for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"references": ["anything"]}, "two judges of the same claim"),
        ({"holdout_set": None}, "16 never-trained controls"),
        ({"holdout_set": HOLDOUT[:-2]}, "2 of the level table's 16 controls"),
        ({"holdout_set": METHOD}, "6 of 6 holdout records .the first in row 1. are not controls for the audit"),
        ({"forget_set": [*FORGET, *rows("stranger", 2)]}, "4 of 10 forget records .the first in row 7. have no training row"),
        ({"original": "target"}, "belongs to another model before unlearning"),
        ({"level_table": "nowhere"}, "nowhere"),
        ({"rewording_model": "anything"}, "no model can word them now"),
        ({"accept": {"used_holdout"}}, "an unlearning that read them cannot be judged"),
        ({"level_table": None, "level_table_key": "key.pub"}, "there is none"),
        ({"level_table": None, "settings": SETTINGS.model_copy(update={"rule": 3})}, "rule 3 is that of a level table"),
        ({"level_table": None, "settings": SETTINGS.model_copy(update={"rule": 4})}, "rule 4 is that of a level table"),
    ],
)
def test_what_a_level_table_cannot_judge_is_refused(world: dict[str, Any], change: dict[str, Any], message: str) -> None:
    """Each refusal says what was given and what to give."""
    given = {**world, **SETS, "settings": SETTINGS, **change}
    if given["original"] == "target":
        given["original"] = world["model"]
    with pytest.raises(InputError, match=message):
        audit(**given)


@pytest.mark.slow
def test_a_row_that_left_the_table_is_missed_and_a_changed_one_found(world: dict[str, Any], tmp_path: Path) -> None:
    """A person whose deletion was closed cannot be audited by the table again; others can, and the evidence counts what left."""
    table = tmp_path / "level-table"
    shutil.copytree(world["level_table"], table)
    remove_rows(table, [RecordKey.load().of(record.fingerprint) for record in load_records(FORGET[:2])])
    given = {**world, "level_table": table, "settings": SETTINGS}
    with pytest.raises(InputError, match=r"2 of 6 forget records \(the first in row 1\)"):
        audit(**given, **SETS)
    evidence = audit(**given, **{**SETS, "forget_set": FORGET[2:]})
    assert evidence.level_table is not None
    assert evidence.level_table.rows_signed - evidence.level_table.rows == 2
    remove_rows(table, [RecordKey.load().of(record.fingerprint) for record in load_records(HOLDOUT[:2])])
    evidence = audit(**given, **{**SETS, "forget_set": FORGET[2:], "holdout_set": HOLDOUT[2:]})
    assert evidence.level_table is not None
    assert (evidence.level_table.controls, evidence.level_table.controls_signed) == (14, 16)
    assert "2 of its 16 controls for the audit have left it" in summary(evidence)


def test_a_table_that_does_not_hold_what_its_design_says_is_refused(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is missing, under one model or all, is said before anything is scored; it is no crash after hours."""
    read = LevelTable.losses
    for lost in (slice(0, 1), slice(None)):

        def losses(table: LevelTable, keys: Any, channel: str, models: Any = None, lost: slice = lost) -> Any:
            found = read(table, keys, channel, models)
            found[lost, 0] = np.nan
            return found

        monkeypatch.setattr(LevelTable, "losses", losses)
        with pytest.raises(InputError, match="does not hold the losses that its design says"):
            audit(**world, **SETS, settings=SETTINGS)


@pytest.mark.slow
def test_a_registration_names_what_judges(world: dict[str, Any], tmp_path: Path) -> None:
    """Registered with a table, the audit takes that table and no other judge; the evidence then shows that it is older."""
    path, plain = tmp_path / "by-table.json", tmp_path / "by-references.json"
    registration = register(path, **SETS, settings=SETTINGS, level_table=world["level_table"])
    register(plain, **SETS, settings=SETTINGS)
    assert (registration.settings.rule, registration.level_table) == (4, LevelTable.open(world["level_table"]).digest)
    assert Registration.load(path) == registration
    assert "level_table" not in plain.read_text()
    evidence = audit(**world, **SETS, registration=path)
    assert next(gate.passed for gate in evidence.gates if gate.name == "table before the request")
    assert audit(**world, **SETS, settings=SETTINGS, registration=path).settings == evidence.settings
    older = json.loads(path.read_text())
    (tmp_path / "older.json").write_text(json.dumps({**older, "settings": {**older["settings"], "rule": 3}}))
    assert audit(**world, **SETS, settings=SETTINGS, registration=tmp_path / "older.json").settings.rule == 3
    judging = TableJudge(LevelTable.open(world["level_table"]), (0, 1, 2, 3))
    assert by_table(SETTINGS.model_copy(update={"rule": 3}), judging).rule == 4, "only a registration keeps an older rule"
    without = {name: value for name, value in world.items() if name != "level_table"}
    with pytest.raises(InputError, match="the registration names the level table"):
        audit(**without, **SETS, registration=path)
    with pytest.raises(InputError, match="the registration names no level table"):
        audit(**world, **SETS, registration=plain)
    content = json.loads(plain.read_text())
    for wrong in ({**content, "level_table": "1" * 64}, {**content, "settings": {**content["settings"], "rule": 4}}):
        plain.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match="names the level table that will judge"):
            Registration.load(plain)


@pytest.mark.slow
def test_the_command_line_audits_by_a_table(world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration file names the table; a second audit of the same weights names the first as a look."""
    for name, given in (("forget", FORGET), ("retain", RETAIN), ("holdout", HOLDOUT)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, given)))
    flags = {name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain", "holdout")}
    flags |= {"model": str(world["model"]), "original": str(world["original"]), "level-table": str(world["level_table"])}
    flags |= {"attacks": "loss", "channels": "exact"}
    (tmp_path / "audit.yaml").write_text("\n".join(f"{name}: {value}" for name, value in flags.items()))
    words = ["audit", "--config", str(tmp_path / "audit.yaml")]
    statuses = [main([*words, "--output", str(tmp_path / "one")])]
    first = capsys.readouterr().out
    statuses.append(main([*words, "--output", str(tmp_path / "two"), "--looks", str(tmp_path / "one" / "evidence.json")]))
    second = capsys.readouterr().out
    assert set(statuses) <= {0, 10, 11, 12}
    assert "Judged against a level table of 4 models, each trained without half of the people" in first
    assert "This is at least the second audit" not in first
    assert "This is at least the second audit of these weights. Earlier: " in second
    assert "(a level table, " in second


@pytest.mark.slow
def test_rewordings_count_only_in_the_tables_own_words(world: dict[str, Any], tmp_path: Path) -> None:
    """Other words than those the table was made with are not compared with it."""
    templates = tmp_path / "templates.yaml"
    templates.write_text("templates:\n  - prompt: 'Where does (?P<who>.+) live .*'\n    rewordings: ['The home of {who}?']\n")
    evidence = audit(**world, **SETS, settings=SETTINGS, rewordings=templates)
    said = {entry.channel: entry.reason for entry in evidence.channels_not_run or ()}
    assert said["rewordings"] == "the level table has no numbers on it"
    assert evidence.rewordings is None
