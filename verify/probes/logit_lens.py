"""Logit-lens probe: decode the hidden states of intermediate layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from verify.data.encoding import Encoder, collate, padding_token_id
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import output_head, predicting_positions
from verify.probes.base import Array, Material

BATCH = 8


@dataclass(frozen=True)
class LogitLens:
    """Apply the final norm and head to the hidden states of earlier layers.

    nostalgebraist 2020 ("interpreting GPT: the logit lens"); on unlearned models Patil et al. 2023 (arXiv 2309.17410),
    section 4. Methods that only block the last layers leave the answer in earlier ones.

    Attributes:
        depths: the decoded layers, as shares of all; 0 is the embeddings, 1 the last.
    """

    depths: tuple[float, ...] = (0.5, 0.75)

    idea: ClassVar[str] = "decode the record from earlier layers"
    paper: ClassVar[str] = "Patil et al. 2023 (arXiv 2309.17410)"

    @torch.inference_mode()
    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses at each depth."""
        device, pad = next(loaded.model.parameters()).device, padding_token_id(loaded.tokenizer)
        head, norm = output_head(loaded.model), final_norm(loaded.model)
        windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(material.forget)
        order = sorted(windows, key=lambda window: len(window.input_ids))
        sums = {depth: np.zeros(len(material.forget)) for depth in self.depths}
        counts = np.zeros(len(material.forget))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = {name: values.to(device) for name, values in collate(rows, pad).items()}
            # Position t - 1 predicts token t: [B, L] with one True per scored token, in the order of `targets` [T].
            predicting, targets = predicting_positions(batch["scored"]), batch["input_ids"][batch["scored"]]
            layers = loaded.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True, use_cache=False
            ).hidden_states
            owner = np.repeat([row.record for row in rows], [int(row.scored.sum()) for row in rows])
            np.add.at(counts, owner, 1)
            for depth in self.depths:
                hidden = layers[round(depth * (len(layers) - 1))][predicting]  # [T, width]
                logits = head(norm(hidden)).float()
                chosen = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
                np.add.at(sums[depth], owner, -chosen.double().cpu().numpy())
        return {f"layer {depth:.0%}": total / counts for depth, total in sums.items()}


def final_norm(model: Any) -> Any:
    """Return the norm in front of the head, below any wrapper; the identity for architectures without a known one."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    body = getattr(model, model.base_model_prefix)  # the transformer without its head: `model`, `transformer`, ...
    for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm"):
        if hasattr(body, name):
            return getattr(body, name)
    return torch.nn.Identity()
