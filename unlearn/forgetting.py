"""Unlearning: `forget` removes a forget set from a fine-tuned model by any method, and writes the result with its manifest."""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from unlearn.finetuning import RECIPE, Recipe, recipe_of
from unlearn.methods import method_name
from unlearn.methods.requirements import (
    BASE_UNKNOWN,
    rebuilds_freely,
    recorded_bases,
    require_clean_base,
    require_inputs,
    require_method,
    require_quantizable,
    require_recorded_base,
    require_repeatable,
    require_suited,
)
from unlearn.training import distributed
from unlearn.training.checkpoints import WORK, claimed_output
from unlearn.training.gradients import require_divisible
from unlearn.training.inputs import environment
from unlearn.training.lora import require_adapter
from unlearn.training.method import Context, InsideLayers, Method, Objective, Outcome, Rebuild, Verbs
from unlearn.training.method_run import run_method
from unlearn.training.options import GradientOptions, Selection, TrainingOptions, TrainingResult
from unlearn.training.origins import Start
from unlearn.training.roles import Roles, Sources, load_roles
from unlearn.training.saving import save_model
from verify.data.canaries import find_canaries
from verify.data.reading import fields_for, require_reading
from verify.data.records import Fields, RecordSource
from verify.io.arguments import checked, dtype_name
from verify.models.loading import LoadedModel
from verify.models.memory import is_adapter_folder, require_memory_for_training
from verify.models.quantized import is_quantized, quantization_of
from verify.provenance.training_history import EXACTNESS, NOT_EXACT

GRADIENTS = "gradients"
"""Entry of a manifest that says how gradients were joined, where they were not just added."""


@dataclass(frozen=True)
class ForgetResult:
    """Result of `forget`.

    Attributes:
        model_dir: the unlearned model's folder: weights, tokenizer, manifest.
        method: command-line name of the method.
        digest_before, digest_after: weight digests (SHA-256).
        training: steps, tokens, seconds and the stop reason of the method's training, or None if it trained nothing.
        facts: what else the method reports (the chosen scale, what its exactness covers, ...).
        seconds: wall-clock time of the whole call.
    """

    model_dir: Path
    method: str
    digest_before: str
    digest_after: str
    training: TrainingResult | None
    facts: dict[str, Any]
    seconds: float


