"""Outputs of the model before unlearning: computed once per record, stored on disk, looked up by row.

Many objectives compare with a frozen copy of the model. The copy never changes, so its outputs are a table; keeping and running a
second model would double memory and time for the same numbers. For whole token distributions the table holds the hidden states
before the head (D numbers per token instead of V), and a frozen copy of the head turns them into logits again.

Shapes: N windows of a role, T their scored tokens, B rows of a batch, n scored tokens of a batch, D width, V vocabulary.

Objectives and files on disk call these outputs `reference`, the name they had first; they have nothing to do with the reference
models of an audit.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
from verify.io.progress import phase
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import head_sees, output_head, predicting_positions, step_after_head
from verify.models.token_stats import batch_tokens, compute_token_statistics, length_sorted_batches

ROLES = ("forget", "retain", "alternative")
KINDS = ("log_probability", "logits", "hidden", "random_logits")
"""Quantities per role: summed log-probability [B]; logits [n, V]; hidden states of the objective's layer [n, D] at the positions
that predict scored tokens; logits [n, V] of an untrained model."""

GIVEN = ("forget_level", "forget_context")
"""Quantities that the model before unlearning cannot provide, so that a run which reads them passes them in: the log-probability of
every scored forget token under a model that never saw it, by one or several readings [T] or [T, R]; and the number of the context
that each forget window is in [N]."""
PER_WINDOW = ("log_probability", "context")

KNOWN = (*(f"{role}_{kind}" for role in ROLES for kind in KINDS), *GIVEN)


@dataclass(frozen=True, eq=False)
class InitialOutputs:
    """The initial outputs that a run reads.

    Attributes:
        tables: name -> values [N] or, for quantities per token, [T] or [T, D]; NaN or no rows for windows that are not read.
        offsets: role -> index of each window's first token in the tables per token [N + 1].
        heads: kind -> function from hidden states [n, D] to logits [n, V].
    """

    tables: Mapping[str, Tensor] = field(default_factory=dict)
    offsets: Mapping[str, Tensor] = field(default_factory=dict)
    heads: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def of(self, rows: Mapping[str, Sequence[int]], device: torch.device) -> dict[str, Tensor]:
        """Return the quantities of a batch: [B], [n], [n, D], [n, R] or [n, V], tokens in row-major order.

        With "ROLE_logits" come the hidden states that they are computed from, as "ROLE_states" [n, D].

        Args:
            rows: role -> the windows' indices, in the batch's order [B].
            device: device of the results.
        """
        found = {}
        for name, table in self.tables.items():
            role, kind = name.split("_", 1)
            if kind in PER_WINDOW:
                found[name] = table[list(rows[role])].to(device)  # [B]
                continue
            begins = self.offsets[role]
            picked = torch.cat([table[begins[row] : begins[row + 1]] for row in rows[role]]).to(device)
            found[name] = self.heads[kind](picked) if kind in self.heads else picked
            if kind == "logits":
                found[f"{role}_states"] = picked
        return found


def load_or_compute_outputs(
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
    read: Mapping[str, Collection[int]] | None = None,
) -> InitialOutputs:
    """Load the initial outputs of a run, or compute and store them; a resumed run reads those stored at its start.

    Args:
        work_dir: where they are stored.
        loaded: the model before unlearning.
        names: which quantities, from `KNOWN`.
        windows: encoded records by role.
        pad_token_id: any token id; padding is masked.
        layer: the decoder layer whose hidden states are stored.
        seed: seed of the untrained model.
        trained_head: whether training will change the head, so that a copy is needed.
        given: quantities computed elsewhere, by name, of all windows.
        read: by role, the windows that the run will read, if it will not read all: a short run on a large retain set reads few.

    Raises:
        IntegrityError: the stored table was changed or truncated after the run began.
        InputError: the model transforms its logits in a way that cannot be reproduced from the table.
    """
    wanted = sorted(names)
    assert all(name in KNOWN for name in wanted), f"unknown reference quantity in {wanted}"
    if not wanted:
        return InitialOutputs()
    table, seal = work_dir / "reference.safetensors", work_dir / "reference.json"
    parts = {role: sorted(set(rows)) for role, rows in (read or {}).items() if len(set(rows)) < len(windows[role])}
    if seal.exists() and not _stored_parts(table, seal):
        parts = {}  # an earlier version computed all of them
    untrained = _untrained(loaded.model, seed) if any(name.endswith("random_logits") for name in wanted) else None
    with distributed.main_first():
        if not seal.exists():
            known = {name: torch.as_tensor(values, dtype=torch.float32) for name, values in (given or {}).items()}
            computed = [name for name in wanted if name not in known]
            values = known | {name: _compute(name, loaded, untrained, windows, parts, pad_token_id, layer) for name in computed}
            _store(values, parts, table, seal)
    offsets = {role: _offsets(found, parts.get(role)) for role, found in windows.items()}
    heads = {}
    if any(name.endswith("_logits") and not name.endswith("random_logits") for name in wanted):
        heads["logits"] = _frozen_head(loaded.model, copy=trained_head)
    if untrained is not None:
        heads["random_logits"] = _frozen_head(untrained, copy=False)
    return InitialOutputs(load_file(table), offsets, heads)


def _stored_parts(table: Path, seal: Path) -> list[str]:
    """Return the roles of which only some windows are stored, after checking the table against its seal."""
    stored = read_json(seal)
    if not table.exists() or file_digest(table) != stored["sha256"]:
        raise IntegrityError(f"{table} is not what this run wrote at its beginning. Start again with a new --output.")
    return list(stored.get("parts", ()))


def _store(values: Mapping[str, Tensor], parts: Mapping[str, Sequence[int]], table: Path, seal: Path) -> None:
    """Write the table and then its seal: without the seal the table is computed again."""
    with atomic_file(table, mode=0o600) as stream:
        stream.write(save(dict(values)))
    write_json(seal, {"sha256": file_digest(table), **({"parts": sorted(parts)} if parts else {})})


def _offsets(windows: Sequence[Encoded], part: Sequence[int] | None) -> Tensor:
    """Return the index of each window's first token in a table of the windows in `part`, or of all [N + 1]."""
    counts = np.array([int(window.scored.sum()) for window in windows], dtype=np.int64)
    if part is not None:
        counts[np.setdiff1d(np.arange(len(counts)), part)] = 0
    return torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))


