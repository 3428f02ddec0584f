"""Readings of a model: what it predicts at its output and, by the logit lens, at earlier layers; and the level of each.

    l_td = log softmax(W_U norm(h_td))[token t]        reading d of token t, from the hidden state h_td of layer d

W_U and norm are the model's own head and final norm (nostalgebraist 2020, "interpreting GPT: the logit lens"). The never-trained
level of every reading in every context is estimated as that of the output is (`unlearn.level.estimate`): a source that never saw
the record is read, and its features are mapped to the original's readings by a regression on controls in the same context.

Shapes: N scored tokens of a batch, T scored tokens of all windows, D width, V vocabulary, R readings, F features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearn.level.contexts import View, put
from unlearn.level.estimate import Floats, Levels, calibrated, encoded, window_of_tokens
from unlearn.training.options import TrainingOptions
from unlearn.training.run import arithmetic_of
from unlearn.training.weights import sample
from verify.data.encoding import Encoded, collate, padding_token_id
from verify.data.records import Record
from verify.models.inner_layers import final_norm, layers_below_the_last
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import head_sees, output_head, predicting_positions
from verify.models.token_stats import length_sorted_batches

OUTPUT = 0
"""The reading at the output; the others are numbers of layers, from 1."""
TOKENS_AT_ONCE = 2048
CONTROLS = 80
"""Controls that a context other than the exact text is calibrated on: hundreds of tokens for the six coefficients of a fit."""


def layers_at(model: Any, depths: Sequence[float]) -> tuple[int, ...]:
    """Return the numbers of the layers, from 1 and below the last, nearest to these depths (0: the first layer, 1: the last)."""
    below = layers_below_the_last(model)
    return tuple(sorted({below[min(len(below) - 1, max(0, round(depth * (len(below) + 1)) - 1))] for depth in depths if below}))


def read_pass(model: Any, batch: Mapping[str, Tensor], layers: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
    """Compute, where scored tokens are predicted, the model's logits [N, V] and the hidden states of some layers [N, D]."""
    predicting = predicting_positions(batch["scored"])
    with head_sees(model, lambda hidden: hidden[predicting]):
        found = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            output_hidden_states=bool(layers),
            use_cache=False,
        )
    return found.logits, {layer: found.hidden_states[layer][predicting] for layer in layers}


def decoded(model: Any, states: Tensor) -> Tensor:
    """Decode the hidden states of an inner layer [N, D] to logits [N, V] by the logit lens."""
    while hasattr(model, "module"):  # DistributedDataParallel
        model = model.module
    logits: Tensor = output_head(model)(final_norm(model)(states))
    return logits


@torch.no_grad()
def read_features(
    loaded: LoadedModel, windows: Sequence[Encoded], layers: Sequence[int], options: TrainingOptions | None = None
) -> dict[int, Floats]:
    """Compute the features of `unlearn.level.estimate` of every reading [T, F], tokens in the windows' order.

    Args:
        loaded: the model.
        windows: what is read.
        layers: the readings beside the output.
        options: of the run whose arithmetic the passes have; None computes in the model's own.
    """
    model, device = loaded.model.eval(), next(loaded.model.parameters()).device
    parts: dict[int, list[Floats]] = {reading: [np.empty((0, 5))] * len(windows) for reading in (OUTPUT, *layers)}
    arithmetic = arithmetic_of(model, options or TrainingOptions())
    for rows in length_sorted_batches([len(window.input_ids) for window in windows], TOKENS_AT_ONCE):
        chosen = [windows[row] for row in rows]
        batch = {name: values.to(device) for name, values in collate(chosen, padding_token_id(loaded.tokenizer)).items()}
        ends, targets = np.cumsum([int(window.scored.sum()) for window in chosen])[:-1], batch["input_ids"][batch["scored"]]
        with arithmetic.of(model):
            logits, states = read_pass(model, batch, layers)
            for reading in parts:
                found = _features(logits if reading == OUTPUT else decoded(model, states[reading]), targets)
                for row, own in zip(rows, np.split(found, ends), strict=True):
                    parts[reading][row] = own
    return {reading: np.concatenate(found) for reading, found in parts.items()}


def _features(logits: Tensor, targets: Tensor) -> Floats:
    """Compute log-probability, negative entropy, standard deviation, log(1 + rank), and whether the rank is 0 [N, F]."""
    logs = logits.float().log_softmax(-1)
    own = logs.gather(-1, targets[:, None])[:, 0]
    weights = logs.exp()
    mean = (weights * logs).sum(-1)
    deviation = ((weights * logs.square()).sum(-1) - mean.square()).clamp_min(0).sqrt()
    rank = (logs > own[:, None]).sum(-1)
    found = torch.stack([own, mean, deviation, rank.float().log1p(), (rank == 0).float()], dim=1)
    return np.asarray(found.double().cpu().numpy())


def levels_of_views(
    original: LoadedModel,
    source: LoadedModel,
    views: Sequence[View],
    controls: Sequence[Record],
    layers: Sequence[int],
    options: TrainingOptions,
) -> tuple[Floats, Levels]:
    """Estimate the level of every reading of every view.

    Args:
        original: the model before unlearning.
        source: a model that never saw the forget set.
        views: of the forget set; among them each record's exact text.
        controls: records that no model was trained on.
        layers: the readings beside the output.
        options: of the run that moves the views there.

    Returns:
        levels, nats, of the scored tokens of all views in order [T, R], and that of the output on the exact texts, each once.

    Raises:
        InputError: the controls have too few scored tokens to calibrate on.
    """
    rng = np.random.default_rng([options.seed, 29])
    # Identity of a view's record, and its context: some contexts leave a record as it is -> levels of its tokens [n, R].
    parts: dict[tuple[int, str], Floats] = {}
    exact: Levels | None = None
    for context in sorted({view.context for view in views}):
        own = list({id(view.record): view.record for view in views if view.context == context}.values())
        some = controls if context == "exact" else sample(controls, CONTROLS, options.seed)
        texts = own, [put(record, context, rng) for record in some]
        windows, known = (encoded(original, records, options.overflow) for records in texts)
        found = _calibrated_readings(original, source, windows, known, layers, options)
        tokens = np.stack([levels.tokens for levels in found], axis=1)
        owners = np.array([windows[number].record for number in window_of_tokens(windows)])
        parts |= {(id(record), context): tokens[owners == number] for number, record in enumerate(own)}
        exact = found[0] if context == "exact" else exact
    assert exact is not None, "half of the views are the exact text"
    return np.concatenate([parts[id(view.record), view.context] for view in views]), exact


def _calibrated_readings(
    original: LoadedModel,
    source: LoadedModel,
    windows: Sequence[Encoded],
    known: Sequence[Encoded],
    layers: Sequence[int],
    options: TrainingOptions,
) -> list[Levels]:
    """Estimate the levels of all readings of windows, the output first, from controls' windows in the same context."""
    own, theirs, truth = (
        read_features(model, read, layers, options) for model, read in ((source, windows), (source, known), (original, known))
    )
    of_own, of_known = window_of_tokens(windows), window_of_tokens(known)
    return [calibrated(own[reading], of_own, theirs[reading], truth[reading][:, 0], of_known) for reading in (OUTPUT, *layers)]
