"""The claim of shard siblings: a rebuilt shard against the shards that never saw its forget records. It can accuse, not certify."""

from dataclasses import replace
from math import ceil

import numpy as np

from verify.judging.user_level_claim import whose
from verify.schema.parts import VerdictWord
from verify.schema.settings import Settings
from verify.schema.siblings import RankedShard, Siblings
from verify.scores.table import BEFORE, ScoreTable
from verify.statistics.shard_siblings import ShardLosses, controls_p_value, sibling_rank

UNLIKE_SIBLINGS = 0.01
"""Level at which a shard's loss on controls shows that it was not trained as its siblings were."""


def rebuilt_shards(table: ScoreTable) -> tuple[str, ...]:
    """Return the labels of the shards that held forget records, in order."""
    return tuple(label for label in table.shards() if table.block(label + BEFORE, "forget") is not None)


def shards_needed(rebuilt: int, alpha: float) -> int:
    """Return the smallest number of shards with which a rank can accuse: 2 / alpha, times the rebuilt shards (Bonferroni)."""
    return max(2, ceil(round(2 * rebuilt / alpha, 9)))


def can_accuse(table: ScoreTable, alpha: float) -> bool:
    """Return whether there are enough shards for a rank to accuse at level alpha."""
    rebuilt = len(rebuilt_shards(table))
    return bool(rebuilt) and len(table.shards()) >= shards_needed(rebuilt, alpha)


def judge_siblings(table: ScoreTable, settings: Settings, alpha: float) -> Siblings | None:
    """Rank every rebuilt shard among its siblings; None where no shards were scored.

    Args:
        table: scores of every shard on forget records and controls, and of the rebuilt ones before the deletion.
        settings: margin.
        alpha: level of the accusation, all rebuilt shards and both directions together.
    """
    rebuilt, shards = rebuilt_shards(table), table.shards()
    if not rebuilt:
        return None
    ranked = tuple(_ranked(table, label, settings.margin) for label in rebuilt)
    needed = shards_needed(len(rebuilt), alpha)
    verdict, reason = _judged(ranked, len(shards), needed, alpha / len(rebuilt))
    return Siblings(
        shards=len(shards),
        controls=len(table.blocks[shards[0], "holdout"].records),
        ranked=ranked,
        smallest=1 / len(shards),
        needed=needed,
        verdict=verdict,
        reason=reason,
    )


def _ranked(table: ScoreTable, label: str, margin: float) -> RankedShard:
    """Rank one rebuilt shard on the forget records that it held."""
    before, forget = table.blocks[label + BEFORE, "forget"], table.blocks[label, "forget"]
    rows = np.array([forget.records.index(name) for name in before.records])
    siblings = [other for other in table.shards() if other != label]
    losses = ShardLosses(
        before=before.loss,
        rebuilt=forget.loss[rows],
        siblings=table.losses(siblings, "forget")[:, rows],
        control_before=table.loss(label + BEFORE, "holdout"),
        control_rebuilt=table.loss(label, "holdout"),
        control_siblings=table.losses(siblings, "holdout"),
    )
    subjects, controls = whose(before), whose(table.blocks[label, "holdout"])
    found = sibling_rank(losses, subjects, controls, margin)
    untouched = replace(losses, rebuilt=losses.before, control_rebuilt=losses.control_before)
    return RankedShard(
        shard=int(label.split()[1]),
        records=len(rows),
        subjects=len(set(subjects)),
        contrast=found.contrast,
        gap=found.gap,
        remembered=found.remembered,
        over_forgotten=found.over_forgotten,
        before=sibling_rank(untouched, subjects, controls, margin).remembered,
        controls_p=controls_p_value(losses, controls),
    )


def _judged(ranked: tuple[RankedShard, ...], shards: int, needed: int, alpha: float) -> tuple[VerdictWord, str]:
    """Return the claim's word and reason: checks before an accusation; what is not accused stays open."""
    said = "; ".join(
        f"shard {one.shard} has p = {one.remembered:.3g} for what it remembers and {one.over_forgotten:.3g} for over-forgetting"
        for one in ranked
    )
    rank = f"Ranked among the {shards - 1} siblings that never saw the records, {said}."
    floor = f"No p-value of {shards} shards lies below 1 / {shards} = {1 / shards:.3g}"
    if unlike := [one for one in ranked if one.controls_p is not None and one.controls_p < UNLIKE_SIBLINGS / len(ranked)]:
        apart = f"shard {unlike[0].shard} lies apart from its siblings (p = {unlike[0].controls_p:.2g})"
        return (
            "NOT_TESTABLE",
            f"On the never-trained controls {apart}: it was not trained as they were, and its rank says nothing.",
        )
    if weak := [one for one in ranked if one.before > 1 / shards or one.gap <= 0]:
        known = f"shard {weak[0].shard} did not know the records better than every sibling (p = {weak[0].before:.3g})"
        return "NOT_TESTABLE", f"Before the deletion {known}: what was never memorized cannot be shown to be forgotten."
    if shards < needed:
        return "NOT_TESTABLE", (
            f"{rank} {floor}, and both directions need {needed} shards at this level: these ranks can accuse nobody, and no rank "
            "certifies. Execute the rebuild again (verify-unlearning reexecute), or audit with retrained references (--references)."
        )
    if any(2 * min(one.remembered, one.over_forgotten) <= alpha for one in ranked):
        return "NOT_FORGOTTEN", f"{rank} By more than the margin, that is no honest rebuild's rank. {floor}."
    return "INCONCLUSIVE", f"{rank} {floor}. No rank accuses, and no rank certifies."
