"""Scoring of single models ahead of an audit, so that several processes can share the work of one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verify.attacks import select_attacks
from verify.auditing.audit_sets import load_sets
from verify.auditing.commitments import find_rewordings
from verify.data.identity import RecordKey
from verify.data.reading import agreed_reading, fields_for
from verify.data.records import Fields, RecordSource
from verify.data.rewording_files import RewordingSource
from verify.io.arguments import checked
from verify.provenance.training_history import learning_rate_of
from verify.schema.settings import Settings
from verify.scores.channels import Channels
from verify.scores.scorer import Plan, Scorer


@checked
def score_ahead(
    model: Any,
    original: Any,
    *,
    cache_dir: str | Path,
    forget_set: RecordSource,
    retain_set: RecordSource | None = None,
    holdout_set: RecordSource | None = None,
    base: Any = None,
    references: int = 0,
    fields: Fields | None = None,
    settings: Settings | None = None,
    rewordings: RewordingSource | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Score one model as an audit with the same arguments will, and keep the numbers in the audit's cache.

    The models of an audit do not depend on one another. Each can be scored by a process of its own; `audit` with this `cache_dir`
    then reads what they found. The base comes first, since attacks compare with it; without `model` it is scored alone.

    Args:
        model: a model of the audit: the original, the target or a reference; None for the base alone.
        original: the model before unlearning.
        cache_dir: folder of the cache.
        forget_set, retain_set, holdout_set, base, fields, settings, rewordings: as they will be passed to `audit`.
        references: how many references the audit will have.
        progress: called with the share that is done, in [0, 1].

    Raises:
        InputError: a record or model cannot be used.
    """
    trained = (original, *([] if model is None else [model]))
    fields, settings = agreed_reading(
        fields_for(fields, trained, (forget_set, retain_set, holdout_set)), settings or Settings(), trained
    )
    sets = load_sets(forget_set, retain_set, holdout_set, None, None, fields, settings)
    attacks, key, cache = select_attacks(settings.attacks), RecordKey.load(), Path(cache_dir)
    settings = settings.model_copy(update={"attacks": tuple(attacks)})
    words = find_rewordings(rewordings, None, sets, settings)
    rate = learning_rate_of(original)
    channels = Channels(sets, settings, key, cache, references=references, rewordings=words, learning_rate=rate)
    scorer = Scorer(sets, attacks, settings, None, cache, key, channels=channels)
    plans: Sequence[Plan] = [
        *([] if base is None else [Plan("base", "base", base)]),
        *([] if model is None else [Plan("original", "original", model)]),
    ]
    for place, plan in enumerate(plans):
        scorer.score(plan, lambda share, place=place: progress((place + share) / len(plans)))  # type: ignore[misc]
