"""The never-trained level from two views: a coarse one that never saw the record, and a fine one with a trace of it.

A short retraining from the base does not get far enough: where a model is confidently wrong about a record it never saw depends on
what a long training makes of the other records. So the fine view starts between the base and the model before unlearning,

    theta = theta_base + weight (theta_0 - theta_base),   then trained on the retain set for a share of a retraining.

It ranks the records better, but a trace of each forget record is left in it, and never-trained controls cannot show how much: they
have none. A trace shrinks losses and their differences, so the two views are modelled as

    A = E[l* | A]         the coarse view: the base model, calibrated on controls (`unlearn.level.estimate`)
    B = c + s l* + e      the fine view, on an unknown scale

    l*           never-trained level of a record, the wanted quantity, nats per token
    c, s         offset and scale of the fine view; s < 1 where a trace shrinks differences
    e            error of the fine view, independent of A and l*
    var(l* | A)  what A leaves unexplained: its mean squared error on controls (`Levels.control_error`)

s and var(e) follow from the forget set itself, with A as an instrumental variable (Wald 1940), since cov(A, l*) = var(A):

    s = cov(A, B) / var(A),    var(e) = var(B) - s^2 (var(A) + var(l* | A))

and both views are combined as for normal variables, a Kalman update with gain K:

    l* = A + K (B - mean B - s (A - mean A)),    K = s var(l* | A) / (s^2 var(l* | A) + var(e))

Where the errors of the two views are correlated, which they are slightly, s is too large and var(e) too small; in the extreme
K = 1 / s, and B alone decides.

A, B and l* are per record; the tokens of B are shifted with their record. A small forget set does not determine s, so some retain
records stand in for more of it: they are left out of the short training and are as well learned as the forget set. Only the forget
set's levels are used.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn.level.estimate import (
    Floats,
    Levels,
    base_of,
    encoded,
    estimate_levels,
    log_probabilities,
    train_share,
    trained_options,
)
from unlearn.training import distributed
from unlearn.training.method import Context
from unlearn.training.options import DEFAULTS, TrainingOptions, TrainingResult
from unlearn.training.weights import sample
from verify.data.encoding import Encoded
from verify.data.records import Record
from verify.models.adapter_types import is_adapter
from verify.models.loading import LoadedModel

WEAK = 0.5
"""Least correlation between the base's prediction and the level of the controls; below it A is too weak an instrument."""
ENOUGH = 80
"""Records needed to estimate s; a smaller forget set is filled up with stand-ins."""
STAND_INS = 0.1
"""Largest share of the retain set that may stand in."""


def mixture_level(
    context: Context, forget: Sequence[Encoded], controls: Sequence[Encoded], weight: float, share: float
) -> tuple[Levels, TrainingResult] | None:
    """Estimate the level from both views, with its training cost; None, before any training, where a view is not available.

    The fine view is missing where base and model cannot be mixed, the coarse one where its cross-validated correlation on controls
    is below `WEAK`.

    Args:
        context: with a base and a retain set.
        forget, controls: windows; there must be controls.
        weight: starting point of the fine view, from 0 (the base) to 1 (the model before unlearning).
        share: length of its training, as a share of a retraining.

    Raises:
        InputError: no base, or too few controls.
    """
    base, options = base_of(context, "--sources mixture"), trained_options(context)
    if not can_be_mixed(base, context.loaded):
        return None
    stand_ins, kept = _stand_ins(context)
    windows = [*forget, *encoded(base, stand_ins, options.overflow)]
    truth = log_probabilities(context.loaded, controls, context.options)
    rough = estimate_levels(context.loaded, [base], windows, controls, context.options, truth=truth)
    # Rounding may differ between processes near the threshold; they must agree, since all train or none.
    if distributed.agreed(rough.control_error is None or (rough.control_correlation or 0.0) < WEAK):
        return None
    start = mixed(base, context.loaded, weight)
    fine, result = train_share(context, start, kept, share, _in_half_batches(options))
    view = estimate_levels(context.loaded, [fine], windows, controls, context.options, truth=truth)
    own = np.arange(len(windows)) < len(forget)
    assert rough.control_error is not None, "there are controls"
    found = two_views(rough.losses(), view.losses(), own, rough.control_error)
    return view.moved_to(found).first(len(forget)), result


