"""Primal-dual unlearning: flatten the logits of the forget set as far as the retain loss allows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.distributions import spread
from unlearn.methods.base import Batch, Cost, token_logits
from verify.arguments import checked
from verify.errors import InputError


@checked
@dataclass(frozen=True)
class PDU:
    """Forget as much as a bound on the retain loss permits, the bound's price found by dual ascent.

        minimise  mean_t (max z - mean z)^2 on D_f  subject to  l(D_r) <= l_0(D_r) + slack

        loss = flatness(D_f) + mu (l(D_r) - l_0(D_r) - slack),  mu <- max(0, mu + dual_step (l(D_r) - l_0(D_r) - slack))

    z are the logits at scored tokens; l_0 is the loss before unlearning. Entesari et al. 2025 (arXiv 2506.05314), section 3. The
    multiplier moves once per optimizer step, by the mean over the step's records.

    Do not read uniform logits as never trained: a model that never saw the record is far from uniform on it.

    Attributes:
        slack: how much the retain loss may rise, nats per token.
        dual_step: step of the multiplier.
        dual_start: its first value.
    """

    slack: float = 0.1
    dual_step: float = 1.0
    dual_start: float = 50.0

    def __post_init__(self) -> None:
        if self.slack < 0 or self.dual_step <= 0 or self.dual_start < 0:
            raise InputError("pdu needs --slack and --dual-start of at least 0 and --dual-step above 0.")

    idea: ClassVar[str] = "flatten the forget set's logits within a bound on the retain loss"
    paper: ClassVar[str] = "Entesari et al. 2025 (arXiv 2506.05314)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"retain_log_probability"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> None:
        """Bounded below, so none is needed."""
        return None

    def begin(self) -> Mapping[str, float]:
        """The multiplier's first value."""
        return {"multiplier": self.dual_start}

    def advance(self, values: Mapping[str, float], measured: Mapping[str, float]) -> Mapping[str, float]:
        """One step of dual ascent."""
        return {"multiplier": max(0.0, values["multiplier"] + self.dual_step * measured["excess"])}

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        assert batch.retain is not None, "the trainer pairs retain records for objectives with needs_retain"
        forget, retain = token_logits(model, batch.forget, batch.retain)
        before = -reference["retain_log_probability"] / batch.retain["scored"].sum(-1)
        excess = retain.scores().loss - before - self.slack
        batch.progress.measure("excess", excess)
        return forget.per_row(spread(forget.logits).square()).mean() + batch.progress.values["multiplier"] * excess.mean()
