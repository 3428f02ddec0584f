"""Token statistics of one forward pass: per scored token, everything that one-pass attacks need.

For the token x_t and the model's distribution p over the vocabulary V at its position, in nats:

    log_probability  l_t = log p(x_t)
    mean             mu_t = sum_v p_v log p_v                        (minus the entropy)
    deviation        sigma_t = sqrt(sum_v p_v (log p_v)^2 - mu_t^2)
    rank             number of other tokens that are at least as probable as x_t
    greedy           whether greedy decoding picks x_t

The head's output is reduced in chunks of positions, so that no [T, V] array is ever kept: 18 bytes per token remain. Tokens that
all texts begin with go through the layers once (`verify.models.shared_prefix`).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from verify.data.encoding import Encoded, collate
from verify.errors import RunError
from verify.io.progress import phase
from verify.models.head_values import in_cache
from verify.models.log_probabilities import head_sees, output_head, predicting_positions, step_after_head, vocabulary_size
from verify.models.shared_prefix import SharedPrefix, read_shared_prefix
from verify.models.token_table import TokenStatistics, TokenTable

CHUNK_BYTES = 32 << 20
"""Size of one chunk of float32 logits: the largest part of the [T, V] array that exists at a time."""

CACHE_BYTES = 2 << 20
"""Size of the part of a chunk that is reduced at once, small enough for a processor's cache."""

BATCH_TOKENS = 1024
"""Largest number of tokens per batch, padding included, unless one window is longer."""

WHOLE_CALLS = 4
"""Factor of chunks for models whose logits do not come from one head, as an ensemble's do not: each chunk is a forward call."""

ON_GPU = 16
"""Factor of chunks and batches on a GPU, where every launch costs as much as work on many tokens."""


def compute_token_statistics(
    model: nn.Module,
    windows: Sequence[Encoded],
    pad_token_id: int,
    progress: Callable[[int], None] = lambda _: None,
) -> TokenTable:
    """Compute the token statistics of every record in one pass.

    Args:
        model: a causal language model; run in evaluation mode, after which its mode is restored.
        windows: encoded records; all windows of one record are joined, in their order.
        pad_token_id: any token id; padding is masked.
        progress: called with the number of windows done, after each batch.

    Returns:
        one entry per record, in order of `Encoded.record`.

    Raises:
        RunError: the model gave a log-probability that is not finite.
    """
    device = next(model.parameters()).device
    table, starts = _places(windows)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), phase("scoring records") as share:
            done, prefix = 0, read_shared_prefix(model, windows)
            lengths = [len(window.input_ids) for window in windows]
            if prefix is not None:
                lengths = [prefix.counted(length - prefix.length) for length in lengths]
            for indices in length_sorted_batches(lengths, batch_tokens(device)):
                batch = [windows[index] for index in indices]
                for index, statistics in zip(indices, _score_batch(model, batch, pad_token_id, device, prefix), strict=True):
                    for name, column in table.columns.items():
                        column[starts[index] : starts[index] + len(statistics)] = getattr(statistics, name)
                done += len(indices)
                progress(done)
                share(done / len(windows))
    finally:
        model.train(was_training)
    return table


def batch_tokens(device: torch.device) -> int:
    """Return the largest number of tokens per batch on a device."""
    return BATCH_TOKENS if device.type == "cpu" else ON_GPU * BATCH_TOKENS


def length_sorted_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group indices by length, longest first, so that rows x longest stays within `budget` tokens (at least one row)."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        rows = max(1, budget // lengths[order[start]])
        yield order[start : start + rows]
        start += rows


def _score_batch(
    model: nn.Module, windows: Sequence[Encoded], pad_token_id: int, device: torch.device, prefix: SharedPrefix | None
) -> Iterator[TokenStatistics]:
    """Yield the statistics of each window of one batch, checked for finite values."""
    if prefix is not None:
        windows = [prefix.without(window) for window in windows]
    batch = {name: tensor.to(device) for name, tensor in collate(windows, pad_token_id).items()}
    scored = batch["scored"]
    columns = _reduce_in_chunks(model, batch, batch["input_ids"][scored], prefix)
    # Columns [N] are in row-major order, so that consecutive stretches of `counts` tokens belong to the windows.
    counts = [int(window.scored.sum()) for window in windows]
    split = {name: np.split(column.cpu().numpy(), np.cumsum(counts)[:-1]) for name, column in columns.items()}
    for row, window in enumerate(windows):
        statistics = TokenStatistics(**{name: split[name][row] for name in split}, secret=window.secret[window.scored])
        if not np.isfinite(statistics.log_probability).all() or not np.isfinite(statistics.deviation).all():
            raise RunError(
                f"the model gave a log-probability that is not finite (record {window.record + 1}). Its weights are damaged "
                "or overflow in this precision; load it with --dtype float32, or restore the weights."
            )
        yield statistics


