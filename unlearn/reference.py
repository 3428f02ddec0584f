"""What the model before unlearning thought of each record: computed once, kept on disk, looked up by row.

Many objectives compare with a frozen copy of the model. The copy never changes, so its answers are a table; holding and running a
second model would double memory and time for the same numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from verify.encoding import Encoded
from verify.errors import IntegrityError
from verify.files import atomic_file, file_digest, read_json, write_json
from verify.models import LoadedModel
from verify.token_stats import compute_token_statistics

KNOWN = ("forget_log_probability", "retain_log_probability")


def load_or_compute_reference(
    work_dir: Path,
    loaded: LoadedModel,
    names: Iterable[str],
    windows: Mapping[str, Sequence[Encoded]],
    pad_token_id: int,
) -> dict[str, Tensor]:
    """The reference quantities of a run; a resumed run reads those of its beginning.

    Args:
        work_dir: where they are kept.
        loaded: the model before unlearning.
        names: which quantities, from `KNOWN`: summed log-probability per window, nats.
        windows: encoded records by role.
        pad_token_id: any token id.

    Returns:
        name -> values [N], one per window of that role.

    Raises:
        IntegrityError: the kept table was changed or cut off while checkpoints rest on it.
    """
    wanted = sorted(names)
    assert all(name in KNOWN for name in wanted), f"unknown reference quantity in {wanted}"
    if not wanted:
        return {}
    table, seal = work_dir / "reference.safetensors", work_dir / "reference.json"
    if seal.exists():
        if not table.exists() or file_digest(table) != read_json(seal)["sha256"]:
            raise IntegrityError(f"{table} is not what this run wrote at its beginning. Start again with a new --output.")
        return load_file(table)
    values = {name: _log_probabilities(loaded, windows[name.split("_")[0]], pad_token_id) for name in wanted}
    with atomic_file(table, mode=0o600) as stream:
        stream.write(save(values))
    write_json(seal, {"sha256": file_digest(table)})
    return values


def _log_probabilities(loaded: LoadedModel, windows: Sequence[Encoded], pad_token_id: int) -> Tensor:
    """Summed log-probability of the scored tokens of every window, float32 [N]."""
    # Each window counts as a record of its own here: training batches are made of windows.
    single = [Encoded(window.input_ids, window.scored, window.secret, row) for row, window in enumerate(windows)]
    statistics = compute_token_statistics(loaded.model, single, pad_token_id)
    return torch.from_numpy(np.array([entry.log_probability.sum(dtype=np.float64) for entry in statistics], dtype=np.float32))