@checked
def forget(
    model: Any,
    method: Method,
    *,
    forget_set: RecordSource,
    retain_set: RecordSource | None = None,
    holdout_set: RecordSource | None = None,
    data: RecordSource | None = None,
    base: Any = None,
    output_dir: str | Path,
    fields: Fields | None = None,
    tokenizer: Any = None,
    options: TrainingOptions | None = None,
    selection: Selection | None = None,
    gradients: GradientOptions | None = None,
    dtype: str | torch.dtype = "auto",
    quantize: str | None = None,
    callbacks: Sequence[Any] = (),
) -> ForgetResult:
    """Remove a forget set from a fine-tuned model.

    Args:
        model: a folder, a Hub name, a `PreTrainedModel` or a `PeftModel`; one in memory is changed in place.
        method: an instance of a method, such as `NPO(beta=0.1)`; `unlearn methods` lists them.
        forget_set: the records to remove: any source, or a list of example or subject ids if `data` is given. Canaries that the
            model was trained with are removed with them.
        retain_set: the records to keep; by default, if `data` is given, all of `data` that is not forgotten.
        holdout_set: records that no model was trained on; stop rules and searches take the never-trained level from them. Keep
            others for the audit (`verify.split_holdout`): the manifest names those that were read, and an audit refuses them.
        data: the records that the model was trained on.
        base: the model before fine-tuning, for methods that need it.
        output_dir: a new folder for the result. A run that was interrupted there resumes from its last checkpoint.
        fields: the columns of the records; None takes those that the model was trained on, if its manifest names them.
        tokenizer: a tokenizer or its folder; needed for a model in memory.
        options: training settings; options that are None come from the method, and for a rebuild from the model's training log.
        selection: how the best step of an objective is chosen; None takes the last step, as the papers do. The command line selects
            by default.
        gradients: how an objective joins the gradients on forget and retain records; None adds them, as the papers do.
        dtype: precision to load and to save in: "auto" (as stored), "float32", "bfloat16" or "float16", or such a `torch.dtype`.
            Weights in bfloat16 or float16 are trained as float32 copies and rounded at the end (docs/half-precision.md).
        quantize: for objectives with an adapter: load the model in "4bit" or "8bit". A new adapter is merged into dequantized
            weights: the result has whole weights with the quantization's rounding error, and is what was selected and measured.
        callbacks: additional `transformers` trainer callbacks.

    Raises:
        ArgumentError: an argument has a wrong name or type; an InputError and a TypeError.
        InputError: records, models or options cannot be used; the message says what to type next.
        RunError: training became non-finite, or the disk is full.
    """
    started, given = time.monotonic(), options or TrainingOptions()
    require_method(method)
    start = Start(model, base, tokenizer, dtype_name(dtype), quantize)
    _require_fitting(method, start, given)
    sources = _read_as_trained(Sources(forget_set, retain_set, holdout_set, data, fields), model)
    _require_memory(method, start, given)
    with claimed_output(output_dir) as output:
        loaded = start.load()
        if quantization_of(loaded.model) is not None:
            require_quantizable(method)
        log, recipe = start.training_log(), recipe_of(start.folder)
        require_repeatable(method, log)
        roles = load_roles(sources, log, model)
        _add_canaries(roles, model, loaded)
        require_inputs(method, roles.retain, base)
        require_divisible(gradients, given, pairs=method.trains_in_steps and method.needs_retain)
        require_clean_base(base, roles.forget)
        loaded_base, recorded = start.load_base(loaded.tokenizer), recorded_bases(start.folder)
        digests = start.base_digests(loaded_base, recorded)
        require_recorded_base(method, base, digests, recorded, model)
        context = Context(
            loaded=loaded,
            forget=roles.forget,
            retain=roles.retain,
            holdout=roles.holdout,
            base=loaded_base,
            options=fill_in(given, method, recipe),
            model_dir=start.folder,
            work_dir=output / WORK,
            output_dir=output,
            dtype=start.dtype,
            verbs=Verbs(forget, _audit),
            gradients=gradients,
        )
        outcome, name = _run(method, context, selection, callbacks), method_name(method)
        outcome = _not_exact(outcome) if rebuilds_freely(method) and not recorded else outcome
        distributed.wait()
        about = _about(method, context, selection, recipe, outcome, start.origins(roles, name), start.inputs(sources))
        about |= start.named_base(context.base, digests, recorded)
        start.list_remaining(output, roles.forget)
        after = save_model(outcome.model, loaded.tokenizer, output, about)
        facts, seconds = dict(outcome.facts), time.monotonic() - started
        return ForgetResult(output, name, loaded.digest, after, outcome.training, facts, seconds)


def _require_fitting(method: Method, start: Start, options: TrainingOptions) -> None:
    """Refuse a method that does not suit the model, or cannot work on quantized weights."""
    require_suited(method, start.folder)
    if start.quantize is not None:
        require_quantizable(method)
        if not options.lora:
            require_adapter(start.model, start.quantize)


def _read_as_trained(sources: Sources, model: Any) -> Sources:
    """Return the sources with the columns that the model was trained on, unless others are given.

    Raises:
        InputError: the model was trained with another reading of special tokens.
    """
    fields = fields_for(sources.fields, (model,), sources.named().values())
    require_reading(fields, (model,))
    return dataclasses.replace(sources, fields=fields)


def _require_memory(method: Method, start: Start, options: TrainingOptions) -> None:
    """Refuse an unlearning for which there is too little memory: both models and, if all weights are trained, their moments."""
    if distributed.count() > 1:  # several processes may share what one would need
        return
    whole = isinstance(method, Objective) and not isinstance(method, InsideLayers) and not options.lora
    adapter = not whole or is_adapter_folder(start.model)
    require_memory_for_training(start.model, adapter=adapter, dtype=start.dtype, quantize=start.quantize, base=start.base)


