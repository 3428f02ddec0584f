"""Logit-lens probe: decode the hidden states of intermediate layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from verify.data.encoding import Encoder, collate, padding_token_id
from verify.data.records import Record
from verify.errors import RunError
from verify.models.inner_layers import final_norm, layers_below_the_last
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import head_sees, output_head, predicting_positions, vocabulary_size
from verify.models.token_stats import BATCH_TOKENS, CHUNK_BYTES, length_sorted_batches
from verify.probes.base import Array, Material, ProbeNotRunError


@dataclass(frozen=True)
class LogitLens:
    """Apply the final norm and head to the hidden states of earlier layers.

    nostalgebraist 2020 ("interpreting GPT: the logit lens"); on unlearned models Patil et al. 2023 (arXiv 2309.17410),
    section 4. Methods that only block the last layers leave the answer in earlier ones. Layers are counted from 1, and the last one
    is left out: decoded, it is the model itself.

    Attributes:
        layers: the decoded layers; all below the last by default.
    """

    layers: tuple[int, ...] = ()

    idea: ClassVar[str] = "decode the record from earlier layers"
    paper: ClassVar[str] = "Patil et al. 2023 (arXiv 2309.17410)"

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses at each layer.

        Raises:
            ProbeNotRunError: the model has no such layer, or one layer only.
        """
        return layer_losses(loaded, material.forget, self.layers)


@torch.inference_mode()
def layer_losses(loaded: LoadedModel, records: Sequence[Record], layers: Sequence[int] = ()) -> dict[str, Array]:
    """Compute mean losses decoded from several layers in one pass.

    Args:
        loaded: the model.
        records: the records [N].
        layers: numbers of layers from 1; all below the last by default.

    Returns:
        "layer 1", "layer 2", ... -> mean losses, nats per token [N].

    Raises:
        ProbeNotRunError: the model has no such layer, or one layer only.
        RunError: a loss is not finite.
    """
    below = layers_below_the_last(loaded.model)
    chosen = tuple(layers) or below
    if not chosen:
        raise ProbeNotRunError("the model has one layer, and the last layer is the model itself")
    if beyond := sorted(set(chosen) - set(below)):
        raise ProbeNotRunError(f"the model has no layer {beyond[0]} below its last one (there are {len(below)})")
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    sums, counts = {layer: np.zeros(len(records)) for layer in chosen}, np.zeros(len(records))
    for indices in length_sorted_batches([len(window.input_ids) for window in windows], BATCH_TOKENS):
        rows = [windows[index] for index in indices]
        # Record of every scored token [T]; a token's loss is added to its record's sum.
        owner = np.repeat([row.record for row in rows], [int(row.scored.sum()) for row in rows])
        np.add.at(counts, owner, 1)
        device = next(loaded.model.parameters()).device
        batch = {name: values.to(device) for name, values in collate(rows, padding_token_id(loaded.tokenizer)).items()}
        for layer, hidden in _hidden_states(loaded.model, batch, chosen).items():
            values = _losses(loaded.model, hidden, batch["input_ids"][batch["scored"]])
            np.add.at(sums[layer], owner, values.double().cpu().numpy())
    found = {f"layer {layer}": total / counts for layer, total in sums.items()}
    if broken := [name for name, values in found.items() if not np.isfinite(values).all()]:
        raise RunError(f"the losses of {loaded.name} decoded from {broken[0]} are not finite. Load it with --dtype float32.")
    return found


def _hidden_states(model: Any, batch: Mapping[str, Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
    """Return each layer's hidden states where a scored token is predicted [T, D], in row-major order."""
    # Position t - 1 predicts token t. The model's own head, whose output is not needed, sees a single position.
    predicting = predicting_positions(batch["scored"])
    with head_sees(model, lambda hidden: hidden[:1, :1]):
        states = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True, use_cache=False
        ).hidden_states
    if states is None:
        raise ProbeNotRunError("the model gives no hidden states: it is an ensemble, whose models have layers of their own")
    if len(states) <= max(layers) + 1:  # the first entry is the embedding, the last one the normed output
        raise ProbeNotRunError(f"the model gives {len(states)} hidden states where one per layer and the embedding were expected")
    return {layer: states[layer][predicting] for layer in layers}


def _losses(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Compute losses [T] of the targets [T] from hidden states [T, D], a few rows of logits at a time."""
    head, norm = output_head(model), final_norm(model)
    rows = max(1, CHUNK_BYTES // (4 * vocabulary_size(model)))
    parts = []
    for start in range(0, len(hidden), rows):
        logits = head(norm(hidden[start : start + rows])).float()
        chosen = logits.gather(-1, targets[start : start + rows, None])[:, 0]
        parts.append(logits.logsumexp(-1) - chosen)
    return torch.cat(parts)
