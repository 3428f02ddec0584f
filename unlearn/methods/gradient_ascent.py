"""Gradient ascent on the forget set, with the stopping point of Jang et al."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from unlearn.training.method import Batch, Cost, Objective
from unlearn.training.scored_batch import score_forget
from unlearn.training.stopping import MemorizationBelowUnseen, StopRule
from verify.errors import InputError
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class GradientAscent(Objective):
    """Raise the loss of the forget set until it is memorized no better than unseen text.

        minimise  -l(D_f)

    l is the token-mean negative log-likelihood. Jang et al. 2023 (Knowledge unlearning for mitigating privacy risks, ACL),
    eq. 1, with their stopping point (section 3): the memorization accuracy (share of tokens that greedy decoding gets right)
    and the extraction likelihood EL_10 of the forget set have fallen to their means on unseen text. The holdout set is the
    unseen text (for EL_10, at most 32 records of either set); where none is given, the rule stops at the loss of a uniform
    prediction, log V.

    Do not use it alone where other records matter: it has no retain term and no lower bound, and it forgets everything it can.

    Attributes:
        check_every: optimizer steps between checks of the stopping rule; 0 checks at the end of every epoch.
    """

    check_every: int = 1

    idea: ClassVar[str] = "ascend on the forget set until it is memorized no better than unseen text"
    paper: ClassVar[str] = "Jang et al. 2023 (arXiv 2210.01504)"
    cost: ClassVar[Cost] = "steps on the forget set"
    needs_retain = False
    NEEDS: ClassVar[Mapping[str, str]] = {"warmup_ratio": "--scheduler and no --scheduler constant"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 5e-5,
        "scheduler": "constant",
        "epochs": 10.0,
        "batch_size": 32,
        "weight_decay": 0.0,
    }

    def __post_init__(self) -> None:
        if self.check_every < 0:
            raise InputError(f"--check-every must be 0 (at every epoch's end) or more, got {self.check_every}.")

    @property
    def stop_rule(self) -> StopRule:
        """Stop when the forget set is memorized no better than unseen text (Jang et al.)."""
        return MemorizationBelowUnseen(self.check_every)

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        return -score_forget(model, batch).loss.mean()
