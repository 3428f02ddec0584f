"""Log-probabilities of scored tokens: the same numbers and gradients as the stock way, with the head on fewer positions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import make_llama

from verify.models.log_probabilities import (
    mean_by_row,
    output_head,
    scored_log_probabilities,
    scored_log_probabilities_and_tokens,
    sum_by_row,
)


def batch_of(tokenizer: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, len(tokenizer), (4, 12), generator=generator)
    mask = (torch.arange(12) < torch.tensor([[12], [9], [10], [7]])).long()
    scored = (torch.arange(12) >= torch.tensor([[5], [4], [8], [2]])) & mask.bool()
    return {"input_ids": ids, "attention_mask": mask, "scored": scored}


def stock(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    values = -F.cross_entropy(logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none")
    return values[batch["scored"][:, 1:]]


def test_values_and_gradients_are_the_stock_ones(tokenizer: Any) -> None:
    """In float64, log-probabilities agree to 1e-12 and every parameter's gradient to 1e-10."""
    ours, theirs, batch = make_llama(tokenizer).double(), make_llama(tokenizer).double(), batch_of(tokenizer)
    weights = torch.linspace(-1, 2, int(batch["scored"].sum()), dtype=torch.float64)
    values, _ = scored_log_probabilities(ours, batch)
    expected = stock(theirs, batch)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    (values * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-10, msg=name)


def test_rows_of_like_length_run_together(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with much padding goes through the layers in parts and once through the head, to the same values and gradients."""
    whole, parted, batch = make_llama(tokenizer).double(), make_llama(tokenizer).double(), batch_of(tokenizer)
    runs: dict[str, list[tuple[int, ...]]] = {"layers": [], "head": []}
    parted.model.layers[0].register_forward_hook(lambda _, inputs, output: runs["layers"].append(tuple(inputs[0].shape[:2])))
    output_head(parted).register_forward_hook(lambda _, inputs, output: runs["head"].append(tuple(output.shape[:-1])))
    expected, tokens, rows = scored_log_probabilities_and_tokens(whole, batch)
    monkeypatch.setattr("verify.models.log_probabilities.WORTH_A_PASS", 3)
    values, same_tokens, same_rows = scored_log_probabilities_and_tokens(parted, batch)
    assert runs == {"layers": [(1, 12), (2, 10), (1, 7)], "head": [(1,), (1,), (int(batch["scored"].sum()),)]}
    assert torch.equal(tokens, same_tokens)
    assert torch.equal(rows, same_rows)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    for found in (expected, values):
        (found * torch.linspace(-1, 2, len(found), dtype=torch.float64)).sum().backward()
    for (name, one), other in zip(whole.named_parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-10, msg=name)


def test_the_head_sees_scored_positions_only(tokenizer: Any) -> None:
    """The head is applied to as many rows as tokens are scored; prompt and padding never reach it."""
    model, batch = make_llama(tokenizer), batch_of(tokenizer)
    rows: list[int] = []
    output_head(model).register_forward_hook(lambda _, inputs, output: rows.append(output.shape[0]))
    scored_log_probabilities(model, batch)
    assert rows == [int(batch["scored"].sum())]


def test_extreme_logits_stay_finite() -> None:
    """A certain and an impossible token have log-probability 0 and about minus the logit gap, with finite gradients."""
    from verify.models.log_probabilities import _TargetLogProbability

    logits = torch.tensor([[1000.0, 0.0], [1000.0, 0.0], [-1e4, -1e4]], requires_grad=True)
    values = _TargetLogProbability.apply(logits, torch.tensor([0, 1, 0]), False)
    torch.testing.assert_close(values, torch.tensor([0.0, -1000.0, -torch.log(torch.tensor(2.0)).item()]))
    values.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_a_loss_cannot_be_differentiated_twice(tokenizer: Any) -> None:
    """The gradient overwrites what it was made from; asking again is an error, not a wrong number."""
    values, _ = scored_log_probabilities(make_llama(tokenizer), batch_of(tokenizer))
    values.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        values.sum().backward()


def test_rows_are_summed_and_averaged(tokenizer: Any) -> None:
    """Sums and means by row are those of a loop over rows."""
    values, rows = scored_log_probabilities(make_llama(tokenizer), batch_of(tokenizer))
    for row in range(4):
        torch.testing.assert_close(sum_by_row(values, rows, 4)[row], values[rows == row].sum())
        torch.testing.assert_close(mean_by_row(values, rows, 4)[row], values[rows == row].mean())
