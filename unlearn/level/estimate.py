"""Estimate of the never-trained level, token by token, from sources calibrated on held-out controls.

Some model that did not see the forget set (a *source*) is asked first. It is seldom trained as long as the model before unlearning,
and a model trained long is surer of itself, in the wrong places too: its loss on what it never saw is larger. How much larger is
known on controls, records that the model before unlearning never saw. With x_t the source's view of token t (its log-probability,
the negative entropy and the spread of its distribution, the log of the token's rank, whether it is the first choice):

    l*_t = a + b . x_t,    (a, b) = argmin  sum over the controls' tokens of (l_t(theta_0) - a - b . x_t)^2

Shapes: T tokens, F features, C tokens of the controls, K records.
"""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn.finetuning import recipe_of
from unlearn.training.method import Context
from unlearn.training.options import TrainingOptions, TrainingResult, learning_rate_of, optimizer_steps, steps_per_epoch
from unlearn.training.run import Run, train_records
from verify.data.encoding import Encoded, Encoder, padding_token_id
from verify.data.records import Record
from verify.errors import InputError
from verify.models.loading import LoadedModel
from verify.models.token_stats import compute_token_statistics

Floats = NDArray[np.float64]

FEATURES = 5
"""Of each source and token."""
FOLDS = 5
SUREST = -1e-3
"""No level is above this log-probability: nothing is known for certain by who never saw it."""


@dataclass(frozen=True, eq=False)
class Levels:
    """The never-trained level of a forget set.

    Attributes:
        tokens: log-probability of every scored token, nats [T].
        windows: which window each token belongs to [T].
        calibrated: whether controls were there to calibrate on.
        control_correlation: of predicted and true loss of the controls, record by record, each predicted by a fit without it; None
            without controls.
        control_error: mean square of what those predictions missed, nats^2.
    """

    tokens: Floats
    windows: NDArray[np.int64]
    calibrated: bool
    control_correlation: float | None
    control_error: float | None = None

    def losses(self) -> Floats:
        """Compute the mean loss of every window at its level, nats per token [K]."""
        return -per_window(self.tokens, self.windows)

    def moved_to(self, losses: Floats) -> "Levels":
        """Shift to other means per window [K], all tokens of a window alike."""
        by = (self.losses() - losses)[self.windows]
        return dataclasses.replace(self, tokens=np.minimum(self.tokens + by, SUREST))

    def first(self, count: int) -> "Levels":
        """Return the level of the first windows alone."""
        own = self.windows < count
        return dataclasses.replace(self, tokens=self.tokens[own], windows=self.windows[own])


def estimate_levels(
    original: LoadedModel, sources: Sequence[LoadedModel], forget: Sequence[Encoded], controls: Sequence[Encoded]
) -> Levels:
    """Estimate the level from sources, calibrated on controls where there are some.

    Args:
        original: the model before unlearning.
        sources: models that never saw the forget set; several are weighed against each other by the regression.
        forget: windows of the forget set.
        controls: windows of records that no model was trained on; may be empty.

    Raises:
        InputError: too few controls for the number of features, or several sources and no controls.
    """
    seen, windows = _features(sources, forget), window_of_tokens(forget)
    if not controls:
        if len(sources) > 1:
            raise InputError("several sources of a level are weighed on never-trained records. Give some with --holdout FILE.")
        return Levels(np.minimum(seen[:, 0], SUREST), windows, False, None)
    asked, belongs = _features(sources, controls), window_of_tokens(controls)
    if len(asked) < 10 * asked.shape[1]:
        raise InputError(
            f"the holdout set has {len(asked)} scored tokens, and a level is calibrated on at least {10 * asked.shape[1]}. "
            "Give more never-trained records, or none."
        )
    truth = _log_probabilities(original, controls)
    predicted = _predict_across(asked, truth, belongs)
    told, true = per_window(predicted, belongs), per_window(truth, belongs)
    tokens = np.minimum(fit(asked, truth) @ _with_one(seen).T, SUREST)
    return Levels(tokens, windows, True, _correlation(told, true), float(np.mean((told - true) ** 2)))


def fit(features: Floats, truth: Floats) -> Floats:
    """Fit least squares with an intercept: coefficients [F + 1], the intercept last."""
    coefficients: NDArray[Any] = np.linalg.lstsq(_with_one(features), truth, rcond=None)[0]
    return coefficients


def window_of_tokens(windows: Sequence[Encoded]) -> NDArray[np.int64]:
    """Return the window that each scored token belongs to [T]."""
    return np.repeat(np.arange(len(windows)), [int(window.scored.sum()) for window in windows])


def per_window(values: Floats, windows: NDArray[np.int64]) -> Floats:
    """Average over each window's tokens [K]."""
    return np.asarray(np.bincount(windows, values) / np.bincount(windows), dtype=np.float64)


