"""The methods that are tried, by name, and one trial: make the model, count what it took, and measure it."""

import copy
import dataclasses
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.channel_methods.levels import read_states, states_at_level
from benchmarks.channel_methods.measure import judge, measure
from benchmarks.channel_methods.relearning import Relearning, WithRelearning
from benchmarks.channel_methods.repair import add_noise, repair
from benchmarks.channel_methods.start import negate, reset, subtract_logged
from benchmarks.channel_methods.steps import Item, Steps, Weights
from benchmarks.channel_methods.world import Place, cost_of
from unlearn import CalibratedDistillation, GradientOptions, Level, forget
from unlearn.level.contexts import DRAWN, put
from unlearn.level.estimate import calibrated, encoded, train_share, trained_options, window_of_tokens
from unlearn.level.mixtures import mixed, two_views
from unlearn.level.readings import OUTPUT, read_features
from unlearn.training.method import Context, Method
from unlearn.training.options import TrainingOptions, learning_rate_of
from unlearn.training.weights import sample
from verify.data.records import Record
from verify.io.files import write_json
from verify.models.inner_layers import layers_below_the_last
from verify.models.loading import LoadedModel

CONTROL_DRAWS = 2
"""Draws of every control in each context, to calibrate the levels on."""
FINE_SHARE = 0.04
"""Length of the second view's training, that of `level`'s mixture."""
REPAIR_RECORDS = 200
"""Retain records whose inputs a repair keeps from the update."""


@dataclass(frozen=True)
class Variant:
    """A method to try.

    Attributes:
        steps: passes over the forget set; each record is in its exact text in the share `exact` of them, else in one of `contexts`.
        contexts, exact: as above.
        depths: depths of the layers whose readings are brought to their level, from 0 to 1.
        weights: of the objective.
        source: share of a retraining that the source takes, from the base; 0 takes the base itself.
        restart: the model that the steps start from lies this far from the base to the original, and is trained on the retain set
            for `restart_share` of a retraining; 1 and 0 start from the original.
        restart_share: as above.
        negate: multiple of the change by which a mixture, `negate_at` of the way from the base to the original, learns the forget
            set, that is subtracted from the start.
        negate_at: as above.
        logged: multiple of what the logged steps learned from the forget records that is subtracted from the start.
        reset: share of the weights that start as in the base: those that matter most to the forget set against the retain set.
        noise: share of noise in every matrix of the start (`add_noise`).
        fine: second view of the levels beside the source: a mixture this far from the base to the original, trained on the retain
            set for `FINE_SHARE` of a retraining, which the two views combine (`unlearn.level.mixtures`); 0 takes the source alone.
        repair: weight of the retain inputs in the repair of the finished update (`repair`); 0 leaves it.
        method: a method of the package, to try it instead; `gradients`: with these options; `epochs`: passes, by default its own;
            `rate`: learning rate as a share of the fine-tuning's, by default its own.
    """

    steps: float = 11.0
    contexts: tuple[str, ...] = ()
    exact: float = 0.5
    depths: tuple[float, ...] = ()
    weights: Weights = field(default_factory=Weights)
    source: float = 0.05
    restart: float = 1.0
    restart_share: float = 0.0
    negate: float = 0.0
    negate_at: float = 0.5
    logged: float = 0.0
    reset: float = 0.0
    noise: float = 0.0
    fine: float = 0.0
    repair: float = 0.0
    method: Method | None = None
    gradients: GradientOptions | None = None
    epochs: float | None = None
    rate: float | None = None


ALL = ("none", "cut", "shuffled", "names", "preamble")
QUARTERS = (0.25, 0.5, 0.75)


def try_variant(place: Place, name: str, variant: Variant, kept: str | None = None) -> dict[str, Any]:
    """Make the variant's model, measure and judge it, and write what was found; return it.

    Args:
        place: the world, with its models.
        name: of the trial, and of its file.
        variant: what to try.
        kept: folder under which the model is saved, or None.
    """
    started, used = time.monotonic(), time.process_time()
    loaded, tokens = made(place, name, variant)
    whole = cost_of(place)
    cost = {
        "tokens": round(tokens / whole["tokens"], 4),
        "seconds": round((time.monotonic() - started) / whole["seconds"], 3),
        "processor": round((time.process_time() - used) / whole["processor"], 3),
    }
    if kept is not None:
        loaded.model.save_pretrained(place.folder / kept / name)
        loaded.tokenizer.save_pretrained(place.folder / kept / name)
    result = {**judge(place, measure(place, loaded)), "cost": cost, "variant": repr(variant)}
    write_json(place.folder / "results" / f"{name}.json", result)
    return result


