"""Evidence as an audit would write it, from a simulated table of scores."""

import hashlib
from typing import Any

from score_tables import table_with_pool

from verify.attacks.threat_models import threat_models
from verify.judging.protocol import Aside, judge
from verify.schema.attack_results import NotRun
from verify.schema.evidence import Environment, Evidence
from verify.schema.inputs import AuditedModel, AuditedSet, Registered
from verify.schema.judged_by import LevelTableUsed
from verify.schema.parts import Value
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable, audited_sets

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
        registration=None if aside is None else aside.registered,
        level_table=None if aside is None else aside.level_table,
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


LEVEL_TABLE = LevelTableUsed(
    digest="1" * 64,
    signer="ab" * 32,
    trusted=True,
    created="2026-10-01T09:00:00+00:00",
    destroyed="2026-10-01T08:59:00+00:00",
    design="2" * 64,
    seed=17,
    models=8,
    judging=8,
    left_out=0.5,
    references=4,
    original=weights_of("original"),
    rows=900,
    rows_signed=912,
    controls=160,
)
"""The table whose numbers `table_with_pool` draws."""
REGISTRATION = Registered(digest="4" * 64, created="2026-11-01T00:00:00+00:00")
BY_TABLE = Settings(rule=4, planted_draws=20)
TABLE_ASIDE = Aside(blind_p=0.4, level_table=LEVEL_TABLE, registered=REGISTRATION)


def evidence_by_table(aside: Aside = TABLE_ASIDE, **world: Any) -> Evidence:
    """Evidence of an audit by a level table; the arguments of `table_with_pool` say what is true."""
    table = table_with_pool(**world)
    return evidence_of(table, BY_TABLE, aside).model_copy(update={"sets": audited_sets(table)})
