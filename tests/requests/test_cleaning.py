"""What is left is named without naming anybody, and stays only for a reason."""

import json
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from training_rows import make_rows

from unlearn import TrainingOptions, finetune
from unlearn.requests.cleaning import IN_FILE, IN_SERVICE, Left, carried_over, clean, read_reasons
from unlearn.requests.ledger import Ledger, NewRequest
from unlearn.requests.planning import Choices, draft, note
from unlearn.requests.plans import Plan
from verify.errors import InputError
from verify.evidence import Settings
from verify.identity import RecordKey

ROWS = make_rows("forget", 8)
ASKING = ROWS[0]["subject_id"]


@pytest.fixture
def planned(ledger: Ledger, model_dir: Path, tmp_path: Path) -> tuple[Path, Plan]:
    """A batch that removes one person's record from one model; its folder and plan."""

    data, models = tmp_path / "models" / "train.jsonl", tmp_path / "models"
    models.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    finetune(str(model_dir), str(data), output_dir=models / "served", options=TrainingOptions(epochs=1))
    key = RecordKey.load()
    name = ledger.add(NewRequest((key.of(ASKING, "subject"),), "gdpr", date(2026, 11, 2)))
    request = ledger.advance(name, "identity_verified")
    chosen = Choices((str(data),), (str(models),), output=tmp_path / "deletions", settings=Settings(attacks=("loss",)))
    found = draft(ledger, [request], chosen, key)
    note(ledger, found, chosen.output)
    (plan,) = found.plans
    return chosen.output / plan.batch, plan


def test_what_stays_has_a_reason_or_is_asked_for(planned: tuple[Path, Plan], ledger: Ledger, tmp_path: Path) -> None:
    """A log is removed or unexplained; the old model stays while it serves; rows of the training file must go before the end."""
    folder, plan = planned
    key, models = RecordKey.load(), tmp_path / "models"
    (models / f"{ASKING}.log").write_text(ROWS[0]["completion"])
    seen = clean(ledger, folder, plan, key)
    assert [copy["kind"] for copy in seen.unexplained] == ["log"]
    assert {copy["reason"] for copy in seen.residual} == {"", IN_SERVICE, IN_FILE}
    assert ASKING.lower() not in str(seen).lower(), "a telling name is a keyed hash"
    kept = clean(ledger, folder, plan, key, reasons={seen.unexplained[0]["place"]: "a court asked for it"})
    assert not kept.unexplained
    killed = mock.patch("unlearn.requests.purging.remove", side_effect=KeyboardInterrupt)
    with killed, pytest.raises(KeyboardInterrupt):
        clean(ledger, folder, plan, key, remove=True)
    (models / f"{ASKING}.log").unlink()  # it was removed, and the process died before it could say so
    done = clean(ledger, folder, plan, key, remove=True)
    assert (dict(done.removed), done.unexplained) == ({"log": 1}, ())
    assert (models / "served").is_dir()
    weights = plan.models[0].weights
    last = clean(ledger, folder, plan, key, retired=[weights], closing=True)
    assert sorted(copy["kind"] for copy in last.unexplained) == ["model", "training file, 1 rows"]
    how: dict[str, Any] = {"retired": [weights], "remove": True, "closing": True}
    blocked = clean(ledger, folder, plan, key, **how)
    assert (len(blocked.unexplained), (models / "served").exists()) == (2, True), "nothing goes while something else is open"
    (models / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS if row["subject_id"] != ASKING))
    gone = clean(ledger, folder, plan, key, **how)
    assert (dict(gone.removed), gone.unexplained, (models / "served").exists()) == ({"log": 1, "model": 1}, (), False)


def test_what_was_explained_stays_explained(tmp_path: Path) -> None:
    """A copy that an earlier search found is still listed when its text can no longer be searched for, unless it is gone."""
    (tmp_path / "kept.log").write_text("x")
    reasons = {"kept.log": "a court asked for it", "gone.log": "the same", "keyed hash 1": "the same"}
    earlier = [{"place": place, "kind": "log", "reason": reason} for place, reason in reasons.items()]
    earlier.append({"place": "served", "kind": "model in service", "reason": IN_SERVICE})
    found = carried_over(earlier, Left((), {}), [str(tmp_path)])
    assert [copy["place"] for copy in found.residual] == ["kept.log", "keyed hash 1"]


def test_reasons_are_reasons() -> None:
    """An empty reason is none; anything but an object from place to text is refused."""
    assert read_reasons({"a": "b"}) == {"a": "b"}
    for bad in ([], {"a": " "}, {"a": 1}, None):
        with pytest.raises(InputError, match="reasons"):
            read_reasons(bad)
