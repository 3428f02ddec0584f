"""Primal-dual unlearning (PDU): flatten forget-set logits under a constraint on the retain loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unlearn.training.divergences import spread
from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import token_logits
from verify.errors import InputError
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class PDU(Objective):
    """Flatten forget-set logits subject to a bound on the retain loss, by dual ascent.

        minimise  mean_t (max z - mean z)^2 on D_f  subject to  l(D_r) <= l_0(D_r) + slack

        loss = flatness(D_f) + mu (l(D_r) - l_0(D_r) - slack),  mu <- max(0, mu + dual_step (l(D_r) - l_0(D_r) - slack))

    z are the logits at scored tokens; l_0 is the loss before unlearning. Entesari et al. 2025 (arXiv 2506.05314), section 3. The
    multiplier mu is updated once per optimizer step, with the mean over the step's records.

    Do not read uniform logits as never trained: a model that never saw the record is far from uniform on it.

    Attributes:
        slack: permitted rise of the retain loss, nats per token.
        dual_step: step size of the multiplier.
        dual_start: initial value of the multiplier.
    """

    slack: float = 0.1
    dual_step: float = 1.0
    dual_start: float = 50.0

    idea: ClassVar[str] = "flatten the forget set's logits under a bound on the retain loss"
    paper: ClassVar[str] = "Entesari et al. 2025 (arXiv 2506.05314)"
    reference: ClassVar[frozenset[str]] = frozenset({"retain_log_probability"})

    def __post_init__(self) -> None:
        if self.slack < 0 or self.dual_step <= 0 or self.dual_start < 0:
            raise InputError(
                "pdu needs --slack and --dual-start of 0 or more and --dual-step above 0. The defaults are 0.1, 50 and 1."
            )

    def begin(self) -> Mapping[str, float]:
        """Return the multiplier's initial value."""
        return {"multiplier": self.dual_start}

    def advance(self, values: Mapping[str, float], measured: Mapping[str, float]) -> Mapping[str, float]:
        """Take one step of dual ascent, projected to mu >= 0."""
        return {"multiplier": max(0.0, values["multiplier"] + self.dual_step * measured["excess"])}

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        rows = batch.require_retain()
        forget, retain = token_logits(model, batch.forget, rows)
        before = -reference["retain_log_probability"] / rows["scored"].sum(-1)  # l_0 of every row, nats per token [B]
        excess = retain.scores().loss - before - self.slack
        batch.progress.measure("excess", excess)
        return forget.per_row(spread(forget.logits).square()).mean() + batch.progress.values["multiplier"] * excess.mean()