def _reduce_in_chunks(
    model: nn.Module, batch: dict[str, Tensor], targets: Tensor, prefix: SharedPrefix | None
) -> dict[str, Tensor]:
    """Compute the statistics of all N scored tokens from one pass through the layers.

    The model's own forward call applies the head to the first chunk only, while a hook keeps the hidden states of all; the other
    chunks then go through the head and the model's operation after it, if that is a known one.
    """
    positions = predicting_positions(batch["scored"])  # [B, L]
    size = CHUNK_BYTES if positions.device.type == "cpu" else ON_GPU * CHUNK_BYTES
    size *= 1 if getattr(model, "ensemble_combine", None) is None else WHOLE_CALLS
    rows = max(1, size // (4 * vocabulary_size(model)))  # 4 bytes per float32 logit
    kept: list[Tensor] = []

    def first_chunk(hidden: Tensor) -> Tensor:
        kept.append(hidden[positions])
        return kept[-1][:rows]

    def call(select: Callable[[Tensor], Tensor]) -> Tensor:
        mask = batch["attention_mask"]
        read = {"attention_mask": mask, "use_cache": False} if prefix is None else prefix.before(mask)
        with head_sees(model, select):
            logits: Tensor = model(input_ids=batch["input_ids"], **read).logits
        return logits

    logits = call(first_chunk)  # [rows, V]
    hidden, head = kept[-1], output_head(model)  # [N, D]
    parts = [_reduce(logits, targets[:rows])]
    if len(hidden) > rows:
        # An ensemble applies its head once per adapter, and its logits may be those of the last one by chance.
        after = step_after_head(model, head(hidden[:1]), logits[:1]) if len(kept) == 1 else None
        for start in range(rows, len(hidden), rows):
            chunk = slice(start, start + rows)
            # Where an unknown operation follows the head, every chunk takes a whole forward call of the model.
            chunk_logits = after(head(hidden[chunk])) if after else call(lambda states, c=chunk: states[positions][c])  # type: ignore[misc]
            parts.append(_reduce(chunk_logits, targets[chunk]))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _reduce(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Reduce logits [n, V] to the statistics of their tokens [n], in float32, a few rows at a time.

    The head's matrix product is fastest with many rows, the reductions with rows that fit into the cache: hence two chunk sizes.
    """
    rows = max(1, CACHE_BYTES // (4 * logits.shape[1]))
    parts = [_reduce_rows(logits[part], targets[part]) for part in in_cache(len(logits), rows, logits.device)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _reduce_rows(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Compute the statistics of the module's docstring from logits [n, V] and targets [n]."""
    z = logits.float()
    top = z.amax(-1, keepdim=True)  # [n, 1]
    z_target = z.gather(-1, targets[:, None])  # [n, 1]
    # Counted in float32: exact up to 2^24, far beyond any vocabulary, and several times faster than summing booleans.
    at_least = torch.ge(z, z_target, out=torch.empty_like(z)).sum(-1)
    # Only a tie at the top, which is rare, needs an argmax to see which token greedy decoding picks.
    greedy = at_least == 1
    tied = (z_target == top)[:, 0] & ~greedy
    if bool(tied.any()):
        greedy[tied] = z[tied].argmax(-1) == targets[tied]
    shifted = z - top
    probability = torch.softmax(shifted, dim=-1)
    log_total = -probability.amax(-1).log()  # the most probable token has shifted logit 0, so p = 1 / total
    # First and second moment of the shifted logits under p [n]; log p_v = shifted_v - log_total.
    first = torch.linalg.vecdot(probability, shifted)
    second = torch.linalg.vecdot(probability.mul_(shifted), shifted)
    return {
        "log_probability": (z_target - top)[:, 0] - log_total,
        "mean": first - log_total,
        # The variance does not change under the shift by the maximum, and both moments are small where the model is certain, so
        # that little cancels.
        "deviation": (second - first.square()).clamp_min(0).sqrt(),
        "rank": at_least.int() - 1,
        "greedy": greedy,
    }


def _places(windows: Sequence[Encoded]) -> tuple[TokenTable, list[int]]:
    """Return a table to be filled, in order of the records' numbers, and the place of each window's first token in it."""
    counts = np.array([int(window.scored.sum()) for window in windows], dtype=np.int64)
    numbers, owner = np.unique([window.record for window in windows], return_inverse=True)
    order = np.argsort(owner, kind="stable")  # the windows of one record stay in their order
    starts = np.zeros(len(windows), dtype=np.int64)
    starts[order] = np.cumsum(counts[order]) - counts[order]
    return TokenTable.empty(np.bincount(owner, weights=counts, minlength=len(numbers)).astype(np.int64)), starts.tolist()
