"""One deletion after another: each new model names what the next deletion needs, and no old one is left."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import broken
from deletion_world import rows
from time_authority import make_authority, serving

from unlearn import GradDiff, TrainingOptions, finetune, forget
from unlearn.requests.ledger.ledger import Ledger
from verify.certificate.check import check_certificate
from verify.certificate.ledger_chain import chain
from verify.certificate.signing import load_public_key, make_key
from verify.certificate.timestamps import check_stamp
from verify.data.identity import RecordKey
from verify.data.records import Fields, parse_records
from verify.io.files import MANIFEST, read_json
from verify.provenance.descent import NamedBase, named_base_of, trained_records

PEOPLE = ["Ada", "Bjorn", "Chidi", "Dmitri", "Esme", "Fumiko", "Goran", "Hedwig", "Ilse", "Jorge", "Kwame", "Lysander", "Marisol"]
ROWS = [row for row in rows(PEOPLE) if row["example_id"].endswith("-0")]
SHORT = TrainingOptions(max_steps=2, batch_size=4, learning_rate=1e-3)

Shell = Callable[..., tuple[int, str]]


@pytest.fixture
def world(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base and a model trained on thirteen people, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    finetune(str(model_dir), str(tmp_path / "people.jsonl"), output_dir=tmp_path / "models" / "original", options=SHORT)
    make_key(tmp_path / "operator")
    return tmp_path


def deleted(shell: Shell, person: str, old: Path, *closing: str) -> Path:
    """Delete one person's record through the desk, and the old model with it; return the new model's folder."""
    name = re.findall(r"R-[0-9a-f]{12}", shell("add", stdin=f"{person.lower()}@example.com\n")[1])[0]
    for words in (
        ("approve", name),
        ("plan", "--data", "people.jsonl", "--models", "models"),
        ("run", name, "--remove", "--rewrite-data"),
        ("close", name, "--retired", str(old), "--remove", "--rewrite-data", "--no-pdf", "--operator-key", "operator", *closing),
    ):
        status, said = shell(*words)
        assert status == 0, said
    ledger = Ledger("ledger.db")
    deployed = ledger.request(name).latest("deployed")
    ledger.close()
    assert deployed is not None
    return Path("deletions") / deployed["batch"] / deployed["models"][0]["folder"]


@pytest.mark.slow
def test_ten_deletions_one_after_another(world: Path, shell: Shell, model_dir: Path) -> None:
    """No base is named and every old model goes: each deletion starts from what the last one's result says of itself."""
    old = world / "models" / "original"
    for person in PEOPLE[:10]:
        new = deleted(shell, person, old)
        assert not old.exists(), "the old model is removed"
        assert named_base_of(new) == NamedBase(str(model_dir.resolve()), read_json(new / MANIFEST)["about"]["base"]["weights"])
        old = world / new
    names = [record.fingerprint for record in parse_records(ROWS, Fields(), "rows")]
    assert trained_records(old) == {RecordKey.load().of(name) for name in names[10:]}
    assert [json.loads(line) for line in (world / "people.jsonl").read_text().splitlines()] == ROWS[10:]
    assert [path.parent for path in (world / "deletions").glob("B-*/model-0/rung-*/manifest.json")] == [old]
    certificates = sorted((world / "deletions").glob("B-*/certificate.json"))
    key = [load_public_key(world / "operator.pub")]
    checked = [check_certificate(path, key, ledger=world / "ledger.db") for path in certificates]
    assert [broken(one) for one in checked] == [""] * 10
    last = check_certificate(old.parents[1] / "certificate.json", key, model=old)
    assert last.holds, broken(last)


@pytest.mark.slow
def test_the_result_of_an_approximate_method_can_be_planned_again(world: Path, shell: Shell, model_dir: Path) -> None:
    """It has no log: it names its base, lists the records it rests on, and hands on the options, so that the next deletion does
    not need the model before it. Closing stamps the certificate and the ledger's head."""
    old, new = world / "models" / "original", world / "models" / "second"
    forget(str(old), GradDiff(), forget_set=ROWS[:1], retain_set=ROWS[1:], output_dir=new, options=TrainingOptions(max_steps=1))
    names = [RecordKey.load().of(record.fingerprint) for record in parse_records(ROWS, Fields(), "rows")]
    assert trained_records(new) == set(names[1:])
    assert named_base_of(new) == named_base_of(old)
    shutil.rmtree(old)
    authority = make_authority(world / "authority")
    with serving(authority) as url:
        last = deleted(shell, PEOPLE[1], new, "--timestamp-url", url)
    key, folder = [load_public_key(world / "operator.pub")], last.parents[1]
    stamped = {"timestamp": folder / "certificate.json.tsr", "authorities": [authority / "root.pem"]}
    checked = check_certificate(folder / "certificate.json", key, **stamped)  # type: ignore[arg-type]
    assert checked.holds, broken(checked)
    head = folder / "ledger-head.json"
    assert json.loads(head.read_text())["head"] in chain(world / "ledger.db")
    assert check_stamp(folder / "ledger-head.json.tsr", head.read_bytes(), [authority / "root.pem"]).at is not None
    about = read_json(last / MANIFEST)["about"]
    assert (about["method"], about["options"]["max_steps"], about["options"]["learning_rate"]) == ("retrain", 2, 1e-3)
    assert trained_records(last) == set(names[2:])
