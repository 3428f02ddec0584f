"""Scores of a case: one model after another is loaded, scored on every set, and freed."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from verify.auditing.case import Case, Progress
from verify.auditing.pinned_references import require_pinned_scored
from verify.judging.representation_claim import worth_measuring
from verify.provenance.training_history import learning_rate_of
from verify.scores.channels import Channels
from verify.scores.hidden_states import HiddenStates
from verify.scores.scorer import Scorer


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


def score_case(case: Case, cache: Path | None, progress: Progress) -> Scored:
    """Load and score one model after another, then run the attacks that compare them.

    Args:
        case: models and records.
        cache: folder of the cache; None to keep none.
        progress: called with a message and the share of the models that are scored.

    Raises:
        InputError: a model does not fit into memory, the level table is another model's, or registered references were not scored.
    """
    scored = _prepared(case, cache)
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


def _prepared(case: Case, cache: Path | None) -> Scored:
    """Prepare the scoring of a case, in which nothing is scored yet."""
    channels = Channels(
        case.sets,
        case.settings,
        case.key,
        cache,
        references=len(case.models.references),
        rewordings=case.wording.rewordings,
        learning_rate=learning_rate_of(case.models.original),
        within=case.within,
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
        same_weights="weights" in case.models.accept,
        other_configuration="configuration" in case.models.accept,
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
