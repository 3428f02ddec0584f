"""Unlearning: `forget` removes a forget set from a fine-tuned model by any method, and writes the result with its manifest."""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from unlearn.finetuning import RECIPE, Recipe, recipe_of
from unlearn.methods import method_name
from unlearn.methods.requirements import require_inputs, require_method, require_quantizable, require_repeatable, require_suited
from unlearn.training import distributed
from unlearn.training.checkpoints import WORK, claim_output
from unlearn.training.gradients import require_divisible
from unlearn.training.inputs import environment, inputs_of, made_from, place_of
from unlearn.training.log import LOG_NAME, TrainingLog
from unlearn.training.lora import merged, require_adapter
from unlearn.training.method import Context, InsideLayers, Method, Objective, Outcome, Rebuild, Verbs, WeightEdit
from unlearn.training.options import GradientOptions, Selection, TrainingOptions, TrainingResult
from unlearn.training.roles import Roles, Sources, load_roles
from unlearn.training.run import Run, arithmetic_of, run_objective, save_model, trained_parameters
from unlearn.training.weights import edited_parameters, mean_loss, sample
from verify.data.canaries import find_canaries
from verify.data.identity import RecordKey
from verify.data.reading import fields_for, require_reading
from verify.data.records import Fields, Record, RecordSource
from verify.io.arguments import checked, dtype_name
from verify.io.files import MANIFEST, read_json
from verify.models.adapter_types import is_adapter
from verify.models.loading import LoadedModel, load_model
from verify.models.memory import is_adapter_folder, require_memory_for_training
from verify.models.quantized import is_quantized, quantization_of
from verify.provenance.descent import BASE, MADE_FROM, NamedBase, named_base_of, trained_records, write_remaining
from verify.provenance.holdout import used_before
from verify.provenance.training_history import HOLDOUT_USED, UNLEARNED_FROM
from verify.training.precision import float32_copies, rounding_facts

UTILITY_RECORDS = 100
"""Retain records, drawn with the seed, on which the result's utility is measured."""
GRADIENTS = "gradients"
"""Entry of a manifest that says how gradients were joined, where they were not just added."""
ROUNDING_RECORDS = 100
"""Forget records, drawn with the seed, on which the effect of rounding the result to half precision is measured."""
BROKEN = 0.5
"""Share of the initial token probability below which a result counts as collapsed."""


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
    started = time.monotonic()
    require_method(method)
    dtype = dtype_name(dtype)
    folder = Path(model) if isinstance(model, (str, Path)) and Path(model).is_dir() else None
    _require_fitting(method, model, folder, options, quantize)
    fields = fields_for(fields, (model,), (forget_set, retain_set, holdout_set, data))
    require_reading(fields, (model,))
    _require_memory(model, method, options or TrainingOptions(), dtype, quantize, base)
    output = claim_output(output_dir)
    loaded = load_model(model, tokenizer=tokenizer, dtype=dtype, quantize=quantize)
    if (bits := quantization_of(loaded.model)) is not None:
        require_quantizable(method)
    log, recipe = _training_log(model), recipe_of(folder)
    require_repeatable(method, log)
    sources = Sources(forget_set, retain_set, holdout_set, data, fields)
    roles = load_roles(sources, log, model)
    _add_canaries(roles, model, loaded)
    require_inputs(method, roles.retain, base)
    require_divisible(gradients, options or TrainingOptions(), pairs=method.trains_in_steps and method.needs_retain)
    base_model = None if base is None else load_model(base, tokenizer=loaded.tokenizer, dtype=dtype)
    options = fill_in(options or TrainingOptions(), method, recipe)
    context = Context(
        loaded,
        roles.forget,
        roles.retain,
        roles.holdout,
        base_model,
        options,
        folder,
        output / WORK,
        output,
        dtype,
        Verbs(forget, _audit),
        gradients,
    )
    context.work_dir.mkdir(parents=True, exist_ok=True)  # marks the output folder as that of a run that can be resumed
    outcome = _run(method, context, selection, callbacks)
    facts = dict(outcome.facts)
    if bits is not None:
        facts["quantized"] = _note_quantized(bits, whole=not is_quantized(outcome.model))
    distributed.wait()
    origins = {
        MADE_FROM: made_from({"model": model, "base": base}),
        HOLDOUT_USED: [*_holdout_used_before(folder), *roles.holdout.described(method_name(method), RecordKey.load())],
        "inputs": inputs_of({"model": model, "base": base}, sources.named(), fields, dtype, quantize),
    }
    about = _about(method, context, selection, recipe, outcome.training, facts, origins)
    if (named := _base_of(folder, base, base_model)) is not None:
        about[BASE] = named.described()
    _list_remaining(output, folder, roles.forget)
    after = save_model(outcome.model, loaded.tokenizer, output, about)
    return ForgetResult(output, method_name(method), loaded.digest, after, outcome.training, facts, time.monotonic() - started)


