"""Changes of the weights that the steps start from: what the forget set taught is subtracted, or what it needs is reset."""

import dataclasses

import torch

from benchmarks.channel_methods.logged_steps import learned_from
from unlearn.level.estimate import encoded, trained_options
from unlearn.level.mixtures import mixed
from unlearn.training.method import Context
from unlearn.training.options import learning_rate_of
from unlearn.training.run import Run, train_records
from unlearn.training.weights import assign, copy_weights, saliency_mask, sample
from verify.models.loading import LoadedModel
from verify.provenance.training_log import LOG_NAME, TrainingLog

FISHER_RECORDS = 100
"""Retain records that tell which weights they depend on."""


def negate(start: LoadedModel, base: LoadedModel, context: Context, multiple: float, at: float) -> int:
    """Subtract a multiple of the change by which a mixture of base and original learns the forget set; return its tokens."""
    half = mixed(base, context.loaded, at)
    before = copy_weights(half.model)
    trained = trained_options(context)
    options = dataclasses.replace(trained, epochs=3, max_steps=None, batch_size=4, learning_rate=learning_rate_of(trained) / 6)
    work = context.work_dir / "negate"
    done = train_records(half, Run(context.forget, options, work))
    after, own = copy_weights(done.model), copy_weights(start.model)
    assign(start.model, {name: value - multiple * (after[name] - before[name]) for name, value in own.items()})
    return done.result.tokens


def subtract_logged(start: LoadedModel, base: LoadedModel, context: Context, multiple: float) -> int:
    """Subtract a multiple of what the original's logged steps learned from the forget records; return the tokens that it took."""
    assert context.model_dir is not None
    log = TrainingLog.read(context.model_dir / LOG_NAME)
    change, tokens = learned_from(context.forget, context.retain, base, context.loaded, log)
    own = copy_weights(start.model)
    assign(start.model, {name: value - multiple * change[name] for name, value in own.items()})
    return tokens


def reset(start: LoadedModel, base: LoadedModel, context: Context, share: float) -> int:
    """Give the weights that matter most to the forget set their values in the base; return the tokens that it took to find them."""
    kept = sample(context.retain, FISHER_RECORDS, context.options.seed)
    mask = saliency_mask(start, context.forget, kept, share)
    theirs = dict(mixed(base, context.loaded, 0.0).model.named_parameters())
    own = copy_weights(start.model)
    assign(start.model, {name: torch.where(mask[name], theirs[name].to(value), value) for name, value in own.items()})
    return sum(len(window.input_ids) for window in encoded(start, [*context.forget, *kept], "split"))
