"""Outputs read through the head in chunks, and the weight penalty: values and gradients against float64 twins."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import make_llama
from torch import nn

from unlearn.training.divergences import kl_reduction
from unlearn.training.penalty import WeightPenalty
from unlearn.training.scored_batch import TokenOutputs, token_outputs
from verify.models import head_values as module
from verify.models.head_values import head_values
from verify.models.log_probabilities import output_head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_divergence_through_the_head(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """KL(q || p) and its gradient, also where q is 0 in float32; for q = p both are 0."""
    monkeypatch.setattr(module, "ROWS", 8)
    torch.manual_seed(0)
    hidden, weight, target = torch.randn(11, 16).to(dtype), torch.randn(50, 16).to(dtype), 3 * torch.randn(11, 50)
    target[:, 3] = -300.0
    twins = [part.double().requires_grad_() for part in (hidden, weight)]
    values = head_values(hidden.requires_grad_(), weight.requires_grad_(), kl_reduction(target))
    log_p, log_q = (twins[0] @ twins[1].T).log_softmax(-1), target.double().log_softmax(-1)
    expected = (log_q.exp() * (log_q - log_p)).sum(-1)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert float((values - expected).detach().norm() / expected.detach().norm()) < tolerance
    values.mean().backward()
    expected.mean().backward()
    for mine, other in zip((hidden, weight), twins, strict=True):
        assert float((mine.grad - other.grad).norm() / other.grad.norm()) < tolerance
    same = head_values(hidden, weight, kl_reduction(F.linear(hidden, weight).detach()))
    assert float(same.detach().abs().max()) < 1e-5


@pytest.mark.parametrize("far", [0.01, 0.1, 30.0])
def test_divergence_of_a_change(far: float) -> None:
    """Of bfloat16 states that moved a little, or far, KL and gradient are near float64's; rounded logits would drown the little."""
    torch.manual_seed(0)
    weight = torch.randn(400, 64).bfloat16()
    before = (3 * torch.randn(40, 64)).bfloat16()
    after = (before.float() + far * torch.randn(40, 64)).bfloat16().requires_grad_()
    twin = after.detach().double().requires_grad_()
    log_p, log_q = (twin @ weight.double().T).log_softmax(-1), (before.double() @ weight.double().T).log_softmax(-1)
    expected = (log_q.exp() * (log_q - log_p)).sum(-1)
    expected.mean().backward()
    part = {"tokens": torch.zeros(40, dtype=torch.long), "rows": torch.arange(40), "size": 40}
    target = F.linear(before, weight)
    errors = []
    for states in (before, None):
        after.grad = None
        values = TokenOutputs(after, weight, **part).kl_to(target, states)
        values.mean().backward()
        errors.append(float((values.detach() - expected.detach()).norm() / expected.detach().norm()))
        slopes = float((after.grad - twin.grad).norm() / twin.grad.norm())
        if states is not None:
            assert errors[0] < 0.1
            assert slopes < 0.12
    assert errors[1] > 5 * errors[0] or far > 0.01
    same = TokenOutputs(before, weight, **part).kl_to(target, before)
    assert float(same.abs().max()) < 1e-5


def test_both_ways_to_the_outputs(tokenizer: Any) -> None:
    """A frozen head is read in chunks, a trained one in float32 whole: log-probabilities, divergences and gradients agree."""
    generator = torch.Generator().manual_seed(0)

    def rows(count: int, length: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(3, len(tokenizer), (count, length), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "scored": (torch.arange(length) >= 4).expand(count, -1)}

    parts, found = [rows(3, 9), rows(2, 12)], []
    target = torch.randn(16, len(tokenizer), generator=generator)
    for frozen in (False, True):
        model = make_llama(tokenizer)
        output_head(model).weight.requires_grad_(not frozen)
        first, second = token_outputs(model, *parts)
        assert (first.head is not None) == frozen
        loss = first.per_row(first.log_probabilities()).sum() + second.per_row(second.kl_to(target)).sum()
        loss.backward()
        found.append((loss.detach(), [parameter.grad for parameter in model.model.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0])
    for whole, chunked in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-3, atol=1e-5)


def test_the_weight_penalty_and_its_gradient() -> None:
    """weight/2 sum_j F_j (theta_j - theta_0j)^2 and weight F (theta - theta_0), over several tensors."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    start = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    fisher = {name: torch.rand_like(parameter).bfloat16() for name, parameter in model.named_parameters()}
    penalty = WeightPenalty(3.0, dict(model.named_parameters()), start, fisher, 0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    moved = {name: parameter.detach().double() - start[name].double() for name, parameter in model.named_parameters()}
    expected = 1.5 * sum((fisher[name].double() * moved[name].square()).sum() for name in moved)
    assert float(penalty.value(model)) == pytest.approx(float(expected), rel=1e-5)
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in model.parameters()), "a value adds none"
    assert float(penalty.pull()) == pytest.approx(float(expected), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, (1 + 3.0 * fisher[name].double() * moved[name]).float())
