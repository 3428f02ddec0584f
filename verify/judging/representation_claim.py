"""The representation claim: hidden states of the target against the retrained references'. It has no vote in the verdict."""

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from verify.schema.parts import SetRole, VerdictWord
from verify.schema.representation import LayerDistance, Representation
from verify.scores.hidden_states import HiddenStates
from verify.statistics.representation import (
    FEWEST_REFERENCES,
    LayerDistances,
    RepresentationTest,
    layer_distances,
    representation_test,
)

STATISTIC = (
    "log ratio of distances (nats): mean-pooled hidden states of the forget set to the retrained references, over the references' "
    "distances from each other, less the same on never-trained controls; mean over layers"
)
JUDGED = ("target", "original")


def judge_representation(states: HiddenStates, alpha: float) -> Representation | None:
    """Judge the target's hidden states.

    Args:
        states: states of "original", "target" and "reference 1", ... on the forget set, the holdout set and, where there is one,
            the retain set.
        alpha: one-sided level of this claim.

    Returns:
        the claim; None, with a warning, where the models cannot be compared.
    """
    references = [label for label in states.models if label.startswith("reference")]
    try:
        layers = list(_distances(states, references))
        forget, controls = (states.subjects[role] for role in ("forget", "holdout"))
        judged = slice(0, len(forget) + len(controls))  # rows of the forget set, and behind them of the controls
        excess = [distances.excess[:, judged] for _, distances in layers]
        target, original = representation_test(excess, forget, controls, len(references))
    except (KeyError, ValueError) as error:
        warnings.warn(f"the hidden states were not compared with the retrained references: {error}", stacklevel=2)
        return None
    verdict: VerdictWord = "NOT_FORGOTTEN" if target.p_value < alpha else "INCONCLUSIVE"
    return Representation(
        statistic=STATISTIC,
        value=target.contrast,
        original=original.contrast,
        references=tuple(target.references.tolist()),
        p_value=target.p_value,
        layers=tuple(_described(states, layers)),
        verdict=verdict,
        reason=_reason(target, original, alpha),
    )


def worth_measuring(states: HiddenStates, references: int) -> bool:
    """Return whether an audit has what the claim needs: references, never-trained controls, and two subjects on each side."""
    sides: tuple[SetRole, ...] = ("forget", "holdout")
    return references >= FEWEST_REFERENCES and all(len(set(states.subjects.get(role, ()))) > 1 for role in sides)


def _distances(states: HiddenStates, references: Sequence[str]) -> Iterator[tuple[int, LayerDistances]]:
    """Yield the distances at each layer at which the references differ.

    Raises:
        KeyError: a model gave no hidden states.
        ValueError: models of other shapes, or states that are not finite.
    """
    models = [states.models[label] for label in (*JUDGED, *references)]
    if len({(model.layers, model.states.shape) for model in models}) > 1:
        raise ValueError("the models differ in their number of layers or in their width")
    for place, layer in enumerate(models[0].layers):
        at_layer: NDArray[np.float32] = np.stack([model.states[place] for model in models])
        distances = layer_distances(at_layer[: len(JUDGED)], at_layer[len(JUDGED) :])
        if distances is not None:
            yield layer, distances


def _described(states: HiddenStates, layers: Sequence[tuple[int, LayerDistances]]) -> Iterator[LayerDistance]:
    """Yield the geometric mean distance of every model at each layer on each set, in norms of a centred state."""
    for layer, distances in layers:
        for role in states.records:
            rows = states.rows(role)
            target, original = np.exp(distances.models[:, rows].mean(axis=1)).tolist()
            among = np.exp(distances.references[:, rows].mean(axis=1)).tolist()
            yield LayerDistance(layer=layer, role=role, target=target, original=original, references=tuple(among))


def _reason(target: RepresentationTest, original: RepresentationTest, alpha: float) -> str:
    ratio = f"{math.exp(target.contrast):.2f} times as far"
    before = (
        f"The same test {'finds' if original.p_value < alpha else 'does not find'} the model before unlearning, which knows the "
        f"records ({math.exp(original.contrast):.2f} times, p = {original.p_value:.2g})."
    )
    if target.p_value < alpha:
        return (
            f"On the forget set the hidden states lie {ratio} from the retrained references as retraining would put them, relative "
            f"to never-trained controls (p = {target.p_value:.2g}): they were moved there in a way that retraining does not. This "
            f"does not show that the records are still known. {before}"
        )
    return (
        f"On the forget set the hidden states lie {ratio} from the retrained references as retraining would put them, relative to "
        f"never-trained controls, which honest retrainings do as well (p = {target.p_value:.2g}). This is no proof of forgetting. "
        f"{before}"
    )
