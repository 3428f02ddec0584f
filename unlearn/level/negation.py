"""Start of a distillation away from what the forget set left in the weights: a step back to the base, and a task vector negated.

    theta = theta_base + back (theta_0 - theta_base) - negation (phi_1 - phi_0)
    phi_0 = theta_base + 1/2 (theta_0 - theta_base),    phi_1 = phi_0 fine-tuned on the forget set for `PASSES` passes

theta_0 are the weights before unlearning. phi_1 - phi_0 is a task vector (Ilharco et al. 2023, arXiv 2212.04089), taken half-way to
the base: at theta_0 itself the records are known by heart, and their gradient shows no direction any more. Weights stored in half
precision are float32 copies at this point.
"""

import dataclasses

from unlearn.level.estimate import base_of, trained_options
from unlearn.level.mixtures import can_be_mixed, mixed
from unlearn.training.lora import in_form_of
from unlearn.training.method import Context
from unlearn.training.options import TrainingResult, learning_rate_of
from unlearn.training.run import Run, train_records
from unlearn.training.weights import Weights, copy_weights
from verify.errors import InputError

AT = 0.5
"""Where the task vector is taken, from 0 (the base) to 1 (the model before unlearning)."""
PASSES, BATCH, RATE = 3.0, 4, 1 / 6
"""Passes over the forget set, batch size, and learning rate as a share of the fine-tuning's, of the task vector's training."""


def start_weights(context: Context, back: float, negation: float) -> tuple[Weights, TrainingResult | None]:
    """Compute the weights above by name, those of the adapter where the model is one, and what their training cost.

    Args:
        context: with the base.
        back: share of the way from the base to the model before unlearning; 1 stays there.
        negation: multiple of the task vector that is subtracted; 0 trains nothing.

    Raises:
        InputError: model and base differ in shape, or the adapter is not a plain LoRA one.
    """
    base, original = base_of(context, "a start away from the forget set"), context.loaded
    if not can_be_mixed(base, original):
        raise InputError(
            "the model before unlearning and its base cannot be mixed: their weights differ in name or shape, or the adapter is no "
            "plain LoRA one. Use level."
        )
    start = copy_weights(mixed(base, original, back).model)
    if not negation:
        return start, None
    half = mixed(base, original, AT)
    before = copy_weights(half.model)
    trained = trained_options(context)
    rate = RATE * learning_rate_of(trained)
    options = dataclasses.replace(
        trained, epochs=PASSES, max_steps=None, batch_size=BATCH, learning_rate=rate, save_steps=0, keep_checkpoints=None
    )
    done = train_records(half, Run(context.forget, options, context.work_dir / "negation"))
    # An adapter that the training attached is merged: its factors are no change of the weights.
    after = copy_weights(in_form_of(half.model, done.model, options.seed))
    return {name: value - negation * (after[name] - before[name]) for name, value in start.items()}, done.result
