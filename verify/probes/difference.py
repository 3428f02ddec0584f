"""Difference probe: decode along the direction that unlearning removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from verify.data.encoding import Encoder, collate, padding_token_id
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import scored_logits
from verify.probes.base import Array, Material

BATCH = 8


@dataclass(frozen=True)
class Difference:
    """Contrast the unlearned model with a kept copy of the old one when decoding.

        log p(v) = log p_new(v) + w (log p_old(v) - log p_new(v)) - log Z

    Wu et al. 2025 (arXiv 2505.24379): the difference between the two models points at what was deleted. w = 1 gives the old model;
    the probe compares what w > 1 adds to it for the unlearned model and for retrained ones. Do not use it where no copy of the old
    model is kept.

    Attributes:
        weights: values of w.
    """

    weights: tuple[float, ...] = (2.0,)

    idea: ClassVar[str] = "guide decoding by the difference from the old model"
    paper: ClassVar[str] = "Wu et al. 2025 (arXiv 2505.24379)"

    @torch.inference_mode()
    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses for each weight."""
        device, pad = next(loaded.model.parameters()).device, padding_token_id(loaded.tokenizer)
        windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(material.forget)
        order = sorted(windows, key=lambda window: len(window.input_ids))
        sums = {weight: np.zeros(len(material.forget)) for weight in self.weights}
        counts = np.zeros(len(material.forget))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = {name: values.to(device) for name, values in collate(rows, pad).items()}
            logits, targets, _ = scored_logits(loaded.model, batch)  # [T, V] and [T], T scored tokens of the batch, row by row
            new = logits.float().log_softmax(-1)
            # The old model reads the same token ids, so both models must share a tokenizer.
            old = scored_logits(material.old.model, batch)[0].float().log_softmax(-1)
            # Record of every scored token [T]; a token's loss is added to its record's sum.
            owner = np.repeat([row.record for row in rows], [int(row.scored.sum()) for row in rows])
            np.add.at(counts, owner, 1)
            for weight in self.weights:
                guided = (new + weight * (old - new)).log_softmax(-1)
                chosen = guided.gather(-1, targets[:, None])[:, 0]
                np.add.at(sums[weight], owner, -chosen.double().cpu().numpy())
        return {f"guided by the old model, w = {weight:g}": total / counts for weight, total in sums.items()}