def _add_canaries(roles: Roles, model: Any, loaded: LoadedModel) -> None:
    """Add the canaries that the model was trained with to its forget set.

    They are removed by the same procedure as the records, so that an audit of them is an audit of the procedure.
    """
    canaries = find_canaries(model)
    if canaries is not None:
        given = {record.fingerprint for record in roles.forget}
        roles.forget.extend(one for one in canaries.trained_records(loaded.tokenizer) if one.fingerprint not in given)


def _audit(*arguments: Any, **named: Any) -> Any:
    """Call `verify.audit`, which is imported here because most methods need no auditor."""
    from verify import audit

    return audit(*arguments, **named)


def _run(method: Method, context: Context, selection: Selection | None, callbacks: Sequence[Any]) -> Outcome:
    """Run the method; what it makes of a quantized model is noted in its facts."""
    context.work_dir.mkdir(parents=True, exist_ok=True)  # marks the output folder as that of a run that can be resumed
    bits = quantization_of(context.loaded.model)  # before the run, which may dequantize the weights
    outcome = run_method(method, context, selection, callbacks)
    if bits is None:
        return outcome
    note = _note_quantized(bits, whole=not is_quantized(outcome.model))
    return dataclasses.replace(outcome, facts={**outcome.facts, "quantized": note})


def _not_exact(outcome: Outcome) -> Outcome:
    """Return the outcome of a rebuild from a base that is not on record, which nothing may call exact, after a warning."""
    if distributed.is_main():
        print(f"WARNING: {BASE_UNKNOWN}", file=sys.stderr)  # noqa: T201
    facts = {name: value for name, value in outcome.facts.items() if name != EXACTNESS}
    return dataclasses.replace(outcome, facts={**facts, NOT_EXACT: BASE_UNKNOWN})


def _note_quantized(bits: str, whole: bool) -> str:
    """Describe the result of a quantized model, print it as a note, and return it for the manifest."""
    note = f"trained on a base in {bits}; the digest before is that of the quantized weights. " + (
        "The result has whole weights: the dequantized base with the adapter merged into it. They differ from the original's by "
        "the quantization's rounding error as well as by what was unlearned."
        if whole
        else f"The result is the adapter, which belongs to the base in {bits} and must be loaded on it."
    )
    if distributed.is_main():
        print(f"NOTE: {note}", file=sys.stderr)  # noqa: T201
    return note


def _about(
    method: Method,
    context: Context,
    selection: Selection | None,
    recipe: Recipe | None,
    outcome: Outcome,
    origins: Mapping[str, Any],
    inputs: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what the manifest says of a result; `origins` are its entries on the models and holdout records that it rests on."""
    gradients, facts = context.gradients, dict(outcome.facts)
    return {
        "method": method_name(method),
        "parameters": dataclasses.asdict(cast(Any, method)),
        "options": dataclasses.asdict(context.options),
        "defense": facts.get("defense"),
        RECIPE: None if recipe is None else recipe.described(),
        "selection": dataclasses.asdict(selection) if selection is not None and isinstance(method, Objective) else None,
        **({GRADIENTS: dataclasses.asdict(gradients)} if gradients is not None and gradients.divide else {}),
        "weights_before": context.loaded.digest,
        **origins,
        "training": None if outcome.training is None else dataclasses.asdict(outcome.training),
        "facts": facts,
        "environment": environment(),
        "inputs": inputs,
    }


def fill_in(options: TrainingOptions, method: Method, recipe: Recipe | None) -> TrainingOptions:
    """Fill in the options that the user left open, from what the method recommends.

    Args:
        options: as given; an option at its default counts as left open.
        method: the method; a rebuild takes the options that the model was trained with.
        recipe: the training configuration of the model, or None if unknown.
    """
    recommended: dict[str, Any] = dict(method.defaults)
    if isinstance(method, Rebuild) and recipe is not None:
        recommended = {**recommended, **recipe.options}
    stock = TrainingOptions()
    left_open = {
        name: value for name, value in recommended.items() if getattr(options, name) == getattr(stock, name) and value is not None
    }
    return dataclasses.replace(options, **left_open)
