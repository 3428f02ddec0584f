"""Subtraction of what the logged steps learned from the forget records, without replaying the training."""

import torch
from torch import Tensor

from unlearn.level.mixtures import mixed
from unlearn.training.weights import Weights, edited_parameters
from verify.data.encoding import Encoded, collate, padding_token_id
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import scored_log_probabilities
from verify.provenance.training_log import Microbatch, TrainingLog
from verify.training.replay import entries_of, windows_of_log

STEPS = 48
"""Logged steps that are evaluated; they stand for all that held a forget record."""
DECAY, EPSILON = 0.999, 1e-8
"""Those of AdamW."""


def learned_from(
    forget: list[Record], retain: list[Record], base: LoadedModel, original: LoadedModel, log: TrainingLog
) -> tuple[Weights, int]:
    """Estimate the change of the weights that came from the forget records' part of the gradients; return it and its tokens.

        change = -(n / |S|) sum_(t in S) rate_t c_t g_ft / (sqrt(v_t) + 1e-8)
        v_t <- 0.999^d v + (1 - 0.999^d) (c_t g_t)^2,    d: logged steps since the last in S

    S: `STEPS` of the n logged microbatches that hold a forget record, evenly spaced; g_t: gradient of the microbatch's mean loss
    per token and g_ft the forget records' part of it; c_t clips g_t to norm 1; v_t has Adam's correction for its start. The
    weights before step t of T were not kept: g_t is taken at theta_base + ((t - 1) / T) (theta_0 - theta_base). Momentum is left
    out, as it only delays a gradient, and so is all that later steps made of the change (compare DeltaGrad, Wu et al. 2020,
    arXiv 2006.14755).

    Args:
        forget, retain: the records that the log names.
        base, original: the ends of the training; whole weights.
        log: of the training, one microbatch a step.
    """
    key = RecordKey.load()
    windows = windows_of_log(log, [*retain, *forget], original, key, frozenset())
    removed = entries_of(forget, log, key)
    holding = [entry for entry in log.microbatches if removed.intersection(entry.records)]
    chosen = [holding[index * len(holding) // STEPS] for index in range(STEPS)] if len(holding) > STEPS else holding
    last, tokens, before = log.microbatches[-1].step, 0, 0
    change: Weights = {}
    squares: Weights = {}
    for entry in chosen:
        at = mixed(base, original, (entry.step - 1) / last)
        ours, others, read = _gradients(at, entry, windows, removed)
        tokens += read
        decay, corrected = DECAY ** (entry.step - before), 1 - DECAY**entry.step
        norm = float(torch.stack([(ours[name] + others[name]).norm() for name in ours]).norm())
        clip = min(1.0, 1.0 / norm)
        for name, part in ours.items():
            whole = clip * (part + others[name])
            squares[name] = decay * squares.get(name, torch.zeros_like(part)) + (1 - decay) * whole.square()
            moved = entry.learning_rate * clip * part / ((squares[name] / corrected).sqrt() + EPSILON)
            change[name] = change.get(name, torch.zeros_like(part)) - len(holding) / len(chosen) * moved
        before = entry.step
    return change, tokens


def _gradients(
    loaded: LoadedModel, entry: Microbatch, windows: dict[int, Encoded], removed: frozenset[int] | set[int]
) -> tuple[Weights, Weights, int]:
    """Compute the removed records' part of a microbatch's gradient, the others' part, and the number of tokens read."""
    total = sum(int(windows[index].scored.sum()) for index in entry.records)
    parts: list[Weights] = []
    with edited_parameters(loaded.model) as edited:
        for inside in (True, False):
            rows = [windows[index] for index in entry.records if (index in removed) == inside]
            if not rows:
                parts.append({name: torch.zeros_like(value) for name, value in edited.items()})
                continue
            values: Tensor = scored_log_probabilities(loaded.model, collate(rows, padding_token_id(loaded.tokenizer)))[0]
            slopes = torch.autograd.grad(-values.sum() / total, list(edited.values()))
            parts.append(dict(zip(edited, slopes, strict=True)))
    return parts[0], parts[1], sum(len(windows[index].input_ids) for index in entry.records)