def two_views(rough: Floats, fine: Floats, own: NDArray[np.bool_], unexplained: float) -> Floats:
    """Compute the level of every record by the formulas above.

    Args:
        rough: A, the calibrated coarse view [K].
        fine: B, the fine view on its own scale [K].
        own: True for forget records, False for stand-ins; the two groups may have different means [K].
        unexplained: var(l* | A).

    Returns:
        The levels l* [K]; A itself where B adds no information (s <= 0).
    """
    a, b = (_centred(values, own) for values in (rough, fine))
    if not a.any():
        return rough
    slope = float(a @ b / (a @ a))
    # A difference of estimates may come out negative; a variance cannot.
    noise = max(0.0, float(np.mean(b**2)) - slope**2 * (float(np.mean(a**2)) + unexplained))
    if slope <= 0 or unexplained == 0:
        return rough
    gain = slope * unexplained / (slope**2 * unexplained + noise)
    return np.asarray(rough + gain * (b - slope * a))


def _centred(values: Floats, own: NDArray[np.bool_]) -> Floats:
    """Subtract from every value [K] the mean of its group, forget records or stand-ins."""
    found = values.copy()
    for group in (own, ~own):
        if group.any():
            found[group] -= values[group].mean()
    return found


@torch.no_grad()
def mixed(base: LoadedModel, original: LoadedModel, weight: float) -> LoadedModel:
    """Build a model whose weights are theta_base + weight (theta_0 - theta_base)."""
    model = copy.deepcopy(original.model)
    if is_adapter(model):
        _shrink_adapter(model, weight)
        return dataclasses.replace(original, model=model)
    start = dict(base.model.named_parameters())
    for name, value in model.named_parameters():
        value.copy_(torch.lerp(start[name].to(value), value, weight))
    return dataclasses.replace(base, model=model)


def can_be_mixed(base: LoadedModel, original: LoadedModel) -> bool:
    """Return whether two models can be mixed: weights alike in name and shape, or a plain LoRA adapter on the base."""
    if is_adapter(original.model):
        from peft import LoraConfig

        return not is_adapter(base.model) and all(
            isinstance(config, LoraConfig) and not config.modules_to_save and not config.use_dora and config.bias == "none"
            for config in original.model.peft_config.values()
        )
    shapes = [{name: value.shape for name, value in one.model.named_parameters()} for one in (base, original)]
    return shapes[0] == shapes[1]


def _shrink_adapter(model: Any, weight: float) -> None:
    """Scale an adapter's weight change B A in place, by its factor B alone."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            for part in (module.lora_B, module.lora_embedding_B):
                for value in part.parameters():
                    value.mul_(weight)


def _stand_ins(context: Context) -> tuple[list[Record], list[Record]]:
    """Draw the retain records that stand in, and return them with the rest of the retain set."""
    count = max(0, min(ENOUGH - len(context.forget), int(STAND_INS * len(context.retain))))
    standing = sample(context.retain, count, context.options.seed)
    chosen = {id(record) for record in standing}
    return standing, [record for record in context.retain if id(record) not in chosen]


def _in_half_batches(options: TrainingOptions) -> TrainingOptions:
    """Halve the batch size at the same number of passes: a short training gets further in more, smaller steps."""
    batch = options.batch_size or DEFAULTS["batch_size"]
    if options.gradient_accumulation % 2 == 0:
        halved, times = dataclasses.replace(options, gradient_accumulation=options.gradient_accumulation // 2), 2.0
    elif batch > 1:
        halved, times = dataclasses.replace(options, batch_size=batch // 2), batch / (batch // 2)
    else:
        return options
    return halved if options.max_steps is None else dataclasses.replace(halved, max_steps=round(times * options.max_steps))
