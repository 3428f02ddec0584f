"""The never-trained level from two views: one that never saw a record and is rough, one that half remembers it and is fine.

Trained for a little, a model that began at the base has not found what a long training makes of the other records, and that decides
where a model is surely wrong about one it never saw. So the fine view begins between the base and the model before unlearning:

    theta = theta_base + weight (theta_0 - theta_base),   then trained on the retain set for a share of a retraining.

It orders the records better, but a trace of each is left in it, and no never-trained record shows how much. A trace makes losses
smaller, and their differences too: B = a + s l* + e, where a, s and var(e) are unknown. The rough view A is the base model's,
calibrated on controls (`unlearn.levels`) and taken as E[l* | A] = A, so that cov(A, l*) = var(A); what it leaves, var(l* | A), is
its error on controls. The rest then follows from the forget set itself (A is an instrumental variable, Wald 1940; where the two
views err alike, which they do a little, s comes out too large and var(e) too small; in the extreme K is 1 / s, B alone):

    s = cov(A, B) / var(A),    var(e) = var(B) - s^2 (var(A) + var(l* | A))

and l* given both views is what is expected of a normal variable (a Kalman update):

    l* = A + K (B - mean B - s (A - mean A)),    K = s var(l* | A) / (s^2 var(l* | A) + var(e))

All is by record; each token of B moves with its record. Few records do not show a slope, so some of the retain set stand in: they
are left out of the short training, are as deeply learned as the forget set, and no level of theirs is used.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn import processes
from unlearn.levels import Floats, Levels, base_of, encoded, estimate_levels, train_share, trained_options
from unlearn.methods.base import Context
from unlearn.options import DEFAULTS, TrainingOptions
from unlearn.results import TrainingResult
from unlearn.weights import sample
from verify.adapter_types import is_adapter
from verify.encoding import Encoded
from verify.models import LoadedModel
from verify.records import Record

WEAK = 0.5
"""A base whose view of the controls' levels correlates less with them than this shows no slope and no level: a weak instrument."""
ENOUGH = 80
"""Records that show a slope; where the forget set has fewer, others stand in."""
STAND_INS = 0.1
"""At most this share of the retain set."""


def mixture_level(
    context: Context, forget: Sequence[Encoded], controls: Sequence[Encoded], weight: float, share: float
) -> tuple[Levels, TrainingResult] | None:
    """The level of the forget set from both views, and what it took; None, before anything is trained, where there are not two.

    That is where nothing lies between base and model, or where the base does not tell the levels of controls well enough to set a
    scale, each predicted by a fit without it.

    Args:
        context: with a base and a retain set.
        forget, controls: windows; there must be controls.
        weight: how far from the base towards the model before unlearning the fine view begins.
        share: length of its training, as a share of a retraining.

    Raises:
        InputError: no base, or too few controls.
    """
    base, options = base_of(context, "mixture"), trained_options(context)
    if not can_be_mixed(base, context.loaded):
        return None
    standing, kept = _stand_ins(context)
    asked = [*forget, *encoded(base, standing, options.overflow)]
    rough = estimate_levels(context.loaded, [base], asked, controls)
    if processes.agreed(rough.control_error is None or (rough.control_correlation or 0.0) < WEAK):
        return None
    start = mixed(base, context.loaded, weight)
    fine, result = train_share(context, start, kept, share, _in_half_batches(options))
    view = estimate_levels(context.loaded, [fine], asked, controls)
    own = np.arange(len(asked)) < len(forget)
    assert rough.control_error is not None, "there are controls"
    found = two_views(rough.losses(), view.losses(), own, rough.control_error)
    return view.moved_to(found).first(len(forget)), result


def two_views(rough: Floats, fine: Floats, own: NDArray[np.bool_], unexplained: float) -> Floats:
    """The level of every record, by the formulas above.

    Args:
        rough: A, a calibrated estimate [K].
        fine: B, orders the records well, on a scale of its own [K].
        own: whether a record is of the forget set or stands in; the two may differ in their means [K].
        unexplained: var(l* | A), what A leaves of the levels.

    Returns:
        The estimates [K]; A itself where B tells nothing.
    """
    a, b = (_less_their_means(values, own) for values in (rough, fine))
    if not a.any():
        return rough
    slope = float(a @ b / (a @ a))
    noise = max(0.0, float(np.mean(b**2)) - slope**2 * (float(np.mean(a**2)) + unexplained))
    if slope <= 0 or unexplained == 0:
        return rough
    gain = slope * unexplained / (slope**2 * unexplained + noise)
    return np.asarray(rough + gain * (b - slope * a))


def _less_their_means(values: Floats, own: NDArray[np.bool_]) -> Floats:
    """Differences within the two groups."""
    found = values.copy()
    for group in (own, ~own):
        if group.any():
            found[group] -= values[group].mean()
    return found


@torch.no_grad()
def mixed(base: LoadedModel, original: LoadedModel, weight: float) -> LoadedModel:
    """A new model between two that can be mixed: `weight` times the way from the base to the original."""
    model = copy.deepcopy(original.model)
    if is_adapter(model):
        _shrink_adapter(model, weight)
        return dataclasses.replace(original, model=model)
    start = dict(base.model.named_parameters())
    for name, value in model.named_parameters():
        value.copy_(torch.lerp(start[name].to(value), value, weight))
    return dataclasses.replace(base, model=model)


def can_be_mixed(base: LoadedModel, original: LoadedModel) -> bool:
    """Whether something lies between: all weights alike in name and shape, or a plain LoRA adapter on the base."""
    if is_adapter(original.model):
        from peft import LoraConfig

        return not is_adapter(base.model) and all(
            isinstance(config, LoraConfig) and not config.modules_to_save and not config.use_dora and config.bias == "none"
            for config in original.model.peft_config.values()
        )
    shapes = [{name: value.shape for name, value in one.model.named_parameters()} for one in (base, original)]
    return shapes[0] == shapes[1]


def _shrink_adapter(model: Any, weight: float) -> None:
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            for part in (module.lora_B, module.lora_embedding_B):
                for value in part.parameters():
                    value.mul_(weight)


def _stand_ins(context: Context) -> tuple[list[Record], list[Record]]:
    """Retain records that stand in, and the others."""
    count = max(0, min(ENOUGH - len(context.forget), int(STAND_INS * len(context.retain))))
    standing = sample(context.retain, count, context.options.seed)
    chosen = {id(record) for record in standing}
    return standing, [record for record in context.retain if id(record) not in chosen]


def _in_half_batches(options: TrainingOptions) -> TrainingOptions:
    """A short training gets further in smaller steps."""
    batch = options.batch_size or DEFAULTS["batch_size"]
    if options.gradient_accumulation % 2 == 0:
        halved, times = dataclasses.replace(options, gradient_accumulation=options.gradient_accumulation // 2), 2.0
    elif batch > 1:
        halved, times = dataclasses.replace(options, batch_size=batch // 2), batch / (batch // 2)
    else:
        return options
    return halved if options.max_steps is None else dataclasses.replace(halved, max_steps=round(times * options.max_steps))
