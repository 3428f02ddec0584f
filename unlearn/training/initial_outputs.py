"""Outputs of the model before unlearning: computed once per record, stored on disk, looked up by row.

Many objectives compare with a frozen copy of the model. The copy never changes, so its answers are a table; holding and running a
second model would double memory and time for the same numbers. Of whole token distributions the table keeps the hidden states in
front of the head (D numbers a token instead of V), and the head as it was turns them into logits again.

Shapes: N windows of a role, T their scored tokens, D width, V vocabulary.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from unlearn.training import distributed
from unlearn.training.layers import layer_hidden
from verify.data.encoding import Encoded, collate
from verify.errors import InputError, IntegrityError
from verify.io.files import atomic_file, file_digest, read_json, write_json
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import head_sees, output_head, predicting_positions, step_after_head
from verify.models.token_stats import BATCH_TOKENS, compute_token_statistics, length_sorted_batches

ROLES = ("forget", "retain", "alternative")
KINDS = ("log_probability", "logits", "hidden", "random_logits")
"""Per role: summed log-probability [B], logits [N, V], hidden states of the objective's layer [N, D] where scored tokens are
predicted, and the logits [N, V] of a model that was never trained."""

GIVEN = "forget_level"
"""Log-probability of every scored forget token under a model that never saw it [T]: no quantity of the model before unlearning, so
that whoever asks for it brings it along."""

KNOWN = (*(f"{role}_{kind}" for role in ROLES for kind in KINDS), GIVEN)


@dataclass(frozen=True, eq=False)
class Reference:
    """The initial outputs that a run reads.

    Attributes:
        tables: name -> values; [N] or, for quantities per token, [T] or [T, D].
        offsets: role -> where each window's tokens begin in the tables per token [N + 1].
        heads: kind -> hidden states [n, D] to logits [n, V].
    """

    tables: Mapping[str, Tensor] = field(default_factory=dict)
    offsets: Mapping[str, Tensor] = field(default_factory=dict)
    heads: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def of(self, rows: Mapping[str, Sequence[int]], device: torch.device) -> dict[str, Tensor]:
        """Return the quantities of some windows, in order: [B], [n], [n, D] or [n, V] with tokens in row-major order."""
        found = {}
        for name, table in self.tables.items():
            role, kind = name.split("_", 1)
            if kind == "log_probability":
                found[name] = table[list(rows[role])].to(device)
                continue
            begins = self.offsets[role]
            picked = torch.cat([table[begins[row] : begins[row + 1]] for row in rows[role]]).to(device)
            found[name] = self.heads[kind](picked) if kind in self.heads else picked
        return found


def load_or_compute_reference(
    work_dir: Path,
    loaded: LoadedModel,
    names: Iterable[str],
    windows: Mapping[str, Sequence[Encoded]],
    pad_token_id: int,
    *,
    layer: int | None = None,
    seed: int = 0,
    trained_head: bool = True,
    given: Mapping[str, Any] | None = None,
) -> Reference:
    """Load the initial outputs of a run, or compute and store them; a resumed run reads those of its beginning.

    Args:
        work_dir: where they are kept.
        loaded: the model before unlearning.
        names: which quantities, from `KNOWN`.
        windows: encoded records by role.
        pad_token_id: any token id.
        layer: which decoder layer's hidden states.
        seed: of the model that was never trained.
        trained_head: whether training will change the head, so that a copy is needed.
        given: quantities that were computed elsewhere, by name.

    Raises:
        IntegrityError: the kept table was changed or cut off while checkpoints rest on it.
        InputError: the model does something to its logits that cannot be redone from the table.
    """
    wanted = sorted(names)
    assert all(name in KNOWN for name in wanted), f"unknown reference quantity in {wanted}"
    if not wanted:
        return Reference()
    table, seal = work_dir / "reference.safetensors", work_dir / "reference.json"
    if seal.exists() and (not table.exists() or file_digest(table) != read_json(seal)["sha256"]):
        raise IntegrityError(f"{table} is not what this run wrote at its beginning. Start again with a new --output.")
    stranger = _stranger(loaded.model, seed) if any(name.endswith("random_logits") for name in wanted) else None
    with distributed.main_first():
        if not seal.exists():
            known = {name: torch.as_tensor(values, dtype=torch.float32) for name, values in (given or {}).items()}
            computed = [name for name in wanted if name not in known]
            values = known | {name: _compute(name, loaded, stranger, windows, pad_token_id, layer) for name in computed}
            with atomic_file(table, mode=0o600) as stream:
                stream.write(save(values))
            write_json(seal, {"sha256": file_digest(table)})
    offsets = {
        role: torch.tensor(np.cumsum([0, *(int(window.scored.sum()) for window in found)])) for role, found in windows.items()
    }
    heads = {}
    if any(name.endswith("_logits") and not name.endswith("random_logits") for name in wanted):
        heads["logits"] = _frozen_head(loaded.model, copy=trained_head)
    if stranger is not None:
        heads["random_logits"] = _frozen_head(stranger, copy=False)
    return Reference(load_file(table), offsets, heads)


def _compute(
    name: str,
    loaded: LoadedModel,
    stranger: nn.Module | None,
    windows: Mapping[str, Sequence[Encoded]],
    pad_token_id: int,
    layer: int | None,
) -> Tensor:
    role, kind = name.split("_", 1)
    if kind == "log_probability":
        return _log_probabilities(loaded, windows[role], pad_token_id)
    if kind == "hidden":
        assert layer is not None, "an objective that asks for hidden states names their layer"
        return _per_token(loaded.model, windows[role], pad_token_id, lambda model, batch: layer_hidden(model, batch, layer)[0])
    model = loaded.model if kind == "logits" else stranger
    assert model is not None, "the caller makes one"
    return _per_token(model, windows[role], pad_token_id, _before_head)


def _log_probabilities(loaded: LoadedModel, windows: Sequence[Encoded], pad_token_id: int) -> Tensor:
    """Compute the summed log-probability of every window's scored tokens, float32 [N]."""
    # Each window counts as a record of its own here: training batches are made of windows.
    single = [Encoded(window.input_ids, window.scored, window.secret, row) for row, window in enumerate(windows)]
    statistics = compute_token_statistics(loaded.model, single, pad_token_id)
    return torch.from_numpy(np.array([entry.log_probability.sum(dtype=np.float64) for entry in statistics], dtype=np.float32))


