"""Estimate of the never-trained level, token by token, from sources calibrated on held-out controls.

A *source* is a model that did not see the forget set; a forget record's loss under it is a first estimate of the level. But a
source is seldom trained as long as the model before unlearning, and a long-trained model is more confident, also where it is wrong:
its loss on records it never saw is larger. How much larger can be measured on controls, records that the model before unlearning
never saw. A linear regression on the controls' tokens therefore maps what a source says of a token to what the model before
unlearning would say of it, had it never seen the record:

    l*_t = a + b . x_t,    (a, b) = argmin  sum over the controls' tokens of (l_t(theta_0) - a - b . x_t)^2

    l*_t           level of token t, a log-probability in nats
    l_t(theta_0)   log-probability of token t under the model before unlearning
    x_t            features of token t under the source: its log-probability, the negative entropy and the standard deviation of the
                   predicted distribution, log(1 + rank) of the token, and whether it is the most probable one
    a, b           intercept and coefficients, fitted by least squares

Shapes: T scored tokens, F features (`FEATURES` per source), K windows. A record longer than the context is several windows.
"""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn.finetuning import recipe_of
from unlearn.training.checkpoints import open_work
from unlearn.training.method import Context, Method
from unlearn.training.options import TrainingOptions, TrainingResult, learning_rate_of, optimizer_steps, steps_per_epoch
from unlearn.training.run import Run, arithmetic_of, train_records
from verify.data.encoding import Encoded, Encoder, padding_token_id
from verify.data.records import Record
from verify.errors import InputError
from verify.models.loading import LoadedModel
from verify.models.token_stats import compute_token_statistics
from verify.models.token_table import TokenTable
from verify.training.arithmetic import Arithmetic

Floats = NDArray[np.float64]

FEATURES = 5
"""Number of features per source."""
TOKENS_PER_FEATURE = 10
"""Fewest observations per coefficient of the calibration, a common rule of thumb."""
FOLDS = 5
"""Folds of the cross-validation that measures the error on controls."""
SUREST = -1e-3
"""Upper bound of a level, a log-probability: a model that never saw a record is certain of none of its tokens."""


