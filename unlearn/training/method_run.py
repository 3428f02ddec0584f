"""One run of a method: in float32 copies of half-precision weights, with what it cost in utility and what rounding changed."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from unlearn.training import distributed
from unlearn.training.lora import in_form_of
from unlearn.training.method import Context, Method, Objective, Outcome, Rebuild, WeightEdit
from unlearn.training.options import Selection, TrainingOptions
from unlearn.training.run import Run, arithmetic_of, run_objective, trained_parameters
from unlearn.training.weights import edited_parameters, mean_loss, sample
from verify.data.records import Record
from verify.models.adapter_types import is_adapter
from verify.models.loading import LoadedModel
from verify.training.precision import float32_copies, rounding_facts

UTILITY_RECORDS = 100
"""Retain records, drawn with the seed, on which the result's utility is measured."""
ROUNDING_RECORDS = 100
"""Forget records, drawn with the seed, on which the effect of rounding the result to half precision is measured."""
BROKEN = 0.5
"""Share of the initial token probability below which a result counts as collapsed."""


def run_method(method: Method, context: Context, selection: Selection | None, callbacks: Sequence[Any]) -> Outcome:
    """Run a method, and report for a rebuild what its exactness covers, for any other method the remaining utility.

    Args:
        method: the method.
        context: models, records and options.
        selection: how the best step of an objective is chosen; None takes the last step.
        callbacks: additional `transformers` trainer callbacks.

    Raises:
        InputError: the method cannot use the model, the records or the options.
        RunError: training became non-finite, or the disk is full.
    """
    if isinstance(method, Rebuild):
        rebuilt = method.rebuild(context)
        return dataclasses.replace(rebuilt, facts={**rebuilt.facts, "exactness": method.exactness})
    kept = sample(context.retain, UTILITY_RECORDS, context.options.seed)
    before = _loss(context.loaded, kept, context.options) if kept else None
    assert isinstance(method, WeightEdit | Objective), "there are three kinds"
    outcome = _run_in_float32(method, context, selection, callbacks)
    if before is None:
        return outcome
    after = _loss(dataclasses.replace(context.loaded, model=outcome.model.eval()), kept, context.options)
    return dataclasses.replace(outcome, facts={**outcome.facts, **_utility(float(np.exp(before - after)))})


def _loss(loaded: LoadedModel, records: Sequence[Record], options: TrainingOptions) -> float:
    """Compute the mean loss of records, nats per token, in the arithmetic of a run with these options."""
    with torch.no_grad(), arithmetic_of(loaded.model, options).of(loaded.model):
        return mean_loss(loaded, records)


def _run_in_float32(
    method: WeightEdit | Objective, context: Context, selection: Selection | None, callbacks: Sequence[Any]
) -> Outcome:
    """Run a method on float32 copies of half-precision weights, round the result once, and report what the rounding changed."""
    model, seed = context.loaded.model, context.options.seed
    base = model if context.base is None else context.base.model
    own, of_base = _edited(method, context)
    with float32_copies(model, own, seed) as copies, float32_copies(base, of_base, seed):
        watched = sample(context.forget, ROUNDING_RECORDS, seed) if copies.types else []
        before = mean_loss(context.loaded, watched) if watched else 0.0
        outcome = method.edit(context) if isinstance(method, WeightEdit) else _minimise(method, context, selection, callbacks)
        result = dataclasses.replace(context.loaded, model=outcome.model.eval())
        after = mean_loss(result, watched) if watched else 0.0
    if not watched:
        return outcome
    facts = rounding_facts(set(copies.types.values()), before, after, mean_loss(result, watched))
    return dataclasses.replace(outcome, facts={**outcome.facts, **_with_warning(facts)})


def _edited(method: WeightEdit | Objective, context: Context) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that a method trains or edits, and those of the base that it computes with."""
    model, options = context.loaded.model, context.options
    if method.trains_in_steps and options.lora:
        return [], []  # an adapter is trained in float32 anyway, and folded in by `merged`
    if isinstance(method, Objective):
        return trained_parameters(model, options, method), []
    with edited_parameters(model) as edited:
        own = list(edited.values())
    if context.base is None or is_adapter(context.base.model):
        return own, []
    return own, list(context.base.model.parameters())


def _with_warning(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts, after printing the warning about rounding if they have one."""
    if "rounding_warning" in facts and distributed.is_main():
        print(f"WARNING: {facts['rounding_warning']}", file=sys.stderr)  # noqa: T201
    return facts


def _minimise(method: Objective, context: Context, selection: Selection | None, callbacks: Sequence[Any]) -> Outcome:
    """Minimise an objective, merge an adapter made for it, and report how its step was selected."""
    run = Run(
        context.forget,
        context.options,
        context.work_dir,
        callbacks=callbacks,
        retain=context.retain if method.needs_retain else None,
        holdout=context.holdout or None,
        selection=selection,
        gradients=context.gradients,
        utility=context.retain,
    )
    trained = run_objective(context.loaded, method, run)
    facts = {} if trained.selection is None else {"selection": dict(trained.selection)}
    if "warning" in facts.get("selection", {}) and distributed.is_main():
        print(f"WARNING: {facts['selection']['warning']}", file=sys.stderr)  # noqa: T201
    return Outcome(in_form_of(context.loaded.model, trained.model, context.options.seed), trained.result, facts)


def _utility(ratio: float) -> dict[str, Any]:
    """Report the retain-set utility ratio, and print a warning if the model has collapsed."""
    if ratio >= BROKEN:
        return {"utility_ratio": ratio}
    warning = (
        f"the model has only {ratio:.0%} of its token probability left on the records to keep: it has collapsed rather than "
        "forgotten. Use fewer epochs, a lower --learning-rate, or a method with a retain term."
    )
    print(f"WARNING: {warning}", file=sys.stderr)  # noqa: T201
    return {"utility_ratio": ratio, "warning": warning}