@torch.no_grad()
def _per_token(
    model: nn.Module,
    windows: Sequence[Encoded],
    pad_token_id: int,
    read: Callable[[nn.Module, Mapping[str, Tensor]], Tensor],
) -> Tensor:
    """Collect what `read` returns per scored token, in the windows' order [T, D]."""
    device, training = next(model.parameters()).device, model.training
    parts: list[Tensor] = [torch.empty(0)] * len(windows)
    model.eval()
    for rows in length_sorted_batches([len(window.input_ids) for window in windows], BATCH_TOKENS):
        chosen = [windows[row] for row in rows]
        batch = {name: values.to(device) for name, values in collate(chosen, pad_token_id).items()}
        counts = [int(window.scored.sum()) for window in chosen]
        for row, part in zip(rows, torch.split(read(model, batch), counts), strict=True):
            parts[row] = part.cpu()
    model.train(training)
    return torch.cat(parts)


def _before_head(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Compute the hidden states that the head reads where a scored token is predicted [N, D]."""
    positions, kept = predicting_positions(batch["scored"]), []

    def select(hidden: Tensor) -> Tensor:
        kept.append(hidden[positions])
        return kept[0][:1]

    with head_sees(model, select):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return kept[0]


def _frozen_head(model: nn.Module, copy: bool) -> Callable[[Tensor], Tensor]:
    """Freeze a copy of the head and of whatever the model does after it.

    Raises:
        InputError: the model does something unknown after its head.
    """
    head = output_head(model)
    with torch.no_grad():
        kept: list[Tensor] = []

        def select(hidden: Tensor) -> Tensor:
            kept.append(hidden[:, -1:])
            return kept[0]

        ids = torch.arange(1, 5, device=next(model.parameters()).device)[None]
        with head_sees(model, select):
            final = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        after = step_after_head(model, head(kept[0])[0], final[0])
    if after is None:
        raise InputError(
            "this model does something to its logits that is not known here, so that the distributions before unlearning cannot "
            "be kept. Use a method that needs none, such as npo or grad_diff."
        )
    frozen = deepcopy(head) if copy else head
    return lambda hidden: after(frozen(hidden))


def _stranger(model: Any, seed: int) -> nn.Module:
    """Build an untrained one-layer model of the same architecture and vocabulary."""
    from transformers import AutoModelForCausalLM

    while hasattr(model, "get_base_model"):
        model = model.get_base_model()
    config = deepcopy(model.config)
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    return made.to(device=next(model.parameters()).device).eval()
