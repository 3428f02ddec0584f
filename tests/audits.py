"""Evidence as an audit would write it, from a simulated table of scores."""

import hashlib

from verify.attacks.threat_models import threat_models
from verify.judging.protocol import Aside, judge
from verify.schema.evidence import Environment, Evidence, Settings
from verify.schema.parts import AuditedModel, AuditedSet, NotRun, Value
from verify.scores.table import ScoreTable

BLIND = Value(value=0.52, low=0.5, high=0.58, n=200, level=0.95, seed=0)


def weights_of(label: str) -> str:
    """An invented digest of a model's weights."""
    return hashlib.sha256(label.encode()).hexdigest()


def evidence_of(table: ScoreTable, settings: Settings | None = None, aside: Aside | None = None, name: str = "model") -> Evidence:
    """Evidence as an audit of these scores would write it."""
    settings = settings or Settings(planted_draws=40)
    judged = judge(table, settings, aside or Aside(BLIND))
    roles = {model: model.split()[0] if model.startswith("reference") else model for model in table.models()}
    return Evidence(
        created="2026-11-23T10:00:00+00:00",
        duration_seconds=12.0,
        settings=settings,
        models=tuple(
            AuditedModel.model_validate(
                {
                    "label": label,
                    "role": role,
                    "name": name,
                    "weights": weights_of(label),
                    "tokenizer": "b" * 64,
                    "dtype": "float32",
                }
            )
            for label, role in roles.items()
        ),
        sets=tuple(
            AuditedSet(role=role, records=len(block.records), scored_tokens=int(block.tokens.sum()), digest="c" * 64)
            for (model, role), block in table.blocks.items()
            if model == "target"
        ),
        not_run=(NotRun(attack="reference", reason="it needs the base model: give it with --base"),),
        threats=threat_models(),
        environment=Environment(
            unlearn_verify="0", python="3", torch="2", transformers="5", numpy="2", scipy="1", platform="any", device="cpu"
        ),
        **dict(judged),
    )
