"""Head and loss in one: values and gradients against float64, in chunks, with a frozen and a trained head."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import make_llama

from verify.models import head_values as module
from verify.models.ensembles import combined
from verify.models.head_values import head_values, log_probability_of
from verify.models.log_probabilities import output_head, scored_log_probabilities, scored_states

TOKENS, WIDTH, WORDS = 21, 16, 50


def drawn(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, head, targets, and weights of the values in a loss."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(TOKENS, WIDTH).to(dtype), torch.randn(WORDS, WIDTH).to(dtype)
    return hidden, weight, torch.randint(0, WORDS, (TOKENS,)), torch.linspace(-1, 2, TOKENS)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_values_and_gradients(monkeypatch: pytest.MonkeyPatch, trained: bool, dtype: torch.dtype, tolerance: float) -> None:
    """Relative to the float64 twin of the same inputs, also where the tokens fall into several chunks."""
    monkeypatch.setattr(module, "ROWS", 8)
    monkeypatch.setattr(module, "ROWS_IN_CACHE", 3)
    hidden, weight, targets, share = drawn(dtype)
    twin = [part.double().requires_grad_() for part in (hidden, weight)]
    hidden.requires_grad_()
    weight.requires_grad_(trained)
    values = head_values(hidden, weight, log_probability_of(targets))
    expected = (twin[0] @ twin[1].T).log_softmax(-1)[torch.arange(TOKENS), targets]
    assert values.dtype == torch.float32
    assert float((values - expected).detach().norm() / expected.norm()) < tolerance
    (values * share).sum().backward()
    (expected * share).sum().backward()
    for mine, other in ((hidden, twin[0]), *(((weight, twin[1]),) if trained else ())):
        assert float((mine.grad - other.grad).norm() / other.grad.norm()) < tolerance
    assert trained or weight.grad is None


def test_the_slope_of_a_token_known_by_heart() -> None:
    """Its 1 - p, which bfloat16 cannot tell from 0 beside p, keeps three digits."""
    hidden, weight = torch.zeros(1, WIDTH), torch.zeros(WORDS, WIDTH)
    hidden[0, 0], weight[7, 0] = 1.0, 14.0
    half = weight.bfloat16().requires_grad_()
    head_values(hidden.bfloat16(), half, log_probability_of(torch.tensor([7]))).sum().backward()
    rest = (WORDS - 1) / (torch.tensor(14.0).exp() + WORDS - 1)  # 1 - p, 4e-5
    assert float(half.grad[7, 0]) == pytest.approx(float(rest), rel=5e-3)


def test_where_it_is_used(tokenizer: Any) -> None:
    """A frozen or half-precision head takes it, to the values and gradients of whole logits; a softcap after the head does not."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, len(tokenizer), (4, 12), generator=generator)
    scored = torch.arange(12) >= torch.tensor([[5], [4], [8], [2]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "scored": scored}
    whole, frozen = make_llama(tokenizer), make_llama(tokenizer)
    output_head(frozen).weight.requires_grad_(False)
    assert scored_states(whole, batch) is None
    assert scored_states(frozen, batch) is not None
    assert scored_states(make_llama(tokenizer).bfloat16(), batch) is not None
    expected, found = (scored_log_probabilities(model, batch)[0] for model in (whole, frozen))
    torch.testing.assert_close(found, expected)
    expected.sum().backward()
    found.sum().backward()
    for (name, mine), other in zip(frozen.model.named_parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)

    capped = make_llama(tokenizer)
    plain = capped.forward
    capped.forward = lambda **given: _capped(plain(**given))
    capped.config.final_logit_softcapping = 2.0
    output_head(capped).weight.requires_grad_(False)
    assert scored_states(capped, batch) is None
    values = scored_log_probabilities(capped, batch)[0]
    logits = capped(input_ids=ids).logits[:, :-1].log_softmax(-1)
    torch.testing.assert_close(values, logits.gather(-1, ids[:, 1:, None])[..., 0][scored[:, 1:]])


def _capped(output: Any) -> Any:
    output.logits = torch.tanh(output.logits / 2.0) * 2.0
    return output


@pytest.mark.parametrize("combine", ["average", "route"])
def test_an_ensemble_applies_its_head_once_for_every_adapter(tokenizer: Any, combine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log-probabilities are those of the combined logits, also where rows pass in parts; its head is not read in chunks."""
    monkeypatch.setattr("verify.models.log_probabilities.WORTH_A_PASS", 3)
    wrapped = get_peft_model(make_llama(tokenizer), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]), adapter_name="one")
    wrapped.add_adapter("two", LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.5)
    model = combined(wrapped, ["one", "two"], combine)
    ids = torch.randint(3, len(tokenizer), (3, 12), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([[12], [7], [9]])
    batch = {"input_ids": ids, "attention_mask": (torch.arange(12) < lengths).long()}
    batch["scored"] = (torch.arange(12) >= 4) & batch["attention_mask"].bool()
    assert scored_states(model, batch) is None
    whole = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
    expected = whole.gather(-1, ids[:, 1:, None])[..., 0][batch["scored"][:, 1:]]
    torch.testing.assert_close(scored_log_probabilities(model, batch)[0], expected, rtol=1e-4, atol=1e-4)