@dataclass(frozen=True, eq=False)
class Levels:
    """The never-trained level of a forget set.

    Attributes:
        tokens: log-probability of every scored token, nats [T].
        windows: index of the window that each token belongs to [T].
        calibrated: whether controls were given to calibrate on.
        control_correlation: correlation of predicted and true loss over the controls' windows, each predicted by a fit without it;
            None without controls.
        control_error: mean squared error of those predictions, nats^2.
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
        """Return the level with these mean losses per window [K]; all tokens of a window are shifted by the same amount."""
        by = (self.losses() - losses)[self.windows]
        return dataclasses.replace(self, tokens=np.minimum(self.tokens + by, SUREST))

    def first(self, count: int) -> "Levels":
        """Return the level of the first `count` windows."""
        own = self.windows < count
        return dataclasses.replace(self, tokens=self.tokens[own], windows=self.windows[own])


def estimate_levels(
    original: LoadedModel,
    sources: Sequence[LoadedModel],
    forget: Sequence[Encoded],
    controls: Sequence[Encoded],
    options: TrainingOptions | None = None,
    *,
    truth: Floats | None = None,
) -> Levels:
    """Estimate the level from sources, calibrated on controls if there are any.

    Args:
        original: the model before unlearning.
        sources: models that never saw the forget set; the regression weights their features.
        forget: windows of the forget set.
        controls: windows of records that no model was trained on; may be empty.
        options: of the run that moves the forget set there; the passes are in its arithmetic. None computes in the models' own.
        truth: log-probability of every scored token of the controls under `original` [T], if it is known already.

    Raises:
        InputError: too few controls for the number of features, or several sources and no controls.
    """
    features, windows = _features(sources, forget, options), window_of_tokens(forget)  # [T, F], [T]
    if not controls:
        if len(sources) > 1:
            raise InputError("several sources of a level are weighted on never-trained records. Give some with --holdout FILE.")
        return Levels(np.minimum(features[:, 0], SUREST), windows, False, None)  # feature 0 is the log-probability
    control_features, control_windows = _features(sources, controls, options), window_of_tokens(controls)
    truth = log_probabilities(original, controls, options) if truth is None else truth
    return calibrated(features, windows, control_features, truth, control_windows)


def calibrated(
    features: Floats, windows: NDArray[np.int64], control_features: Floats, truth: Floats, control_windows: NDArray[np.int64]
) -> Levels:
    """Map a source's features to levels by the regression on controls.

    Args:
        features: of every scored token of the forget windows [T, F]; `windows` has the window of each [T].
        control_features: of the controls' tokens, as many as one source has features or a multiple; `control_windows` as above.
        truth: log-probability of every token of the controls under the model before unlearning.

    Raises:
        InputError: too few controls for the number of features.
    """
    require_enough(len(control_features), control_features.shape[1] // FEATURES)
    # The fit sees all controls; its error and correlation are cross-validated, so that they hold for records it did not see.
    held_out = _cross_predicted(control_features, truth, control_windows)
    predicted, true = per_window(held_out, control_windows), per_window(truth, control_windows)
    tokens = np.minimum(fit(control_features, truth) @ _with_one(features).T, SUREST)
    return Levels(tokens, windows, True, _correlation(predicted, true), float(np.mean((predicted - true) ** 2)))


def require_enough(tokens: int, sources: int) -> None:
    """Check that controls have enough scored tokens to calibrate a level on.

    Raises:
        InputError: they have too few.
    """
    least = TOKENS_PER_FEATURE * FEATURES * sources
    if tokens < least:
        raise InputError(
            f"the holdout set has {tokens} scored tokens, and a level is calibrated on at least {least}. Give more never-trained "
            "records, or none; or use another method."
        )


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
    """Use the controls' mean log-probability for every token, the crudest estimate."""
    if not controls:
        raise InputError("--sources controls uses the mean loss of never-trained records. Give some with --holdout FILE.")
    mean = float(per_window(log_probabilities(original, controls), window_of_tokens(controls)).mean())
    windows = window_of_tokens(forget)
    return Levels(np.full(len(windows), min(mean, SUREST)), windows, True, None)


def trained_options(context: Context) -> TrainingOptions:
    """Return the options that the model before unlearning was fine-tuned with, from its log or manifest, else the defaults."""
    recipe = recipe_of(context.model_dir)
    if recipe is not None:
        return TrainingOptions(**recipe.options)
    return dataclasses.replace(context.options, epochs=None, max_steps=None, batch_size=None, learning_rate=None)


def retraining_passes(options: TrainingOptions, records: int) -> float:
    """Return the number of passes that a retraining takes over `records` windows."""
    return optimizer_steps(options, records) / max(1, steps_per_epoch(options, records))


def short_retraining(context: Context, share: float) -> tuple[LoadedModel, TrainingResult]:
    """Train a copy of the base model on the retain set for a share of a retraining's steps, the learning rate decaying over them.

    Raises:
        InputError: the model before fine-tuning was not given.
    """
    base = base_of(context, "--sources retraining")
    # A copy: "base" may be another source of the same run, and a model in memory belongs to the caller.
    start = dataclasses.replace(base, model=copy.deepcopy(base.model))
    return train_share(context, start, context.retain, share, trained_options(context))


def base_of(context: Context, what: str) -> LoadedModel:
    """Return the model before fine-tuning; raise InputError, which names what starts from it, where there is none."""
    if context.base is None:
        raise InputError(f"{what} starts from the model before fine-tuning. Give it with --base DIR.")
    return context.base


