"""Hidden-state probe: a linear classifier on a layer's mean activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from verify.attacks.base import Family, Need, Observation, require_model, two_sides
from verify.attacks.membership._fitted import cross_fitted
from verify.data.encoding import collate, padding_token_id
from verify.models.log_probabilities import predicting_positions

BATCH = 8


@dataclass(frozen=True)
class HiddenState:
    """Score by whether a layer's activations distinguish the set from the controls.

        score = w . mean over scored positions of h_layer,  w fitted on the other folds

    Liu et al. 2024 (arXiv 2406.01333), section 3, with the probe trained out of fold on the audited sets themselves. Activations
    encode the text as well as any memory of it: compare the AUC with that of the same probe on retrained models, never with 0.5.

    Attributes:
        depth: the layer, as a share of all layers; 0 is the embeddings, 1 the last.
    """

    depth: float = 0.5

    idea: ClassVar[str] = "activations separate trained records from others"
    paper: ClassVar[str] = "Liu et al. 2024 (arXiv 2406.01333)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"own passes", "activations", "controls"})
    cost: ClassVar[float] = 2.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "log odds"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N].

        Raises:
            InputError: the observation has no model or no controls.
        """
        require_model(target, "hidden_state")
        members, controls = two_sides(target, "hidden_state")
        return cross_fitted(target, members, controls, self._features(members), self._features(controls))

    @torch.inference_mode()
    def _features(self, observation: Observation) -> NDArray[np.float64]:
        """Compute the mean activation per record [N, width]."""
        loaded = require_model(observation, "hidden_state")
        device, pad = next(loaded.model.parameters()).device, padding_token_id(loaded.tokenizer)
        sums, counts = np.zeros((len(observation), 0)), np.zeros(len(observation))
        order = sorted(observation.windows, key=lambda window: len(window.input_ids))
        for start in range(0, len(order), BATCH):
            windows = order[start : start + BATCH]
            batch = {name: values.to(device) for name, values in collate(windows, pad).items()}
            output = loaded.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True, use_cache=False
            )
            layers = output.hidden_states  # embeddings and every layer, each [B, L, width]
            chosen = layers[round(self.depth * (len(layers) - 1))].double()
            positions = predicting_positions(batch["scored"])  # [B, L]
            total = (chosen * positions[..., None]).sum(1).cpu().numpy()  # [B, width]; windows of a record add up below
            if not sums.shape[1]:  # the width is known only now
                sums = np.zeros((len(observation), total.shape[1]))
            for row, window in enumerate(windows):
                sums[window.record] += total[row]
                counts[window.record] += int(window.scored.sum())
        return np.asarray(sums / counts[:, None])
