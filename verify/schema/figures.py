"""The numbers behind the figures of a report."""

from verify.io.documents import Frozen
from verify.schema.parts import Share


class Histogram(Frozen):
    """Mean losses of the forget records under one model, counted in common bins."""

    model: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class RocCurve(Frozen):
    """True-positive rate of one attack against one model on a fixed grid of false-positive rates."""

    attack: str
    model: str
    fpr: tuple[Share, ...]
    tpr: tuple[Share, ...]


class Residuals(Frozen):
    """Per-record residual d_i in nats per token, sorted, with the margin rho* g_i beside it (at most 500 quantiles)."""

    residual: tuple[float, ...]
    margin: tuple[float, ...]
    gap: tuple[float, ...]


class Figures(Frozen):
    """The numbers behind the report's figures."""

    losses: tuple[Histogram, ...] = ()
    roc: tuple[RocCurve, ...] = ()
    residuals: Residuals | None = None
