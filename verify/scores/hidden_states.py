"""Hidden states of every model on the audited sets, one vector per record and layer, for the representation claim.

They are kept in files without a name, which vanish with the process however it ends, and read layer by layer: all models together
need the memory of one layer.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verify.data.encoding import Encoded, Encoder, Overflow, collate, padding_token_id
from verify.data.records import Record
from verify.data.subjects import subject_groups
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import head_sees, predicting_positions
from verify.models.token_stats import BATCH_TOKENS, length_sorted_batches
from verify.schema.parts import SetRole

COMPARED: tuple[SetRole, ...] = ("forget", "holdout", "retain")
"""Sets whose states are kept, in the order of the rows."""
MOST_RECORDS, MOST_LAYERS = 256, 8
"""Largest number of records per set, drawn subject by subject, and of layers, evenly spaced with the last among them."""


@dataclass(frozen=True, eq=False)
class ModelStates:
    """States of one model on N records of all sets at L layers.

    Attributes:
        layers: numbers of the layers, 1 the first block [L].
        states: means over the positions that predict scored tokens, float32 [L, N, D], in a file.
    """

    layers: tuple[int, ...]
    states: NDArray[np.float32]


class HiddenStates:
    """Draws the records and keeps every model's states on them.

    Attributes:
        records: the drawn records of each set.
        subjects: their subjects; a record without one is its own.
        models: states so far, by the model's label; a model that gives no hidden states is missing.
    """

    def __init__(self, sets: Mapping[SetRole, Sequence[Record]], overflow: Overflow, seed: int) -> None:
        """Draw the records of an audit's sets; `overflow` is the treatment of records longer than the context."""
        self.records = {role: _drawn(sets[role], seed) for role in COMPARED if role in sets}
        everybody = iter(subject_groups([record for records in self.records.values() for record in records]))
        self.subjects = {role: [next(everybody) for _ in records] for role, records in self.records.items()}
        self.overflow = overflow
        self.models: dict[str, ModelStates] = {}

    def rows(self, role: SetRole) -> slice:
        """Return the rows of a set's records in `ModelStates.states`."""
        start = 0
        for name, records in self.records.items():
            if name == role:
                return slice(start, start + len(records))
            start += len(records)
        raise KeyError(role)

    def measure(self, loaded: LoadedModel, label: str, done: Callable[[float], None] = lambda _: None) -> None:
        """Run the model once over the drawn records.

        Args:
            loaded: the model.
            label: its name in the audit.
            done: called with the share that is done.

        Raises:
            InputError: a record cannot be encoded.
        """
        windows, total = [], 0
        for records in self.records.values():
            encoder = Encoder(loaded.tokenizer, loaded.context_length, self.overflow)
            windows += [replace(window, record=window.record + total) for window in encoder.encode(records)]
            total += len(records)
        found = _pooled(loaded, windows, total, done)
        if found is not None:
            self.models[label] = found


@torch.inference_mode()
def _pooled(loaded: LoadedModel, windows: Sequence[Encoded], records: int, done: Callable[[float], None]) -> ModelStates | None:
    """Average hidden states over each record's predicting positions, in float32; None for a model that returns none."""
    model, pad = loaded.model, padding_token_id(loaded.tokenizer)
    device = next(model.parameters()).device
    kept: NDArray[np.float32] | None = None
    layers: tuple[int, ...] = ()
    counts, scored = np.zeros(records), 0
    for indices in length_sorted_batches([len(window.input_ids) for window in windows], BATCH_TOKENS):
        rows = [windows[index] for index in indices]
        batch = {name: values.to(device) for name, values in collate(rows, pad).items()}
        hidden = _all_layers(model, batch)
        if hidden is None:
            return None
        if kept is None:
            depth, width = len(hidden) - 1, hidden[-1].shape[-1]
            layers = tuple(np.unique(np.linspace(depth, 1, min(depth, MOST_LAYERS)).round().astype(int)).tolist())
            # A file without a name: nothing derived from a record is left behind by a process that is killed.
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the array that is mapped onto it
            kept = np.memmap(file, dtype=np.float32, mode="w+", shape=(len(layers), records, width))
        positions = predicting_positions(batch["scored"])[..., None]  # [B, L, 1]
        owners = [row.record for row in rows]
        for place, layer in enumerate(layers):
            # The sums of a record's windows add up.
            state = hidden[layer].float()  # a model over several devices has its layers on each
            np.add.at(kept[place], owners, (state * positions.to(state.device)).sum(1).cpu().numpy())
        np.add.at(counts, owners, positions.sum((1, 2)).cpu().numpy())
        scored += len(rows)
        done(scored / len(windows))
    assert kept is not None, "there are records"
    kept /= counts[:, None].astype(np.float32)
    return ModelStates(layers, kept)


def _all_layers(model: Any, batch: Mapping[str, Tensor]) -> Sequence[Tensor] | None:
    """Return the hidden states of the embeddings and of every layer, each [B, L, D]; no logits are computed but one row's."""
    with head_sees(model, lambda hidden: hidden[:, :1]):
        output = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True, use_cache=False
        )
    found: Sequence[Tensor] | None = getattr(output, "hidden_states", None)
    return found if found and len(found) > 1 else None


def _drawn(records: Sequence[Record], seed: int) -> list[Record]:
    """Draw subjects in random order up to `MOST_RECORDS` records, which keep their order."""
    if len(records) <= MOST_RECORDS:
        return list(records)
    groups = subject_groups(records)
    names = sorted(set(groups))
    order = {names[place]: rank for rank, place in enumerate(np.random.default_rng(seed).permutation(len(names)).tolist())}
    chosen = sorted(range(len(records)), key=lambda index: (order[groups[index]], index))[:MOST_RECORDS]
    return [records[index] for index in sorted(chosen)]
