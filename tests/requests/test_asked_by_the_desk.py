"""The request desk's audits ask in the words that the plan names, registered before anything is unlearned."""

import json
from pathlib import Path
from typing import Any

import pytest
from plans import MODEL, planned
from training_rows import make_rows

from unlearn.requests import auditing
from unlearn.requests.auditing import audit_attempt
from unlearn.requests.batch_folder import REGISTRATION, audit_folder, model_folder
from unlearn.requests.plan import Plan
from unlearn.requests.registering import register_audit
from unlearn.requests.training_sets import TrainingSets
from verify.auditing.registration import Registration
from verify.data.records import Fields, parse_records
from verify.errors import InputError

TEMPLATES = "templates: [{prompt: 'Where is (?P<who>.+)\\?', rewordings: ['Find {who}.', 'The place of {who}?']}]"


def sets(count: int) -> TrainingSets:
    return TrainingSets(
        parse_records(make_rows("gone", count), Fields(), "forget"), parse_records(make_rows("kept", 6), Fields(), "k")
    )


def test_the_plans_templates_are_committed_to_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registration and audit get the file and the chosen channels; a record that no template words stops the run beforehand."""
    (tmp_path / "templates.yaml").write_text(TEMPLATES)
    plan, folder = planned(tmp_path), tmp_path / "batch"
    register_audit(folder, plan, MODEL, sets(4))
    registration = Registration.load(model_folder(folder, plan, MODEL) / REGISTRATION)
    assert registration.rewordings is not None
    assert registration.settings.channels == ("rewordings", "no-prompt")
    given: list[dict[str, Any]] = []

    def audited(*_: Any, output_dir: Path, **named: Any) -> None:
        given.append(named)
        raise InputError("no model is here")

    monkeypatch.setattr(auditing, "audit", audited)
    with pytest.raises(InputError, match="no model"):
        audit_attempt(folder, plan, MODEL, 0, sets(4), [])
    assert given[0]["rewordings"] == plan.rewordings
    assert not audit_folder(folder, plan, MODEL, 0, []).exists()
    (tmp_path / "templates.yaml").write_text(TEMPLATES.replace("Where is", "Who is"))
    with pytest.raises(InputError, match="have no rewording"):
        register_audit(tmp_path / "other", plan, MODEL, sets(4))


@pytest.mark.parametrize(("records", "changes"), [(1, {}), (4, {"holdout": None})])
def test_without_controls_nothing_is_asked_otherwise(tmp_path: Path, records: int, changes: dict[str, Any]) -> None:
    """A single record, or no never-trained records: no commitment, although the plan names templates."""
    (tmp_path / "templates.yaml").write_text(TEMPLATES)
    plan = planned(tmp_path, **changes)
    register_audit(tmp_path / "batch", plan, MODEL, sets(records))
    assert Registration.load(model_folder(tmp_path / "batch", plan, MODEL) / REGISTRATION).rewordings is None
    old = plan.model_dump(mode="json", by_alias=True)
    del old["rewordings"]
    assert Plan.model_validate_json(json.dumps(old)).rewordings is None, "plans of earlier versions name none"