def _require_fitting(
    method: Method, model: Any, folder: Path | None, options: TrainingOptions | None, quantize: str | None
) -> None:
    """Refuse a method that does not suit the model, or cannot work on quantized weights."""
    require_suited(method, folder)
    if quantize is not None:
        require_quantizable(method)
        if not (options and options.lora):
            require_adapter(model, quantize)


def _about(
    method: Method,
    context: Context,
    selection: Selection | None,
    recipe: Recipe | None,
    training: TrainingResult | None,
    facts: Mapping[str, Any],
    origins: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the manifest says of a result; `origins` are its entries on models, records and files that it was made from."""
    gradients = context.gradients
    return {
        "method": method_name(method),
        "parameters": dataclasses.asdict(cast(Any, method)),
        "options": dataclasses.asdict(context.options),
        "defense": facts.get("defense"),
        RECIPE: None if recipe is None else recipe.described(),
        "selection": dataclasses.asdict(selection) if selection is not None and isinstance(method, Objective) else None,
        **({GRADIENTS: dataclasses.asdict(gradients)} if gradients is not None and gradients.divide else {}),
        "weights_before": context.loaded.digest,
        **_made_from_before(context.model_dir),
        MADE_FROM: origins[MADE_FROM],
        HOLDOUT_USED: origins[HOLDOUT_USED],
        "training": None if training is None else dataclasses.asdict(training),
        "facts": facts,
        "environment": environment(),
        "inputs": origins["inputs"],
    }


def _base_of(folder: Path | None, base: Any, loaded: LoadedModel | None) -> NamedBase | None:
    """Return the base of a result, which the next deletion may start from: the one given, else the one that the model names."""
    if loaded is not None:
        return NamedBase(place_of(base), loaded.digest)
    return None if folder is None else named_base_of(folder)


def _list_remaining(output: Path, folder: Path | None, forgotten: Sequence[Record]) -> None:
    """List the records that a result without a training log rests on: those of the model before, without the forgotten."""
    before = frozenset() if folder is None else trained_records(folder)
    if before and distributed.is_main() and not trained_records(output):
        key = RecordKey.load()
        write_remaining(output, key.check, before - {key.of(record.fingerprint) for record in forgotten})


def _require_memory(model: Any, method: Method, options: TrainingOptions, dtype: str, quantize: str | None, base: Any) -> None:
    """Refuse an unlearning for which there is too little memory: both models and, if all weights are trained, their moments."""
    if distributed.count() > 1:  # several processes may share what one would need
        return
    whole = isinstance(method, Objective) and not isinstance(method, InsideLayers) and not options.lora
    adapter = not whole or is_adapter_folder(model)
    require_memory_for_training(model, adapter=adapter, dtype=dtype, quantize=quantize, base=base)


def _add_canaries(roles: Roles, model: Any, loaded: LoadedModel) -> None:
    """Add the canaries that the model was trained with to its forget set.

    They are removed by the same procedure as the records, so that an audit of them is an audit of the procedure.
    """
    canaries = find_canaries(model)
    if canaries is not None:
        given = {record.fingerprint for record in roles.forget}
        roles.forget.extend(one for one in canaries.trained_records(loaded.tokenizer) if one.fingerprint not in given)


def _audit(*arguments: Any, **named: Any) -> Any:
    """`verify.audit`, imported when it is first called: most methods need no auditor."""
    from verify import audit

    return audit(*arguments, **named)


def _holdout_used_before(folder: Path | None) -> list[Any]:
    """Return the holdout records that earlier unlearnings of this model read, by its manifest: its weights still depend on them."""
    if folder is None or not (folder / MANIFEST).is_file():
        return []
    return used_before(read_json(folder / MANIFEST).get("about", {}))


def _made_from_before(folder: Path | None) -> dict[str, Any]:
    """Return digests of the models that earlier unlearnings started from, by the model's manifest; nothing if it was trained."""
    about = {} if folder is None or not (folder / MANIFEST).is_file() else read_json(folder / MANIFEST).get("about", {})
    if "method" not in about:
        return {}
    return {UNLEARNED_FROM: [about["weights_before"], *about.get(UNLEARNED_FROM, [])]}


def _run(method: Method, context: Context, selection: Selection | None, callbacks: Sequence[Any]) -> Outcome:
    """Run a method, and report for a rebuild what its exactness covers, for any other method the remaining utility."""
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
        outcome = method.edit(context) if isinstance(method, WeightEdit) else _run_objective(method, context, selection, callbacks)
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


def _run_objective(method: Objective, context: Context, selection: Selection | None, callbacks: Sequence[Any]) -> Outcome:
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
    # An adapter made for unlearning is merged: if it could be switched off, the old model would still be there.
    fresh = context.options.lora and not is_adapter(context.loaded.model)
    return Outcome(merged(trained.model, context.options.seed) if fresh else trained.model, trained.result, facts)


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


def _training_log(model: Any) -> TrainingLog | None:
    """Read the training log in the model's folder, or return None if there is none."""
    if isinstance(model, (str, Path)) and (Path(model) / LOG_NAME).is_file():
        return TrainingLog.read(Path(model) / LOG_NAME)
    return None


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
