"""What a model that never saw the records would show, reading by reading: at the output, decoded from earlier layers, and inside.

A source that never saw them is read, and its readings are mapped to the original's by a fit on controls, as `unlearn.level` does
for the output: scores by least squares on five features a token, hidden states by ridge regression.

Shapes: T scored tokens, D width, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unlearn.level.estimate import SUREST, Floats, fit
from verify.data.encoding import Encoded, collate, padding_token_id
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import head_sees, output_head, predicting_positions
from verify.models.token_stats import length_sorted_batches
from verify.probes.logit_lens import final_norm

OUTPUT = 0
"""The reading at the output; other readings are the numbers of layers, from 1."""
TOKENS_AT_ONCE = 2048
RIDGE = 1e-3


def states_of(model: torch.nn.Module, batch: Mapping[str, Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
    """Compute hidden states where a scored token is predicted, by reading [T, D]; that of the output is what the head reads."""
    predicting = predicting_positions(batch["scored"])
    with head_sees(model, lambda hidden: hidden[:1, :1]):
        found = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True, use_cache=False
        ).hidden_states
    return {layer: found[-1 if layer == OUTPUT else layer][predicting] for layer in (OUTPUT, *layers)}


def logits_of(model: torch.nn.Module, states: Tensor, layer: int) -> Tensor:
    """Decode hidden states of a reading [T, D] to logits [T, V]."""
    decoded: Tensor = output_head(model)(states if layer == OUTPUT else final_norm(model)(states))
    return decoded.float()


@dataclass(frozen=True, eq=False)
class Readings:
    """Readings of windows under one model, tokens in the windows' order.

    Attributes:
        features: by reading, [T, 5]: log-probability, negative entropy, deviation, log rank, whether it is the most probable.
        states: by reading, [T, D].
    """

    features: Mapping[int, Floats]
    states: Mapping[int, Tensor]


@torch.no_grad()
def read(loaded: LoadedModel, windows: Sequence[Encoded], layers: Sequence[int]) -> Readings:
    """Read windows under a model at the output and at some layers."""
    model, device = loaded.model.eval(), next(loaded.model.parameters()).device
    features: dict[int, list[Floats]] = {layer: [np.empty((0, 5))] * len(windows) for layer in (OUTPUT, *layers)}
    states: dict[int, list[Tensor]] = {layer: [torch.empty(0)] * len(windows) for layer in (OUTPUT, *layers)}
    for rows in length_sorted_batches([len(window.input_ids) for window in windows], TOKENS_AT_ONCE):
        chosen = [windows[row] for row in rows]
        batch = {name: values.to(device) for name, values in collate(chosen, padding_token_id(loaded.tokenizer)).items()}
        counts, targets = [int(window.scored.sum()) for window in chosen], batch["input_ids"][batch["scored"]]
        for layer, hidden in states_of(model, batch, layers).items():
            found = _features(logits_of(model, hidden, layer), targets).double().cpu().numpy()
            for row, part, own in zip(
                rows, np.split(found, np.cumsum(counts)[:-1]), torch.split(hidden.float().cpu(), counts), strict=True
            ):
                features[layer][row], states[layer][row] = part, own
    return Readings(
        {layer: np.concatenate(parts) for layer, parts in features.items()},
        {layer: torch.cat(parts) for layer, parts in states.items()},
    )


def _features(logits: Tensor, targets: Tensor) -> Tensor:
    logs = logits.log_softmax(-1)
    own = logs.gather(-1, targets[:, None])[:, 0]
    weights = logs.exp()
    mean = (weights * logs).sum(-1)
    deviation = ((weights * logs.square()).sum(-1) - mean.square()).clamp_min(0).sqrt()
    rank = (logs > own[:, None]).sum(-1)
    return torch.stack([own, mean, deviation, rank.float().log1p(), (rank == 0).float()], dim=1)


def level_of(source: Readings, controls: Readings, original: Readings, layer: int) -> Floats:
    """Estimate the level of every token, nats [T].

    Args:
        source: of the forget windows under the source.
        controls, original: of the controls' windows under the source and under the original.
        layer: the reading.
    """
    weights = fit(controls.features[layer], original.features[layer][:, 0])
    values = source.features[layer] @ weights[:-1] + weights[-1]
    return np.minimum(values, SUREST)


def states_at_level(source: Readings, controls: Readings, original: Readings, layer: int) -> tuple[Tensor, Tensor]:
    """Estimate the hidden states of every token [T, D], and the square root of their inverse covariance on controls [D, D]."""
    x, y = controls.states[layer].double(), original.states[layer].double()
    mean, aim = x.mean(0), y.mean(0)
    x, y = x - mean, y - aim
    scale = RIDGE * len(x) * x.var(0).mean()
    weights = torch.linalg.solve(x.T @ x + scale * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    covariance = y.T @ y / len(y)
    values, vectors = torch.linalg.eigh(covariance)
    whitening = vectors @ torch.diag((values + 0.01 * values.mean()).rsqrt()) @ vectors.T
    return ((source.states[layer].double() - mean) @ weights + aim).float(), whitening.float()
