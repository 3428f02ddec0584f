"""Copies among the models: references that come from one training, and a target that is one of the references.

References show how far honest retrainings differ. Copies of one training, in another precision, with their neurons in another
order or with a little noise, have other digests and differ by next to nothing: a target that is one more of them would be certified
at any margin. The losses show it. On records that a deletion leaves alone, the model before unlearning is one more training, and
about as far from a reference as another reference is.

Honest trainings may be as close, where little in them is left to chance: all records in one batch, or one initialization of a
small adapter with a large share of the records removed. The losses do not tell them from copies, so they judge nothing either; the
sentences accuse nobody of having copied.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from verify.judging.conformal import Array
from verify.schema.parts import Gate, SetRole
from verify.scores.table import ScoreTable

COPY = 0.1
"""Distance of two models, as a share of the references' distance from the original, below which they may be copies. Between honest
retrainings it is about one where few records go. Where half of them go it was 0.14 to 0.9 in tiny models trained whole or with
adapters initialized by seeds of their own; 0.05 with one initialization of rank 2, and 0.00 with all records in one batch."""
ENOUGH = 10
"""Records of a set, at least, for a distance: by chance the losses of four references on ten records are that close in fewer than
one of 10,000 audits, also where single records differ by far more than the others (t with 2.5 degrees of freedom)."""
WITHIN = 0.8
"""Share of the records whose differences make up a distance; those of the others may be of any size."""
UNKNOWN = (
    "Copies of one training are that close; so are trainings in which little is left to chance, which losses do not tell apart"
)
DISTINCT = "distinct references"
"""Name of the check of the references, which stays open where there are too few records."""
LEFT_ALONE: tuple[SetRole, ...] = ("holdout", "retain")


def copies_gates(table: ScoreTable, references: Sequence[str]) -> tuple[Gate, ...]:
    """Check that the references are trainings of their own, and that the target is none of them.

    The distance of two models is how far from their median four fifths of the differences of their losses lie. It must be short
    on every set that a deletion leaves alone, never-trained controls and records to keep.

    Args:
        table: scores of "original", "target" and the references.
        references: their labels, at least two.

    Returns:
        the failed gates; none where all is well, or without records to keep, where the check of the utility stays open already. One
        that stays open where the records to keep and the controls are too few to tell: whoever chooses the records to keep could
        otherwise hand in copies.
    """
    losses = {role: _losses(table, ("original", "target", *references), role) for role in LEFT_ALONE}
    known = [found for found in losses.values() if found is not None]
    if not known:
        return () if table.block("target", "retain") is None else (_too_few_to_tell(),)
    pairs = [pair for pair in combinations(references, 2) if _alike(known, *pair, references)]
    same = [reference for reference in references if _alike(known, "target", reference, references)]
    gates = []
    if pairs:
        reason = (
            f"{_named(pairs)} give nearly the same losses on records that the deletion leaves alone, less than {COPY:.0%} as far "
            f"apart as from the model before unlearning. {UNKNOWN}, and how far retrainings differ is not known from them. Give "
            "references that were each trained by themselves, with a seed of their own for initialization and order."
        )
        gates.append(Gate(name=DISTINCT, claims=("record",), passed=False, blocks="NOT_TESTABLE", reason=reason))
    if same:
        reason = (
            f"The model gives nearly the losses of {', '.join(same)} on records that the deletion leaves alone, less than "
            f"{COPY:.0%} as far away as the model before unlearning. {UNKNOWN}, and a comparison with a copy of itself shows "
            "nothing. Leave that reference out."
        )
        gates.append(Gate(name="target among references", claims=("record",), passed=False, blocks="INCONCLUSIVE", reason=reason))
    return tuple(gates)


def _too_few_to_tell() -> Gate:
    reason = (
        f"Whether the references are trainings of their own was not checked: that needs at least {ENOUGH} different records to "
        "keep (--retain FILE), or as many never-trained ones (--holdout FILE)."
    )
    return Gate(name=DISTINCT, claims=("record",), passed=None, blocks="INCONCLUSIVE", reason=reason)


def _losses(table: ScoreTable, models: Sequence[str], role: SetRole) -> Mapping[str, Array] | None:
    """Return the losses of all models on a set, each text once; None without enough of them."""
    if any(table.block(model, role) is None for model in models):
        return None
    every = table.losses(models, role)
    _, first = np.unique(np.array(table.blocks["target", role].records), return_index=True)
    return dict(zip(models, every[:, np.sort(first)], strict=True)) if len(first) >= ENOUGH else None


def _alike(known: Sequence[Mapping[str, Array]], one: str, other: str, references: Sequence[str]) -> bool:
    """Return whether two models are copies by every set."""
    return all(_distance(found, one, other) < COPY * _from_original(found, references) for found in known)


def _from_original(found: Mapping[str, Array], references: Sequence[str]) -> float:
    return float(np.median([_distance(found, reference, "original") for reference in references]))


def _distance(found: Mapping[str, Array], one: str, other: str) -> float:
    # No standard deviation: one control that the original half knows would set it far apart from all references, and these would
    # look like copies; and copies that differ on a few records alone would not.
    differences = found[one] - found[other]
    return float(np.quantile(np.abs(differences - np.median(differences)), WITHIN))


def _named(pairs: Sequence[tuple[str, str]]) -> str:
    """Name the references of some pairs, each once."""
    return ", ".join(dict.fromkeys(label for pair in pairs for label in pair)).capitalize()
