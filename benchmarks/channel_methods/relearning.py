"""A level for relearning: `calibrated_distillation` with a second distance, at the weights after some steps of relearning.

    + weight [ mean_t h(l'_t - l'*_t) + 5 e'^2 + mu' e' ]    over exact texts of half of the forget subjects
    l'_t = log p(token t; theta + delta),    delta: what a few steps on the other half change at theta, held constant
    e' = mean_t l'_t - mean_t l'*_t,         mu' <- mu' + dual mean(e' 1[|e'| < 0.5])  after every step

The level l'* is what the base says, after the same steps on the same records or as it is, calibrated on controls: on what the
model before unlearning says of never-trained people once it has been trained so on others of them. So the exact text and relearning
have a target each, where `sharp` steps bring theta + delta to the level of theta.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from unlearn import CalibratedDistillation
from unlearn.level.contexts import CONTEXTS, draw_views
from unlearn.level.distillation import RECORD_WEIGHT, ToReadings
from unlearn.level.estimate import base_of, calibrated, encoded, learning_rate_for, trained_options, window_of_tokens
from unlearn.level.facts import outcome_near_level
from unlearn.level.negation import start_weights
from unlearn.level.objective import WITHIN
from unlearn.level.readings import OUTPUT, layers_at, levels_of_views, read_features
from unlearn.methods.calibrated_distillation import RATE
from unlearn.training.method import Batch, Context, Outcome, Progress
from unlearn.training.options import learning_rate_of, optimizer_steps
from unlearn.training.run import Run, run_objective
from verify.data.encoding import Encoded, collate, padding_token_id
from verify.data.records import Record
from verify.data.subjects import subject_groups
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import head_sees, mean_by_row, predicting_positions, target_log_probabilities
from verify.probes.relearning import relearned, subject_halves

RELEARNED = "relearned"
"""Name of the multiplier."""
BATCH = 8
"""Windows of a step of relearning, as in the audit."""


@dataclass(frozen=True)
class Relearning:
    """How relearning is simulated, and what its distance weighs.

    Attributes:
        weight, dual: as in the formula above.
        steps: of AdamW that a change takes.
        size: sum of their rates, as a share of the fine-tuning's rate; the audit's twelve steps have 1.2.
        every: optimizer steps that a change is used for.
        rows: exact texts at the changed weights in an optimizer step.
        begin: share of the optimizer steps before the first of these.
        source: what the level is read from: the base after the same steps, "moved", or as it is, "still".
        draws: of controls that are relearned, to calibrate on the others.
    """

    weight: float = 1.0
    dual: float = 4.0
    steps: int = 3
    size: float = 1.2
    every: int = 6
    rows: int = 4
    begin: float = 0.5
    source: Literal["moved", "still"] = "still"
    draws: int = 2


class Relearner:
    """Moves models by the steps of relearning; `tokens` counts what went through them."""

    def __init__(self, loaded: LoadedModel, about: Relearning, rate: float) -> None:
        self.loaded, self.about, self.rate, self.tokens = loaded, about, rate * about.size / about.steps, 0

    def change(self, model: Any, records: Sequence[Record], seed: int) -> dict[str, Tensor]:
        """Compute by how much the steps on these records change every weight; the model stays as it is."""
        before = {name: value.detach() for name, value in model.named_parameters()}
        training, steps = model.training, self.about.steps
        with relearned(dataclasses.replace(self.loaded, model=model), records, self.rate, BATCH, seed) as advance:
            advance(steps)
            found = {name: value.detach() - before[name] for name, value in model.named_parameters()}
            length = float(np.mean([len(window.input_ids) for window in advance.windows]))
            self.tokens += round(steps * advance.batch_size * length)
        model.train(training)
        return found

    def features(self, model: LoadedModel, on: Sequence[Record], windows: Sequence[Encoded], seed: int) -> np.ndarray:
        """Read the features of windows under a model after the steps on some records."""
        moved = self.change(model.model, on, seed)
        kept = {name: value.detach().clone() for name, value in model.model.named_parameters()}
        with torch.no_grad():
            for name, value in model.model.named_parameters():
                value.add_(moved[name])
            found = read_features(model, windows, ())[OUTPUT]
            for name, value in model.model.named_parameters():
                value.copy_(kept[name])
        return found


@dataclass(eq=False)
class Part:
    """The second distance: its records, their levels, and the change of the weights that is in use.

    Attributes:
        records: the forget set. windows: their exact texts, one each. levels: of each window's tokens, nats.
        halves: indices of the records of each half of the subjects.
        first: the optimizer step at which it begins.
    """

    relearner: Relearner
    records: Sequence[Record]
    windows: Sequence[Encoded]
    levels: Sequence[Tensor]
    halves: tuple[np.ndarray, np.ndarray]
    first: int
    seed: int
    tokens: int = 0
    shift: dict[str, Tensor] = field(default_factory=dict)
    scored: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def loss(self, model: nn.Module, progress: Progress) -> Tensor | None:
        """Compute the distance's loss in this step, a scalar; None before it begins."""
        about, since = self.relearner.about, progress.step - self.first
        if since < 0:
            progress.measure(RELEARNED, torch.zeros(1))
            return None
        if since % about.every == 0:
            number = since // about.every
            trained, self.scored = self.halves if number % 2 == 0 else self.halves[::-1]
            self.shift = self.relearner.change(model, [self.records[index] for index in trained], 1000 * self.seed + number)
        rng = np.random.default_rng([self.seed, 41, since // about.every])
        order = rng.permutation(self.scored)
        begin = since % about.every * about.rows
        chosen = [int(order[place % len(order)]) for place in range(begin, begin + about.rows)]
        return self._distance(model, chosen, progress)

    def _distance(self, model: nn.Module, chosen: Sequence[int], progress: Progress) -> Tensor:
        windows, size = [self.windows[index] for index in chosen], len(chosen)
        self.tokens += sum(len(window.input_ids) for window in windows)
        batch = collate(windows, padding_token_id(self.relearner.loaded.tokenizer))
        logits = logits_at(model, self.shift, batch)
        rows = torch.nonzero(batch["scored"])[:, 0]
        values = target_log_probabilities(logits, batch["input_ids"][batch["scored"]])
        level = torch.cat([self.levels[index] for index in chosen]).to(values)
        by_token = mean_by_row(F.smooth_l1_loss(values, level, reduction="none"), rows, size)
        excess = mean_by_row(values - level, rows, size)
        progress.measure(RELEARNED, torch.where(excess.detach().abs() < WITHIN, excess.detach(), 0.0))
        by_row = by_token + RECORD_WEIGHT * excess.square() + progress.values[RELEARNED] * excess
        return self.relearner.about.weight * by_row.mean()


def logits_at(model: nn.Module, shift: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """Compute the logits of scored tokens [N, V] at the weights plus a change; the gradient is that at those weights."""
    moved = {name: value + shift[name] for name, value in model.named_parameters() if name in shift}
    predicting = predicting_positions(batch["scored"])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
    with head_sees(model, lambda hidden: hidden[predicting]):
        logits: Tensor = functional_call(model, moved, (), inputs).logits
    return logits


@dataclass(frozen=True)
class ToBoth(ToReadings):
    """The method's objective with the second distance."""

    part: Part

    def begin(self) -> Mapping[str, float]:
        """Return the multipliers' initial values."""
        return {**super().begin(), RELEARNED: 0.0}

    def advance(self, values: Mapping[str, float], measured: Mapping[str, float]) -> Mapping[str, float]:
        """Take one step of dual ascent, of its own size for relearning."""
        after = dict(super().advance(values, measured))
        return {**after, RELEARNED: values[RELEARNED] + self.part.relearner.about.dual * measured[RELEARNED]}

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of both losses."""
        # First, as it leaves no gradients behind.
        second = self.part.loss(model, batch.progress)
        first = super().loss(model, batch, reference)
        return first if second is None else first + second


def part_of(context: Context, about: Relearning, steps: int) -> Part:
    """Estimate the levels after relearning of each half by the other, from the base and calibrated on controls.

    Args:
        context: of the method.
        about: how relearning is simulated.
        steps: of the optimizer, in all.
    """
    loaded, base, seed = context.loaded, base_of(context, "a level for relearning"), context.options.seed
    relearner = Relearner(loaded, about, learning_rate_of(trained_options(context)))
    halves = subject_halves(context.forget, seed + 500)  # not the audit's halves, which have the seed itself
    assert halves is not None, "the worlds forget more than one person"
    windows = encoded(loaded, context.forget, "split")
    assert len(windows) == len(context.forget), "records of the trials fit the context"
    own: list[np.ndarray] = list(_split(read_features(base, windows, ())[OUTPUT], windows))
    for trained, scored in (halves, halves[::-1]) if about.source == "moved" else ():
        read = [windows[index] for index in scored]
        found = relearner.features(base, [context.forget[index] for index in trained], read, seed)
        for index, part in zip(scored, _split(found, read), strict=True):
            own[int(index)] = part
    theirs, truth, known = _of_controls(context, relearner, base, halves)
    of_known, of_own = window_of_tokens(known), window_of_tokens(windows)
    levels = calibrated(np.concatenate(own), of_own, theirs, truth, of_known)
    tokens = [torch.from_numpy(levels.tokens[of_own == number]).float() for number in range(len(windows))]
    return Part(relearner, context.forget, windows, tokens, halves, round(about.begin * steps), seed)


def _of_controls(
    context: Context, relearner: Relearner, base: LoadedModel, halves: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[Encoded]]:
    """Read the source's features of controls [T, F], their log-probability once the original has relearned others [T], and windows.

    In every draw as many people are learned as in half of the forget set, and all others are read.
    """
    about, loaded, seed = relearner.about, context.loaded, context.options.seed
    owners, groups = subject_groups(context.forget), subject_groups(context.holdout)
    people = len({owners[int(index)] for index in halves[0]})
    theirs, truth, known = [], [], []
    for draw in range(about.draws):
        names = np.random.default_rng([seed, 43, draw]).permutation(sorted(set(groups)))
        taught = set(names[:people].tolist())
        on = [record for record, owner in zip(context.holdout, groups, strict=True) if owner in taught]
        others = [record for record, owner in zip(context.holdout, groups, strict=True) if owner not in taught]
        read = encoded(loaded, others, "split")
        moved = about.source == "moved"
        theirs.append(relearner.features(base, on, read, seed + draw) if moved else read_features(base, read, ())[OUTPUT])
        truth.append(relearner.features(loaded, on, read, seed + draw)[:, 0])
        known += read
    return np.concatenate(theirs), np.concatenate(truth), known


def _split(values: np.ndarray, windows: Sequence[Encoded]) -> list[np.ndarray]:
    return np.split(values, np.cumsum([int(window.scored.sum()) for window in windows])[:-1])


@dataclass(frozen=True)
class WithRelearning(CalibratedDistillation):
    """`calibrated_distillation` with a second distance; None leaves it as it is."""

    relearning: Relearning | None = field(default_factory=Relearning)

    def edit(self, context: Context) -> Outcome:
        """Do what the method does, with the other objective; its tokens are counted, too."""
        loaded, base = context.loaded, base_of(context, "calibrated_distillation")
        options = dataclasses.replace(
            context.options, epochs=(context.options.epochs or 28.0) / self.views, batch_size=context.options.batch_size or 8
        )
        options = dataclasses.replace(options, learning_rate=learning_rate_for(context, RATE), overflow="split")
        views = draw_views(context.forget, self.views, np.random.default_rng([options.seed, 31]))
        layers = layers_at(loaded.model, self.depths)
        tokens, levels = levels_of_views(loaded, base, views, context.holdout, layers, options)
        records = [view.record for view in views]
        windows = encoded(loaded, records, options.overflow)
        terms: tuple[Any, ...] = (layers, CONTEXTS, self.lens_weight, self.alpha, self.dual_step, self.anchor_weight)
        part = None
        if self.relearning is not None:
            part = part_of(context, self.relearning, optimizer_steps(options, len(windows)))
        start, negated = start_weights(context, self.back, self.negation)
        tables = {"forget_level": tokens, "forget_context": [CONTEXTS.index(views[window.record].context) for window in windows]}
        objective = ToReadings(*terms) if part is None else ToBoth(*terms, part)
        work = context.work_dir / "distillation"
        work.mkdir(exist_ok=True)
        run = Run(records, options, work, retain=context.retain, tables=tables, start=start)
        done = run_objective(loaded, objective, run).result
        extra = 0 if part is None else part.tokens + part.relearner.tokens
        trained = [result for result in (negated, dataclasses.replace(done, tokens=done.tokens + extra)) if result is not None]
        exact = encoded(loaded, context.forget, context.options.overflow)
        return outcome_near_level(context, loaded.model, levels, exact, trained, options.learning_rate)
