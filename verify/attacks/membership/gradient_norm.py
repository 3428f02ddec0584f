"""Gradient-norm attack: small gradients suggest a trained record."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, require_model
from verify.data.encoding import collate, padding_token_id
from verify.models.log_probabilities import scored_log_probabilities


@dataclass(frozen=True)
class GradientNorm:
    """Score by the negative norm of the record's gradient, which is small where the record was learned.

        score = -|| d l(record) / d theta ||_2

    Wang et al. 2024 (arXiv 2408.08821), section 3. One norm over all trainable weights together (all weights where none is
    trainable), in evaluation mode: dropout would make it random. It costs a backward pass per record, one record at a time, and
    correlates strongly with the loss on well-trained models.
    """

    idea: ClassVar[str] = "the gradient of a learned record is small"
    paper: ClassVar[str] = "Wang et al. 2024 (arXiv 2408.08821)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    cost: ClassVar[float] = 3.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "negative norm"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N], at most 0; the model's mode and gradients are left as they were found.

        Raises:
            InputError: the observation has no model.
        """
        loaded = require_model(target, "gradient_norm")
        model, pad = loaded.model, padding_token_id(loaded.tokenizer)
        device = next(model.parameters()).device
        wanted = [parameter for parameter in model.parameters() if parameter.requires_grad] or list(model.parameters())
        was_training, asked = model.training, [parameter.requires_grad for parameter in wanted]
        model.eval()
        scores = np.zeros(len(target))
        try:
            for parameter in wanted:
                parameter.requires_grad_(True)
            for record, windows in groupby(target.windows, key=lambda window: window.record):
                batch = {name: tensor.to(device) for name, tensor in collate(list(windows), pad).items()}
                # The mean over the scored tokens of all the record's windows together.
                loss = -scored_log_probabilities(model, batch)[0].mean()
                gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
                squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
                scores[record] = -float(torch.stack(squares).sum().sqrt())
        finally:
            for parameter, before in zip(wanted, asked, strict=True):
                parameter.requires_grad_(before)
            model.train(was_training)
        return scores