def _compute(
    name: str,
    loaded: LoadedModel,
    untrained: nn.Module | None,
    windows: Mapping[str, Sequence[Encoded]],
    parts: Mapping[str, Sequence[int]],
    pad_token_id: int,
    layer: int | None,
) -> Tensor:
    """Compute one quantity of its role's windows: [N], NaN for those outside `parts`; or per token [T, D], without theirs."""
    role, kind = name.split("_", 1)
    part = parts.get(role)
    chosen = windows[role] if part is None else [windows[role][row] for row in part]
    if kind == "log_probability":
        values = _log_probabilities(loaded, chosen, pad_token_id)
        if part is None:
            return values
        found = torch.full((len(windows[role]),), torch.nan)
        found[torch.tensor(part)] = values
        return found
    if kind == "hidden":
        assert layer is not None, "an objective that reads hidden states names their layer"
        return _per_token(loaded.model, chosen, pad_token_id, lambda model, batch: layer_hidden(model, batch, layer)[0])
    model = loaded.model if kind == "logits" else untrained
    assert model is not None, "the caller builds one"
    return _per_token(model, chosen, pad_token_id, _before_head)


def _log_probabilities(loaded: LoadedModel, windows: Sequence[Encoded], pad_token_id: int) -> Tensor:
    """Compute the summed log-probability of every window's scored tokens, float32 [N]."""
    # Each window is numbered as a record of its own, since training batches consist of windows.
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
    """Collect what `read` returns for each scored token, in the windows' order [T, D], on the CPU."""
    device, training = next(model.parameters()).device, model.training
    parts: list[Tensor] = [torch.empty(0)] * len(windows)
    model.eval()
    read_so_far = 0
    with phase("reading the model before unlearning") as done:
        for rows in length_sorted_batches([len(window.input_ids) for window in windows], batch_tokens(device)):
            chosen = [windows[row] for row in rows]
            batch = {name: values.to(device) for name, values in collate(chosen, pad_token_id).items()}
            counts = [int(window.scored.sum()) for window in chosen]
            # [n, D] of the batch, split by window; batches are sorted by length, so parts are put back in the windows' order.
            for row, part in zip(rows, torch.split(read(model, batch), counts), strict=True):
                parts[row] = part.cpu()
            read_so_far += len(rows)
            done(read_so_far / len(windows))
    model.train(training)
    return torch.cat(parts)


def _before_head(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Compute the hidden states that the head reads at the positions predicting scored tokens [n, D]."""
    positions, kept = predicting_positions(batch["scored"]), []

    def select(hidden: Tensor) -> Tensor:
        kept.append(hidden[positions])
        return kept[0][:1]  # the head runs on one token only: its result is not read

    with head_sees(model, select):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return kept[0]


def _frozen_head(model: nn.Module, copy: bool) -> Callable[[Tensor], Tensor]:
    """Return a function from hidden states [n, D] to logits [n, V]: the head as it is now, and what the model does after it.

    What follows the head (a softcap or a scale, say) is identified by comparing the head's output with the model's logits after a
    short arbitrary text.

    Args:
        model: the model.
        copy: copy the head, since training will change it.

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
            "this model transforms its logits in an unsupported way, so its output distributions before unlearning cannot be "
            "stored. Use a method that does not need them, such as npo or grad_diff."
        )
    frozen, kind = deepcopy(head) if copy else head, ids.device.type
    half = torch.is_autocast_enabled(kind)

    def logits(hidden: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=half):  # as the table was computed
            made: Tensor = after(frozen(hidden))
            return made

    return logits


def _untrained(model: Any, seed: int) -> nn.Module:
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
