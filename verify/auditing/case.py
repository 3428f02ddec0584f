"""The case of an audit: what was read and checked before a model is scored, and the scores of all models on it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from verify.attacks.base import Attack
from verify.auditing.audited_models import Models
from verify.auditing.commitments import Wording
from verify.auditing.input_checks import CheckedInputs
from verify.auditing.level_tables import TableJudge
from verify.auditing.past import Past
from verify.auditing.pinned_references import require_pinned_scored
from verify.auditing.shard_siblings import Shards
from verify.auditing.terms import Terms
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.judging.protocol import Aside
from verify.judging.representation_claim import worth_measuring
from verify.provenance.training_history import learning_rate_of
from verify.schema.evidence import Settings
from verify.schema.near_duplicates import NearDuplicatesLeft
from verify.schema.parts import SetRole
from verify.scores.channels import Channels
from verify.scores.scorer import Scorer
from verify.scores.states import HiddenStates

Progress = Callable[[str, float], None]
"""Progress callback `(message, fraction_done)`."""


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """Everything that an audit reads and checks before it scores a model.

    Attributes:
        models: the models.
        sets: the records that are scored.
        key: the record key.
        terms: settings and registration.
        attacks: the attacks of the settings, by name.
        past: canaries, and earlier audits.
        table: the level table that judges; None where references do.
        checked: what the references were trained on, and the unlearning read.
        shards: the model's shards, where they judge; else None.
        aside: the inputs of the verdict that need no scores.
        wording: the records in other words.
        near_duplicates: records to keep that are nearly forget records; None without a retain set.
    """

    models: Models
    sets: Mapping[SetRole, Sequence[Record]]
    key: RecordKey
    terms: Terms
    attacks: Mapping[str, Attack]
    past: Past
    table: TableJudge | None
    checked: CheckedInputs
    shards: Shards | None
    aside: Aside
    wording: Wording
    near_duplicates: NearDuplicatesLeft | None

    @property
    def settings(self) -> Settings:
        """The audit's settings."""
        return self.terms.settings


@dataclass(frozen=True, eq=False, repr=False)
class Scored:
    """Scores of all models of a case.

    Attributes:
        scorer: scores, models and their differences.
        channels: the other ways of asking, and which of them could not be measured.
        states: hidden states for the representation claim; None where it is not made.
    """

    scorer: Scorer
    channels: Channels
    states: HiddenStates | None


def score(case: Case, accept: Collection[str], cache: Path | None, progress: Progress) -> Scored:
    """Load and score one model after another, then run the attacks that compare them.

    Args:
        case: models and records.
        accept: differences between the models that are intended; see `verify.audit`.
        cache: folder of the cache; None to keep none.
        progress: called with a message and the share of the models that are scored.

    Raises:
        InputError: a model does not fit into memory, the level table is another model's, or registered references were not scored.
    """
    scored = _prepared(case, accept, cache)
    scorer, plans = scored.scorer, case.models.plans()
    case.models.require_memory(case.settings.dtype)

    def report(place: int, label: str, share: float) -> None:
        progress(f"scoring {label}", (place + share) / len(plans))

    for place, plan in enumerate(plans):
        report(place, plan.label, 0.0)
        scorer.score(plan, partial(report, place, plan.label))
        if plan.role == "original" and case.table is not None:
            case.table.require_original(scorer.models[-1].weights, scorer.models[-1].tokenizer, plan.source)
    scorer.compare()
    require_pinned_scored(case.terms.pinned, scorer.models, case.settings.dtype)
    return scored


def _prepared(case: Case, accept: Collection[str], cache: Path | None) -> Scored:
    """Prepare the scoring of a case, in which nothing is scored yet."""
    channels = Channels(
        case.sets,
        case.settings,
        case.key,
        cache,
        references=len(case.models.references),
        rewordings=case.wording.rewordings,
        learning_rate=learning_rate_of(case.models.original),
        within=case.wording.within,
    )
    states = _hidden_states(case)
    scorer = Scorer(
        case.sets,
        case.attacks,
        case.settings,
        case.models.tokenizer,
        cache,
        case.key,
        case.past.canaries,
        same_weights="weights" in accept,
        other_configuration="configuration" in accept,
        channels=channels,
        states=states,
    )
    return Scored(scorer, channels, states)


def _hidden_states(case: Case) -> HiddenStates | None:
    """Prepare the representation claim; None where the audit lacks what it needs, or asks by the exact text alone."""
    settings = case.settings
    if settings.rule == 1 or settings.channels == ("exact",):
        return None
    states = HiddenStates(case.sets, settings.overflow, settings.seed)
    return states if worth_measuring(states, len(case.models.references)) else None
