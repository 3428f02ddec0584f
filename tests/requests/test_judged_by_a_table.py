"""A deletion from receipt to certificate that a level table judges, and the next one, from the model that the first made."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deletion_world import options, rows
from level_tables import rows_that_left
from tiny_models import make_llama, make_tokenizer

import verify.cli.main
from unlearn import finetune, make_level_table
from verify.certificate.statements import make_key
from verify.io.files import read_json
from verify.provenance.level_table import FOLDER, LevelTable
from verify.schema.evidence import Evidence
from verify.schema.judged_by import ControlsAccount

PEOPLE = [f"Person{number}" for number in range(38)]
Shell = Callable[..., tuple[int, str]]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with twenty people held out, and its signed table, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    tokenizer = make_tokenizer()
    make_llama(tokenizer).save_pretrained("base")
    tokenizer.save_pretrained("base")
    Path("people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(PEOPLE)))
    finetune("base", "people.jsonl", output_dir="models/original", options=replace(options(), epochs=10), holdout_share=20 / 38)
    for role in ("operator", "auditor"):
        make_key(role)
    # A request counts from the beginning of its day, and a table of the same day would not be older.
    before = datetime.now(UTC) - timedelta(days=2)
    monkeypatch.setattr("unlearn.pool.table._now", lambda: before.isoformat(timespec="seconds"))
    make_level_table("models/original", models=4, operator_key="operator")
    return tmp_path


def asked(shell: Shell, *people: str) -> list[str]:
    """Requests of people, approved; their ids."""
    names = [shell("add", stdin=f"{person.lower()}@example.com\n")[1].split()[-1] for person in people]
    assert shell("approve", *names)[0] == 0
    return names


@pytest.mark.slow
def test_from_receipt_to_certificate_by_a_table(
    world: Path, shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reference is trained; evidence and registration name the table; rows leave; the next request is judged by it too."""
    monkeypatch.setattr("verify.judging.measured_power.DRAWS", 20)  # how well power is measured is tested where it is
    before = LevelTable.open("models/original/level-table", "operator.pub")
    controls = {
        str(json.loads(line)["subject_id"]) for path in Path("models/original/holdout").glob("*.jsonl") for line in path.open()
    }
    people = [person for person in PEOPLE if f"{person.lower()}@example.com" not in controls]
    plan = ["--data", "people.jsonl", "--models", "models", "--methods", "retrain", "--no-reexecution"]
    plan += ["--attacks", "loss", "--margin", "0.5"]
    folders = []
    for who, retired in ((people[:3], "models/original"), (people[3:6], None)):
        names = asked(shell, *who)
        status, said = shell("plan", *plan)
        assert (status, "judged by the level table" in said) == (0, True), said
        if retired is None:
            break
        status, said = shell("run", names[0], "--remove", "--rewrite-data", "--accept-exact-rebuild")
        assert "audit by its level table" in said, said
        (folder,) = Path("deletions").glob("B-*")
        (audited,) = folder.glob("model-0/audit-*/evidence.json")
        evidence = Evidence.load(audited)
        assert evidence.level_table is not None
        assert evidence.level_table.digest == before.digest
        assert evidence.verdict in ("EQUIVALENT_WITHIN", "INCONCLUSIVE"), evidence.explanation
        assert evidence.settings.rule == 4
        assert evidence.account == ControlsAccount.of(0.05, None, before.digest, 1)
        if "deployed" not in said and "purged" not in said:
            status, said = shell("run", names[0], "--accept-exact-rebuild", "--remove", "--rewrite-data")
        keys = ["--no-pdf", "--operator-key", "operator", "--auditor-key", "auditor"]
        status, said = shell("close", names[0], "--retired", retired, "--remove", "--rewrite-data", *keys)
        assert status == 0, said
        folders.append(folder)
    made = next(iter(folders[0].glob("model-0/rung-0-retrain")))
    after = LevelTable.open(made / FOLDER, "operator.pub")
    assert rows_that_left(after) == (3 * 8, 0)
    assert not Path("models/original/model.safetensors").exists()
    planned = [read_json(path) for path in Path("deletions").glob("B-*/plan.json")]
    assert {entry["models"][0]["level_table"] for entry in planned} == {
        str((world / "models/original/level-table").resolve()),
        str((world / made / FOLDER).resolve()),
    }
    check = ["check", str(folders[0] / "certificate.json"), "--model", str(made), "--key", "operator.pub", "auditor.pub"]
    status = verify.cli.main.main([*check, "--deletion", str(folders[0] / "deletion.json")])
    said = capsys.readouterr().out
    assert (status, "FAILS" in said) == (0, False), said