def made(place: Place, name: str, variant: Variant) -> tuple[LoadedModel, int]:
    """Make a variant's model; return it with the tokens that went through a model with a gradient."""
    torch.manual_seed(place.seed)
    if variant.method is not None:
        rate = None if variant.rate is None else variant.rate * learning_rate_of(place.options)
        options = TrainingOptions(seed=place.seed, epochs=variant.epochs, learning_rate=rate)
        if isinstance(variant.method, WithRelearning):  # of this benchmark alone, so `forget` does not know it
            context = dataclasses.replace(_context(place, name), options=options)
            done = variant.method.edit(context)
            return context.loaded, 0 if done.training is None else done.training.tokens
        return _by_method(place, name, variant.method, options, variant.gradients)
    context = _context(place, name)
    tokens = 0
    original, base = context.loaded, context.base
    assert base is not None
    start = dataclasses.replace(original, model=copy.deepcopy(original.model))
    if variant.restart_share:
        mixture = mixed(base, original, variant.restart) if variant.restart else _copied(base)
        own = dataclasses.replace(context, work_dir=context.work_dir / "restart")
        own.work_dir.mkdir()
        start, result = train_share(own, mixture, context.retain, variant.restart_share, trained_options(context))
        tokens += result.tokens
    elif variant.restart < 1:
        start = mixed(base, original, variant.restart)
    if variant.negate:
        tokens += negate(start, base, context, variant.negate, variant.negate_at)
    if variant.logged:
        tokens += subtract_logged(start, base, context, variant.logged)
    if variant.reset:
        tokens += reset(start, base, context, variant.reset)
    if variant.noise:
        add_noise(start.model, variant.noise, place.seed)
    if not variant.steps:
        return start, tokens
    source = base
    if variant.source:  # an adapter of its own is trained for the source, on the base
        source, result = train_share(context, _copied(base), context.retain, variant.source, trained_options(context))
        tokens += result.tokens
    fine = None
    if variant.fine:
        own = dataclasses.replace(context, work_dir=context.work_dir / "fine")
        own.work_dir.mkdir()
        fine, result = train_share(own, mixed(base, original, variant.fine), context.retain, FINE_SHARE, trained_options(context))
        tokens += result.tokens
    items, layers, whitening = _items(place, context, source, fine, variant)
    retain = encoded(original, context.retain, "split")
    rate = variant.weights.rate * learning_rate_of(trained_options(context))
    steps = Steps(start, original, retain, layers, whitening, variant.weights, rate, place.seed)
    steps.run(items)
    if variant.repair:
        forgotten = encoded(
            original, [record for record, _ in _drawn(context.forget, variant, np.random.default_rng(place.seed))], "split"
        )
        kept = encoded(original, sample(context.retain, REPAIR_RECORDS, place.seed), "split")
        repair(start, original, forgotten, kept, variant.repair)
    return start, tokens + steps.tokens


def _copied(loaded: LoadedModel) -> LoadedModel:
    return dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))


def _context(place: Place, name: str) -> Context:
    work = place.folder / "work" / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    sets = {role: place.records(role) for role in ("forget", "retain", "holdout-method")}
    options = TrainingOptions(seed=place.seed)
    forgotten, retained, controls = sets.values()
    return Context(
        place.load("original"), forgotten, retained, controls, place.load("base"), options, place.path("original"), work, work
    )