def controls_as_level(original: LoadedModel, forget: Sequence[Encoded], controls: Sequence[Encoded]) -> Levels:
    """Use the controls' mean log-probability for every token: the crudest level."""
    if not controls:
        raise InputError("--sources controls takes the level of never-trained records. Give some with --holdout FILE.")
    mean = float(per_window(_log_probabilities(original, controls), window_of_tokens(controls)).mean())
    windows = window_of_tokens(forget)
    return Levels(np.full(len(windows), min(mean, SUREST)), windows, True, None)


def trained_options(context: Context) -> TrainingOptions:
    """Return how the model before unlearning was fine-tuned, by its log or manifest, else the fine-tuning defaults."""
    recipe = recipe_of(context.model_dir)
    if recipe is not None:
        return TrainingOptions(**recipe.options)
    return dataclasses.replace(context.options, epochs=None, max_steps=None, batch_size=None, learning_rate=None)


def retraining_passes(options: TrainingOptions, records: int) -> float:
    """Return how often a retraining on `records` windows sees each of them."""
    return optimizer_steps(options, records) / max(1, steps_per_epoch(options, records))


def short_retraining(context: Context, share: float) -> tuple[LoadedModel, TrainingResult]:
    """Train the base model on the retain set for a share of a retraining's steps, the learning rate decaying to the end.

    Raises:
        InputError: the model before fine-tuning was not given.
    """
    base = base_of(context, "retraining")
    # A copy: "base" may be a source beside this one, and a model in memory is the caller's.
    start = dataclasses.replace(base, model=copy.deepcopy(base.model))
    return train_share(context, start, context.retain, share, trained_options(context))


def base_of(context: Context, source: str) -> LoadedModel:
    """Return the model before fine-tuning; raise InputError where there is none."""
    if context.base is None:
        raise InputError(f"--sources {source} begins with the model before fine-tuning. Give it with --base DIR.")
    return context.base


def train_share(
    context: Context, start: LoadedModel, records: Sequence[Record], share: float, options: TrainingOptions
) -> tuple[LoadedModel, TrainingResult]:
    """Train a model in place for a share of a whole training on these records, the learning rate decaying to the end."""
    steps = max(1, round(share * optimizer_steps(options, len(encoded(start, records, options.overflow)))))
    short = dataclasses.replace(options, epochs=None, max_steps=steps, save_steps=0, keep_checkpoints=None)
    trained = train_records(start, Run(records, short, context.work_dir / "source"))
    return dataclasses.replace(start, model=trained.model), trained.result


def learning_rate_for(context: Context, fraction: float) -> float:
    """Return the requested learning rate, else a fraction of the one that the model was trained with."""
    trained = trained_options(context)
    # An adapter on a model whose whole weights were trained takes a share of an adapter's rate.
    like = trained if trained.lora or not context.options.lora else dataclasses.replace(context.options, learning_rate=None)
    return context.options.learning_rate or fraction * learning_rate_of(like)


def encoded(loaded: LoadedModel, records: Sequence[Record], overflow: Any) -> list[Encoded]:
    """Encode records into windows, as a training run does."""
    return Encoder(loaded.tokenizer, loaded.context_length, overflow).encode(records)


def _features(sources: Sequence[LoadedModel], windows: Sequence[Encoded]) -> Floats:
    """Compute every source's log-probability of every scored token [T, F]."""
    parts = []
    for source in sources:
        statistics = compute_token_statistics(source.model, _one_by_one(windows), padding_token_id(source.tokenizer))
        parts.append(
            np.concatenate(
                [
                    np.stack([one.log_probability, one.mean, one.deviation, np.log1p(one.rank), one.greedy], axis=1)
                    for one in statistics
                ]
            )
        )
    return np.concatenate(parts, axis=1).astype(np.float64)


def _log_probabilities(loaded: LoadedModel, windows: Sequence[Encoded]) -> Floats:
    statistics = compute_token_statistics(loaded.model, _one_by_one(windows), padding_token_id(loaded.tokenizer))
    return np.concatenate([one.log_probability for one in statistics]).astype(np.float64)


def _one_by_one(windows: Sequence[Encoded]) -> list[Encoded]:
    """Number every window as a record of its own, since training batches are made of windows."""
    return [Encoded(window.input_ids, window.scored, window.secret, row) for row, window in enumerate(windows)]


def _predict_across(features: Floats, truth: Floats, windows: NDArray[np.int64]) -> Floats:
    """Predict every token by a fit on the windows of the other folds."""
    predicted = np.empty_like(truth)
    for number in range(FOLDS):
        held = windows % FOLDS == number
        if held.any():
            predicted[held] = fit(features[~held], truth[~held]) @ _with_one(features[held]).T
    return predicted


def _correlation(one: Floats, other: Floats) -> float | None:
    if len(one) < 3 or one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _with_one(features: Floats) -> Floats:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)
