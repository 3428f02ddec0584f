"""A plan of one model and one request, as the desk would write it."""

from datetime import date
from pathlib import Path
from typing import Any

from unlearn.requests.plan import Plan, PlannedModel
from verify.data.records import Fields
from verify.schema.settings import Settings

MODEL = PlannedModel(
    folder="models/m",
    weights="a" * 64,
    origin="m",
    records=("e" * 32,),
    people=1,
    ladder=("retrain",),
    base=None,
    cost="",
    shown="",
)


def planned(tmp_path: Path, **changes: Any) -> Plan:
    """The plan, with never-trained records in that folder; `changes` replace its fields."""
    holdout = tmp_path / "holdout.jsonl"
    holdout.write_text(
        "".join(f'{{"prompt": "Where is h {n}?", "completion": "There {n}.", "subject_id": "h{n}"}}\n' for n in range(6))
    )
    content: dict[str, Any] = {
        "batch": "B-000000000001",
        "requests": ("R-1",),
        "subjects": (),
        "answer_by": date(2026, 12, 1),
        "data": (),
        "places": (),
        "fields": dict(vars(Fields())),
        "models": (MODEL,),
        "roots": (),
        "references": (),
        "holdout": str(holdout),
        "holdout_divided": True,
        "rewordings": str(tmp_path / "templates.yaml"),
        "settings": Settings(channels=("rewordings", "no-prompt")),
    }
    return Plan(**{**content, **changes})
