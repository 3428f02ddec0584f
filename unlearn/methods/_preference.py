"""The preference loss that DPO and AltPO share."""

import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.training.method import Batch
from unlearn.training.scored_batch import score
from verify.errors import InputError


def require_temperature(beta: float) -> None:
    """Raise InputError unless an inverse temperature is finite and above 0: the loss divides by it."""
    if not 0 < beta < math.inf:
        raise InputError(f"--beta must be a number greater than 0, got {beta}. Leave it out for the published value.")


def preference_loss(model: nn.Module, batch: Batch, reference: Mapping[str, Tensor], beta: float, alpha: float) -> Tensor:
    """Compute -(2/beta) mean log sigmoid(beta (r(alternative) - r(true))) + alpha l(D_r), a scalar.

    r is the log-ratio of an answer: its summed log-probability minus that under the model before unlearning. Rafailov et al. 2023
    (arXiv 2305.18290), eq. 7, with the factor of NPO. Every row has the same weight.
    """
    # One pass over three sets of rows; each score and each log-ratio is [B].
    forget, other, retain = score(model, batch.forget, batch.require_alternative(), batch.require_retain())
    true = forget.log_probability - reference["forget_log_probability"]
    preferred = other.log_probability - reference["alternative_log_probability"]
    return -(2.0 / beta) * F.logsigmoid(beta * (preferred - true)).mean() + alpha * retain.loss.mean()
