"""Relearning probe: fine-tune briefly on other data and measure what returns."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from verify.data.encoding import Encoder, collate, padding_token_id
from verify.errors import RunError
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import scored_log_probabilities
from verify.probes.base import Array, Material, statistics_losses


@dataclass(frozen=True)
class Relearning:
    """Train on records other than the scored ones; a model that only hides its records recovers them faster.

    Hu et al. 2024 (arXiv 2406.13356). Excess recovery after k steps, against a retrained reference under the same steps:

        [s_u(k) - s_ref(k)] / [s_0 - s_ref(0)],  s = mean log-probability, u unlearned, 0 the original before any step

    Attributes:
        steps: numbers of steps k after which the losses are measured.
        learning_rate: of AdamW without weight decay.
        batch_size: windows per step.
    """

    steps: tuple[int, ...] = (0, 5, 10, 20)
    learning_rate: float = 1e-4
    batch_size: int = 8

    idea: ClassVar[str] = "train a few steps on other records and see what comes back"
    paper: ClassVar[str] = "Hu et al. 2024 (arXiv 2406.13356)"

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses after each number of steps; the order of the records is the same for every model.

        Raises:
            RunError: the training diverged.
        """
        # A copy, as the probe must leave the model unchanged; in evaluation mode, as dropout would add noise that differs by model.
        model = copy.deepcopy(loaded.model).eval()
        device, pad = next(model.parameters()).device, padding_token_id(loaded.tokenizer)
        windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(material.other)
        rng = np.random.default_rng(material.seed)  # the same batches for every model
        # For an adapter these are its weights alone, as its base is frozen.
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.0)
        found = {}
        for step in range(max(self.steps) + 1):
            if step in self.steps:
                found[f"relearned {step}"] = statistics_losses(model, loaded, material.forget)
            if step == max(self.steps):
                break
            chosen = [windows[index] for index in rng.choice(len(windows), min(self.batch_size, len(windows)), replace=False)]
            batch = {name: values.to(device) for name, values in collate(chosen, pad).items()}
            loss = -scored_log_probabilities(model, batch)[0].mean()
            if not torch.isfinite(loss):
                raise RunError(f"relearning diverged at step {step}. Lower its learning rate.")
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        return found
