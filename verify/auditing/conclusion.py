"""Conclusion of an audit: the verdict on a scored case, and the evidence that documents it."""

import platform
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata

from verify.attacks.threat_models import threat_models
from verify.auditing.case import Case
from verify.auditing.case_scores import Scored
from verify.auditing.level_tables import with_table
from verify.auditing.looks import found_looks
from verify.auditing.shard_siblings import with_siblings
from verify.judging.protocol import Aside, judge
from verify.judging.representation_claim import judge_representation
from verify.schema.evidence import Environment, Evidence, Judgement
from verify.schema.settings import Settings
from verify.schema.siblings import ShardChecked
from verify.scores.channels import Channels
from verify.scores.table import ScoreTable, audited_sets


@dataclass(frozen=True, eq=False, repr=False)
class Conclusion:
    """What an audit found.

    Attributes:
        judgement: the verdict, with every number that it follows from.
        table: the scores that were judged, with those of a level table or of single shards.
        aside: the other inputs of the verdict.
        shards: the shards that were scored by themselves; None where they do not judge.
    """

    judgement: Judgement
    table: ScoreTable
    aside: Aside
    shards: tuple[ShardChecked, ...] | None


def conclude(case: Case, scored: Scored) -> Conclusion:
    """Judge a case by the scores of its models.

    Raises:
        InputError: a shard is not the one that its training log describes.
    """
    states, alpha = scored.states, case.settings.alpha
    aside = replace(
        case.aside,
        representation=None if states is None else judge_representation(states, alpha),
        not_run=scored.channels.listed(),
    )
    table, aside = with_table(case.table, scored.scorer, aside)
    table, shards = with_siblings(case.shards, table, scored.scorer, case.models.tokenizer, case.models.base)
    return Conclusion(judge(table, case.settings, aside), table, aside, shards)


def evidence_of(case: Case, scored: Scored, found: Conclusion, started: float) -> Evidence:
    """Put together what the audit found, and name the earlier audits of the same weights.

    Args:
        case, scored, found: the audit.
        started: when it began, on the monotonic clock, in seconds.

    Raises:
        InputError: the outcome of a re-execution is about none of the references, or a look is an audit of other weights.
    """
    scorer, channels = scored.scorer, scored.channels
    checked = case.checked.with_same_weights(scorer.same_weights).with_executions(scorer.models)
    evidence = Evidence(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_seconds=time.monotonic() - started,
        registration=found.aside.registered,
        level_table=found.aside.level_table,
        account=found.aside.account,
        references_checked=checked.references,
        holdout_checked=checked.holdout,
        shards_checked=found.shards,
        near_duplicates=case.near_duplicates,
        settings=_resolved(case.settings, found.table, channels),
        models=tuple(scorer.models),
        configuration_differences=tuple(scorer.configurations.found),
        sets=audited_sets(found.table),
        not_run=scorer.not_run(),
        threats=threat_models(),
        environment=_environment(scorer.device),
        **dict(found.judgement),
    )
    return evidence.model_copy(
        update={
            "channels_not_run": channels.listed(),
            "rewordings": case.wording.used(found.table, case.key),
            "looks": found_looks(case.past.looks, evidence),
        }
    )


def _resolved(settings: Settings, table: ScoreTable, channels: Channels) -> Settings:
    """Return the settings with the learning rate that relearning used, where it ran."""
    return settings.model_copy(update={"relearning_rate": channels.rate}) if "relearned" in table.channels() else settings


def _environment(device: str) -> Environment:
    return Environment(
        unlearn_verify=metadata.version("unlearn-verify"),
        python=sys.version.split()[0],
        torch=metadata.version("torch"),
        transformers=metadata.version("transformers"),
        numpy=metadata.version("numpy"),
        scipy=metadata.version("scipy"),
        platform=platform.platform(),
        device=device,
    )