def _by_method(
    place: Place, name: str, method: Method, options: TrainingOptions, gradients: GradientOptions | None
) -> tuple[LoadedModel, int]:
    """Run a method of the package as a user does."""
    folder = place.folder / "work" / name
    shutil.rmtree(folder, ignore_errors=True)
    done = forget(
        str(place.path("original")),
        method,
        forget_set=str(place.data("forget")),
        retain_set=str(place.data("retain")),
        holdout_set=str(place.data("holdout-method")),
        base=str(place.path("base")),
        output_dir=folder,
        options=options,
        gradients=gradients,
    )
    from verify.models.loading import load_model

    loaded = load_model(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return loaded, 0 if done.training is None else done.training.tokens


def _items(
    place: Place, context: Context, source: LoadedModel, fine: LoadedModel | None, variant: Variant
) -> tuple[list[Item], tuple[int, ...], dict[int, torch.Tensor]]:
    """Draw the contexts of every pass, and read levels for them from the source, and from a second view if there is one."""
    rng = np.random.default_rng([place.seed, 29])
    below = layers_below_the_last(context.loaded.model)
    layers = tuple(sorted({below[min(len(below) - 1, max(0, round(depth * (len(below) + 1)) - 1))] for depth in variant.depths}))
    drawn = _drawn(context.forget, variant, rng)
    parts: dict[str, list[int]] = {}
    for index, (_, kind) in enumerate(drawn):
        parts.setdefault(kind, []).append(index)
    items: list[Item | None] = [None] * len(drawn)
    whitening: dict[int, torch.Tensor] = {}
    for kind, indices in parts.items():
        controls = [put(record, kind, rng) for record in context.holdout for _ in range(1 if kind == "exact" else CONTROL_DRAWS)]
        windows, known = (
            encoded(context.loaded, records, "split") for records in ([drawn[index][0] for index in indices], controls)
        )
        assert len(windows) == len(indices), "records of the trials fit the context"
        pairs = ((source, windows), (source, known), (context.loaded, known))
        own, theirs, truth = (read_features(model, texts, layers) for model, texts in pairs)
        of_own, of_known = window_of_tokens(windows), window_of_tokens(known)
        counts = [int(window.scored.sum()) for window in windows]
        levels = {}
        second = [] if fine is None else [read_features(fine, texts, layers) for texts in (windows, known)]
        for layer in (OUTPUT, *layers):
            aim = calibrated(own[layer], of_own, theirs[layer], truth[layer][:, 0], of_known)
            if second:
                view = calibrated(second[0][layer], of_own, second[1][layer], truth[layer][:, 0], of_known)
                everyone = np.ones(len(windows), dtype=bool)
                aim = view.moved_to(two_views(aim.losses(), view.losses(), everyone, aim.control_error or 0.0))
            levels[layer] = _split(aim.tokens, counts)
        states: dict[int, Sequence[torch.Tensor]] = {}
        inside = [read_states(model, texts, layers) for model, texts in pairs] if variant.weights.hidden else []
        for layer in layers if inside else ():
            aim, white = states_at_level(*(found[layer] for found in inside))
            states[layer] = torch.split(aim, counts)
            whitening.setdefault(layer, white)
        for place_in, index in enumerate(indices):
            by_reading = {layer: levels[layer][place_in] for layer in levels}
            items[index] = Item(windows[place_in], kind, by_reading, {layer: states[layer][place_in] for layer in states})
    return [item for item in items if item is not None], layers, whitening


def _drawn(forgotten: Sequence[Record], variant: Variant, rng: np.random.Generator) -> list[tuple[Record, str]]:
    """Return the records of all passes in their order, each in a context."""
    found = []
    for number in range(int(np.ceil(variant.steps))):
        for index in rng.permutation(len(forgotten)):
            plain = not variant.contexts or rng.random() < variant.exact
            kind = "exact" if plain else str(rng.choice(variant.contexts))
            found.append((put(forgotten[int(index)], kind, rng), kind))
        _ = number
    return found[: round(variant.steps * len(forgotten))]


def _split(values: np.ndarray, counts: Sequence[int]) -> list[torch.Tensor]:
    return [torch.from_numpy(part).float() for part in np.split(values, np.cumsum(counts)[:-1])]


HELD = Weights(towards="original")
BOTH = Variant(steps=20, contexts=ALL, depths=QUARTERS)
ANSWERS = Variant(steps=20, contexts=DRAWN, exact=0.3, depths=QUARTERS)
BACK = dataclasses.replace(ANSWERS, steps=16, restart=0.85, source=0.03, weights=HELD)
FAST = dataclasses.replace(BACK, steps=22, negate=1.0, weights=dataclasses.replace(HELD, rate=0.25))
DUAL = dataclasses.replace(FAST, restart=0.9, weights=dataclasses.replace(HELD, rate=0.25, dual=1.0))
DUAL_BASE = dataclasses.replace(DUAL, source=0.0, steps=28, negate=1.5)
STRONG = dataclasses.replace(DUAL_BASE, restart=0.8, negate=2.5)
SPARSE = Relearning(begin=0.0, rows=2, every=12)
HARDER = {"alpha": 80.0, "anchor_weight": 5000.0}

VARIANTS: dict[str, Variant] = {
    "level": Variant(method=Level()),
    "calibrated_distillation": Variant(method=CalibratedDistillation()),
    "level-conflict": Variant(method=Level(), gradients=GradientOptions(project_gradients="conflict")),
    "level-always": Variant(method=Level(), gradients=GradientOptions(project_gradients="always")),
    "level-moments": Variant(method=Level(), gradients=GradientOptions(separate_moments=True)),
    # Levels of more readings and contexts, from the original.
    "plain": Variant(),
    "contexts": dataclasses.replace(BOTH, depths=()),
    "lens": Variant(depths=QUARTERS),
    "both": BOTH,
    "hidden": dataclasses.replace(BOTH, weights=Weights(hidden=1.0)),
    "answers": ANSWERS,
    # The same after a step back towards the base.
    "answers-9": dataclasses.replace(ANSWERS, restart=0.9),
    "answers-8": dataclasses.replace(ANSWERS, restart=0.8),
    "back-85": dataclasses.replace(BACK, steps=20),
    "sharp-85": dataclasses.replace(BACK, weights=dataclasses.replace(HELD, sharp=0.5)),
    "fast-85": dataclasses.replace(FAST, negate=0.0),
    # Weights that matter to the forget set given back to the base; a retraining from a mixture, without any levels.
    "reset-5": dataclasses.replace(ANSWERS, reset=0.05),
    "reset-15": dataclasses.replace(ANSWERS, reset=0.15),
    "restart-5": Variant(steps=0, restart=0.5, restart_share=0.15),
    "restart-7": Variant(steps=0, restart=0.7, restart_share=0.15),
    # After subtracting how a mixture learns the forget set, alone and with the step back.
    "negate-1": dataclasses.replace(BACK, steps=22, restart=1.0, negate=1.0),
    "negate-9": dataclasses.replace(BACK, steps=22, restart=0.9, negate=1.0),
    "fast-negate-9": dataclasses.replace(FAST, restart=0.9),
    "fast-negate-85": dataclasses.replace(FAST, negate=1.5),
    "faster-negate-9": dataclasses.replace(FAST, restart=0.9, negate=1.5, weights=dataclasses.replace(HELD, rate=0.4, alpha=60.0)),
    "dual": DUAL,
    "dual-base": DUAL_BASE,
    "dual-base-sharp": dataclasses.replace(
        DUAL, source=0.0, steps=20, negate=1.5, weights=dataclasses.replace(HELD, rate=0.25, dual=1.0, sharp=0.5)
    ),
    "dual-base-sharp-long": dataclasses.replace(
        DUAL,
        source=0.0,
        steps=44,
        restart=0.85,
        negate=1.5,
        weights=dataclasses.replace(HELD, rate=0.25, dual=1.0, sharp=0.5),
    ),
    "fast-negate-85-dual": dataclasses.replace(
        FAST, source=0.02, steps=24, negate=2.0, weights=dataclasses.replace(HELD, rate=0.33, dual=0.6, alpha=60.0)
    ),
    # What else was to be tried: repair in closed form, noise before the steps, the log's steps, two views as the source.
    "repair-01": dataclasses.replace(DUAL_BASE, repair=0.1),
    "repair-1": dataclasses.replace(DUAL_BASE, repair=1.0),
    "strong-repair-03": dataclasses.replace(STRONG, repair=0.3),
    "strong": STRONG,
    "noise-2": dataclasses.replace(DUAL_BASE, noise=0.02),
    "noise-10": dataclasses.replace(DUAL_BASE, noise=0.1),
    "noise-20": dataclasses.replace(DUAL_BASE, noise=0.2),
    "logged-01-alone": Variant(steps=0, logged=0.1),
    "logged-1-alone": Variant(steps=0, logged=1.0),
    "logged-003-alone": Variant(steps=0, logged=0.03),
    "logged-003": dataclasses.replace(DUAL_BASE, negate=0.0, logged=0.03),
    "two-views-3": dataclasses.replace(DUAL_BASE, fine=0.3, steps=20),
    "two-views-6": dataclasses.replace(DUAL_BASE, fine=0.6, steps=20),
    # The package's method with another strength of its start and other steps.
    "distil-negate-2": Variant(method=CalibratedDistillation(negation=2.0)),
    "distil-back-85": Variant(method=CalibratedDistillation(back=0.85)),
    "distil-back-85-negate-2": Variant(method=CalibratedDistillation(back=0.85, negation=2.0)),
    "distil-long": Variant(method=CalibratedDistillation(), epochs=31),
    "distil-04": Variant(method=CalibratedDistillation(), epochs=31, rate=0.4),
    "distil-05": Variant(method=CalibratedDistillation(), epochs=31, rate=0.5),
    "distil-067": Variant(method=CalibratedDistillation(), epochs=31, rate=2 / 3),
    "distil-04-negate-2": Variant(method=CalibratedDistillation(negation=2.0), epochs=31, rate=0.4),
    "distil-04-negate-25": Variant(method=CalibratedDistillation(negation=2.5), epochs=31, rate=0.4),
    "distil-04-negate-25-dual": Variant(method=CalibratedDistillation(negation=2.5, dual_step=12.0), epochs=31, rate=0.4),
    "distil-05-negate-25": Variant(method=CalibratedDistillation(negation=2.5), epochs=31, rate=0.5),
    "distil-04-back-85-negate-2": Variant(method=CalibratedDistillation(back=0.85, negation=2.0), epochs=31, rate=0.4),
    "distil-05-back-85-negate-2": Variant(method=CalibratedDistillation(back=0.85, negation=2.0), epochs=31, rate=0.5),
    # The same with a level for relearning, and passes that leave room for it.
    "relearning-none": Variant(method=WithRelearning(relearning=None), epochs=31, rate=0.4),
    "relearning-moved": Variant(method=WithRelearning(relearning=Relearning(source="moved", draws=1)), epochs=24, rate=0.4),
    "relearning": Variant(method=WithRelearning(), epochs=24, rate=0.4),
    "relearning-3": Variant(method=WithRelearning(relearning=Relearning(weight=3.0, dual=8.0)), epochs=24, rate=0.4),
    "relearning-whole": Variant(method=WithRelearning(relearning=Relearning(begin=0.0)), epochs=20, rate=0.4),
    "relearning-whole-negate-1": Variant(
        method=WithRelearning(relearning=Relearning(begin=0.0), negation=1.0), epochs=20, rate=0.4
    ),
    "relearning-sparse": Variant(method=WithRelearning(relearning=SPARSE), epochs=25, rate=0.4),
    "relearning-sparse-negate-1": Variant(method=WithRelearning(relearning=SPARSE, negation=1.0), epochs=25, rate=0.4),
    "relearning-sparse-alpha": Variant(method=WithRelearning(relearning=SPARSE, negation=1.0, alpha=80.0), epochs=24, rate=0.4),
    "relearning-sparse-third": Variant(
        method=WithRelearning(relearning=dataclasses.replace(SPARSE, weight=0.3, dual=12.0), negation=1.0), epochs=24, rate=0.4
    ),
    "relearning-sparse-anchor": Variant(
        method=WithRelearning(relearning=SPARSE, negation=1.0, anchor_weight=5000.0), epochs=24, rate=0.4
    ),
    "relearning-held": Variant(method=WithRelearning(relearning=SPARSE, negation=1.0, **HARDER), epochs=24, rate=0.4),
    "relearning-held-more": Variant(
        method=WithRelearning(relearning=SPARSE, negation=1.0, alpha=120.0, anchor_weight=8000.0), epochs=24, rate=0.4
    ),
    "relearning-held-none": Variant(method=WithRelearning(relearning=None, negation=1.0, **HARDER), epochs=31, rate=0.4),
    "relearning-held-15": Variant(method=WithRelearning(relearning=SPARSE, **HARDER), epochs=24, rate=0.4),
}
PRETRAINED = (
    "level",
    "calibrated_distillation",
    "plain",
    "both",
    "fast-85",
    "negate-9",
    "fast-negate-85",
    "dual",
    "dual-base",
    "dual-base-sharp",
    "fast-negate-85-dual",
)
"""Those that are tried on a pretrained model, unless others are named."""