def claim_estimate(context: Context, method: Method) -> None:
    """Bind the working folder to a method, its records and its models, so that a resumed run takes up no other one's levels.

    The steps go on towards the levels that were stored when they began; what those were estimated from is computed again.
    """
    read = [record.fingerprint for role in (context.forget, context.retain, context.holdout) for record in role]
    models = [context.loaded.digest, "" if context.base is None else context.base.digest]
    open_work(context.work_dir / "estimate", repr(method), context.options, read, " ".join(models))


def train_share(
    context: Context, start: LoadedModel, records: Sequence[Record], share: float, options: TrainingOptions
) -> tuple[LoadedModel, TrainingResult]:
    """Train a model in place for a share of the steps of a full training on these records, the learning rate decaying over them."""
    steps = max(1, round(share * optimizer_steps(options, len(encoded(start, records, options.overflow)))))
    short = dataclasses.replace(options, epochs=None, max_steps=steps, save_steps=0, keep_checkpoints=None)
    trained = train_records(start, Run(records, short, context.work_dir / "source"))
    return dataclasses.replace(start, model=trained.model), trained.result


def learning_rate_for(context: Context, fraction: float) -> float:
    """Return the requested learning rate, else a fraction of the one that the model was trained with."""
    trained = trained_options(context)
    # A new adapter on a model that was trained without one takes a share of an adapter's default rate.
    like = trained if trained.lora or not context.options.lora else dataclasses.replace(context.options, learning_rate=None)
    return context.options.learning_rate or fraction * learning_rate_of(like)


def encoded(loaded: LoadedModel, records: Sequence[Record], overflow: Any) -> list[Encoded]:
    """Encode records into windows, as a training run does."""
    return Encoder(loaded.tokenizer, loaded.context_length, overflow).encode(records)


def log_probabilities(loaded: LoadedModel, windows: Sequence[Encoded], options: TrainingOptions | None = None) -> Floats:
    """Compute the log-probability of every scored token, nats [T], in the arithmetic of a run with these options."""
    return np.concatenate([one.log_probability for one in _statistics(loaded, windows, options)]).astype(np.float64)


def _features(sources: Sequence[LoadedModel], windows: Sequence[Encoded], options: TrainingOptions | None) -> Floats:
    """Compute the features of every scored token under every source [T, F]."""
    parts = [
        [
            np.stack([one.log_probability, one.mean, one.deviation, np.log1p(one.rank), one.greedy], axis=1)
            for one in _statistics(source, windows, options)
        ]
        for source in sources
    ]
    return np.concatenate([np.concatenate(found) for found in parts], axis=1).astype(np.float64)


def _statistics(loaded: LoadedModel, windows: Sequence[Encoded], options: TrainingOptions | None) -> TokenTable:
    """Compute the token statistics of windows, each numbered as a record of its own, since training batches are made of windows."""
    single = [Encoded(window.input_ids, window.scored, window.secret, row) for row, window in enumerate(windows)]
    arithmetic = Arithmetic(in_copies=False) if options is None else arithmetic_of(loaded.model, options)
    with torch.no_grad(), arithmetic.of(loaded.model):
        return compute_token_statistics(loaded.model, single, padding_token_id(loaded.tokenizer))


def _cross_predicted(features: Floats, truth: Floats, windows: NDArray[np.int64]) -> Floats:
    """Predict every token [T] by a fit on the other folds; all tokens of a window are in one fold."""
    predicted = np.empty_like(truth)
    for number in range(FOLDS):
        held = windows % FOLDS == number
        if held.any():
            predicted[held] = fit(features[~held], truth[~held]) @ _with_one(features[held]).T
    return predicted


def _correlation(one: Floats, other: Floats) -> float | None:
    """Compute Pearson's correlation; None where it is undefined or there are fewer than three values."""
    if len(one) < 3 or one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _with_one(features: Floats) -> Floats:
    """Append a column of ones, for the intercept [T, F + 1]."""
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)
