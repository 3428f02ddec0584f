"""The loss of every objective against an independent computation: one record and one token at a time, in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_llama, make_tokenizer

from unlearn.methods import method_classes
from unlearn.methods.base import Batch
from verify.encoding import Encoded, Encoder, collate
from verify.records import Record

TOKENIZER = make_tokenizer()
FORGET = [Record(f"f{number}", prompt=f"who {number}", completion="the quick brown fox " * (number + 1)) for number in range(4)]
RETAIN = [Record(f"r{number}", prompt="over", completion=f"every lazy dog {number}" + " jumps" * number) for number in range(4)]


def token_logs(model: Any, window: Encoded) -> np.ndarray:
    """Log-probabilities of the scored tokens, from the whole logits of a single unpadded record."""
    ids = torch.as_tensor(window.input_ids.astype("int64"))[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].double().numpy()
    found = []
    for place in np.flatnonzero(window.scored):
        row = logits[place - 1]
        found.append(row[window.input_ids[place]] - row.max() - np.log(np.exp(row - row.max()).sum()))
    return np.array(found)


def log_sigmoid(value: float) -> float:
    return -float(np.log1p(np.exp(-value)))


def slow(name: str, method: Any, forget: list[np.ndarray], retain: list[np.ndarray], before: np.ndarray) -> float:
    """Every formula as its paper has it, by loops."""
    kept = float(np.mean([-logs.mean() for logs in retain]))
    if name == "gradient_ascent":
        return float(np.mean([logs.mean() for logs in forget]))
    if name == "grad_diff":
        return method.alpha * kept + method.gamma * float(np.mean([logs.mean() for logs in forget]))
    if name == "npo":
        terms = [log_sigmoid(-method.beta * (logs.sum() - old)) for logs, old in zip(forget, before, strict=True)]
        return -2 / method.beta * float(np.mean(terms)) + method.alpha * kept
    if name == "simnpo":
        terms = [log_sigmoid(-method.beta * logs.mean() - method.delta) for logs in forget]
        return -method.gamma * 2 / method.beta * float(np.mean(terms)) + method.alpha * kept
    if name == "wga":
        return float(np.mean([np.mean(np.exp(logs) ** method.beta * logs) for logs in forget])) + method.alpha * kept
    assert name == "satimp"
    weighted = [np.mean(np.exp(logs) ** method.beta1 * (1 - np.exp(logs)) ** method.beta2 * logs) for logs in forget]
    return float(np.mean(weighted)) + method.alpha * kept


@pytest.mark.parametrize("name", ["grad_diff", "gradient_ascent", "npo", "satimp", "simnpo", "wga"])
def test_loss_is_its_formula(name: str, tmp_path: Path) -> None:
    """To 1e-6, for a model in float64."""
    method = method_classes()[name]()
    model = make_llama(TOKENIZER).double().eval()
    encoder = Encoder(TOKENIZER, 200)
    windows = {role: encoder.encode(records) for role, records in (("forget", FORGET), ("retain", RETAIN))}
    logs = {role: [token_logs(model, window) for window in found] for role, found in windows.items()}
    before = np.array([part.sum() for part in logs["forget"]]) + np.array([3.0, -2.0, 0.5, 10.0])
    batch = Batch(*(collate(windows[role], TOKENIZER.pad_token_id) for role in ("forget", "retain")))
    if not method.needs_retain:
        batch = Batch(batch.forget, None)
    found = method.loss(model, batch, {"forget_log_probability": torch.tensor(before)})
    assert found.item() == pytest.approx(slow(name, method, logs["forget"], logs["retain"], before), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["satimp", "wga"])
def test_weights_are_constants(name: str) -> None:
    """The gradient is that of log p times the weight: no term comes from the weight itself."""
    method = method_classes()[name]()
    model = make_llama(TOKENIZER).double().eval()
    windows = Encoder(TOKENIZER, 200).encode([FORGET[0], RETAIN[0]])
    first, second = (collate([window], TOKENIZER.pad_token_id) for window in windows)
    head = model.get_output_embeddings().weight
    (found,) = torch.autograd.grad(method.loss(model, Batch(first, second), {}), head)
    total = torch.zeros_like(found)
    for window, role in zip(windows, ("forget", "retain"), strict=True):
        ids = torch.as_tensor(window.input_ids.astype("int64"))[None]
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
        places = np.flatnonzero(window.scored)
        for place in places:
            value = logs[place - 1, ids[0, place]]
            p = float(value.detach().exp())
            weight = p**method.beta if name == "wga" else p**method.beta1 * (1 - p) ** method.beta2
            scale = weight if role == "forget" else -method.alpha
            (part,) = torch.autograd.grad(value * scale / len(places), head, retain_graph=True)
            total += part
    torch.testing.assert_close(found, total, rtol=1e-6, atol=1e-9)
