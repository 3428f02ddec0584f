"""The representation claim in the evidence: whether hidden states lie as far from retrainings as retrainings from each other."""

from pydantic import Field

from verify.io.documents import Frozen
from verify.schema.parts import SetRole, Share, VerdictWord


class LayerDistance(Frozen):
    """Distances of hidden states at one layer on one set of records.

    Attributes:
        layer: number of the layer, 1 the first block.
        role: the set.
        target, original: distance of these models to the references, in the claim's unit.
        references: distance of each reference to the others.
    """

    layer: int = Field(ge=0)
    role: SetRole
    target: float = Field(ge=0)
    original: float | None = Field(default=None, ge=0)
    references: tuple[float, ...]


class Representation(Frozen):
    """Hidden states of the target against the references', which give the null: each of them against the others.

    The claim has its own line beside the verdict and no vote in it.

    Attributes:
        statistic: the one statistic, fixed in advance, in words with its unit.
        value: its value for the target.
        original: its value for the model before unlearning, which shows what it can see at all.
        references: its value for each reference against the others.
        p_value: p-value of the target among the references.
        layers: the distances behind it.
        verdict, reason: this claim's own word, and why in one plain sentence.
    """

    statistic: str
    value: float
    original: float | None = None
    references: tuple[float, ...]
    p_value: Share
    layers: tuple[LayerDistance, ...] = ()
    verdict: VerdictWord
    reason: str
