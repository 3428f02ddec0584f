"""Hidden states of a model that never saw the records, as a level for those inside: mapped to the original's by a fit on controls.

Shapes: T scored tokens, D width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unlearn.level.readings import OUTPUT, TOKENS_AT_ONCE
from verify.data.encoding import Encoded, collate, padding_token_id
from verify.models.inner_layers import final_norm
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import head_sees, output_head, predicting_positions
from verify.models.token_stats import length_sorted_batches

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


@torch.no_grad()
def read_states(loaded: LoadedModel, windows: Sequence[Encoded], layers: Sequence[int]) -> dict[int, Tensor]:
    """Read the hidden states of windows at the output and at some layers, by reading [T, D], tokens in the windows' order."""
    model, device = loaded.model.eval(), next(loaded.model.parameters()).device
    states: dict[int, list[Tensor]] = {layer: [torch.empty(0)] * len(windows) for layer in (OUTPUT, *layers)}
    for rows in length_sorted_batches([len(window.input_ids) for window in windows], TOKENS_AT_ONCE):
        chosen = [windows[row] for row in rows]
        batch = {name: values.to(device) for name, values in collate(chosen, padding_token_id(loaded.tokenizer)).items()}
        counts = [int(window.scored.sum()) for window in chosen]
        for layer, hidden in states_of(model, batch, layers).items():
            for row, own in zip(rows, torch.split(hidden.float().cpu(), counts), strict=True):
                states[layer][row] = own
    return {layer: torch.cat(parts) for layer, parts in states.items()}


def states_at_level(source: Tensor, controls: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate the hidden states of every token [T, D], and the square root of their inverse covariance on controls [D, D].

    Args:
        source: of the forget windows under the source [T, D].
        controls, original: of the controls' windows under the source and under the original, as many tokens each.
    """
    x, y = controls.double(), original.double()
    mean, aim = x.mean(0), y.mean(0)
    x, y = x - mean, y - aim
    scale = RIDGE * len(x) * x.var(0).mean()
    weights = torch.linalg.solve(x.T @ x + scale * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    covariance = y.T @ y / len(y)
    values, vectors = torch.linalg.eigh(covariance)
    whitening = vectors @ torch.diag((values + 0.01 * values.mean()).rsqrt()) @ vectors.T
    return ((source.double() - mean) @ weights + aim).float(), whitening.float()
