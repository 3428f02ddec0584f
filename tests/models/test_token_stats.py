"""The fast, chunked pass agrees with the slow, obvious one, on every kind of head, in every order and size of chunk."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_llama, make_tokenizer

from verify.data.encoding import Encoded, Encoder
from verify.data.records import Record
from verify.errors import RunError
from verify.models import shared_prefix, token_stats
from verify.models.ensembles import combined
from verify.models.log_probabilities import head_sees, output_head, scored_log_probabilities, step_after_head, vocabulary_size
from verify.models.shared_prefix import ARCHITECTURES, LEAST_ROWS, WORTH, common_length
from verify.models.token_stats import compute_token_statistics, length_sorted_batches
from verify.models.token_table import ARRAYS, TokenStatistics
from verify.training.arithmetic import Arithmetic

TOKENIZER = make_tokenizer()
PAD = TOKENIZER.pad_token_id
SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

CONFIGURATIONS: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**SMALL, **SPECIAL),
    "gpt2": transformers.GPT2Config(
        vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2, **SPECIAL
    ),
    "gemma2 (soft cap)": transformers.Gemma2Config(
        **SMALL, **SPECIAL, head_dim=8, query_pre_attn_scalar=8, sliding_window=16, final_logit_softcapping=3.0
    ),
    "cohere (scaled logits)": transformers.CohereConfig(**SMALL, **SPECIAL, logit_scale=0.25),
    "granite (divided logits)": transformers.GraniteConfig(**SMALL, **SPECIAL, logits_scaling=4.0),
    "qwen2": transformers.Qwen2Config(**SMALL, **SPECIAL, tie_word_embeddings=True),
}


def make_model(name: str) -> Any:
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(CONFIGURATIONS[name]).eval()


def windows_of(*texts: str, prompt: str = "who") -> list[Encoded]:
    return Encoder(TOKENIZER, 64).encode([Record(str(n), prompt=prompt, completion=text) for n, text in enumerate(texts)])


TEXTS = ("the quick brown fox", "a", "lazy dogs and other animals jump", "\u6771\u4eac", "fox " * 8)


def slow_statistics(model: Any, window: Encoded) -> TokenStatistics:
    """One record at a time, every logit at once, in float64: the definitions of `TokenStatistics`, word for word."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(window.input_ids[None].astype("int64"))).logits[0].double()
    logp_LV = torch.log_softmax(logits, -1).numpy()
    places = np.flatnonzero(window.scored)
    logp_TV, target_T = logp_LV[places - 1], window.input_ids[places]
    p_TV = np.exp(logp_TV)
    l_T = logp_TV[np.arange(len(places)), target_T]
    mean_T = (p_TV * logp_TV).sum(-1)
    return TokenStatistics(
        log_probability=l_T,
        mean=mean_T,
        deviation=np.sqrt((p_TV * (logp_TV - mean_T[:, None]) ** 2).sum(-1)),
        rank=(logp_TV >= l_T[:, None]).sum(-1) - 1,
        greedy=logp_TV.argmax(-1) == target_T,
        secret=window.secret[places],
    )


def assert_agree(fast: Sequence[TokenStatistics], slow: Sequence[TokenStatistics], tolerance: float = 2e-4) -> None:
    for one, other in zip(fast, slow, strict=True):
        for name in ("log_probability", "mean", "deviation"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=tolerance, atol=tolerance, err_msg=name)
        for name in ("rank", "greedy", "secret"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_chunked_pass_agrees_with_the_definition(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statistic of every token equals its definition in float64, whatever the head does and however small the chunks."""
    model = make_model(name)
    windows = windows_of(*TEXTS)
    monkeypatch.setattr(token_stats, "CHUNK_BYTES", rows * 4 * vocabulary_size(model))
    assert_agree(compute_token_statistics(model, windows, PAD), [slow_statistics(model, window) for window in windows])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_known_heads_need_one_pass_through_the_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every supported head the layers run once per batch, although the head runs in chunks."""
    model = make_model(name)
    monkeypatch.setattr(token_stats, "CHUNK_BYTES", 2 * 4 * vocabulary_size(model))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    compute_token_statistics(model, windows_of(*TEXTS), PAD)
    assert len(calls) == 1


def test_unknown_step_after_the_head_is_left_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that changes its logits in a way no configuration names is still scored as itself."""
    model = make_llama(TOKENIZER)
    forward = model.forward

    def odd(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 1.5 + torch.linspace(0, 1, output.logits.shape[-1])
        return output

    monkeypatch.setattr(model, "forward", odd)
    monkeypatch.setattr(token_stats, "CHUNK_BYTES", 3 * 4 * len(TOKENIZER))
    windows = windows_of(*TEXTS)
    assert_agree(compute_token_statistics(model, windows, PAD), [slow_statistics(model, window) for window in windows])


def test_soft_cap_is_recognised_by_tiny_logits() -> None:
    """A soft cap does nothing to tiny logits; it is still recognised by them, for the large logits of later chunks need it."""
    model = make_model("gemma2 (soft cap)")
    tiny, large = 1e-3 * torch.ones(1, 320), 10 * torch.ones(1, 320)
    after = step_after_head(model, tiny, 3.0 * torch.tanh(tiny / 3.0))
    assert after is not None
    torch.testing.assert_close(after(large), 3.0 * torch.tanh(large / 3.0))


def test_head_never_sees_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No array of [T, vocabulary] is made: the head's output has the chunk's rows at most; every scored token passes once."""
    model = make_llama(TOKENIZER)
    monkeypatch.setattr(token_stats, "CHUNK_BYTES", 4 * 4 * len(TOKENIZER))
    seen: list[int] = []
    output_head(model).register_forward_hook(lambda _, __, output: seen.append(output.numel() // output.shape[-1]))
    windows = windows_of(*TEXTS)
    compute_token_statistics(model, windows, PAD)
    scored = sum(int(window.scored.sum()) for window in windows)
    assert max(seen) <= 4
    # One row goes through twice, to recognise what the model does after its head.
    assert sum(seen) == scored + 1


MODEL = make_llama(TOKENIZER)
ALONE = [compute_token_statistics(MODEL, windows_of(text), PAD)[0] for text in TEXTS]


@settings(deadline=None, max_examples=25)
@given(order=st.permutations(range(len(TEXTS))), budget=st.integers(1, 300))
def test_a_record_scores_the_same_in_any_company(order: list[int], budget: int) -> None:
    """Order, batch size and the padding they bring change no record's statistics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_stats, "BATCH_TOKENS", budget)
        together = compute_token_statistics(MODEL, windows_of(*(TEXTS[index] for index in order)), PAD)
    assert_agree(together, [ALONE[index] for index in order], tolerance=1e-4)


def test_the_padding_token_is_not_read() -> None:
    """Another padding id gives the same numbers."""
    for one, other in zip(
        compute_token_statistics(MODEL, windows_of(*TEXTS), 0),
        compute_token_statistics(MODEL, windows_of(*TEXTS), 77),
        strict=True,
    ):
        np.testing.assert_array_equal(one.log_probability, other.log_probability)


@given(lengths=st.lists(st.integers(1, 50), max_size=30), budget=st.integers(1, 200))
def test_batches_hold_every_record_once_within_budget(lengths: list[int], budget: int) -> None:
    """Every index appears once; rows times longest stay within the budget unless it is a single row."""
    batches = list(length_sorted_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget for batch in batches)


def test_windows_of_a_split_record_are_joined_again() -> None:
    """A split record has one entry with as many tokens as the unsplit one; where the context is the same, the same numbers."""
    records = [Record("a", completion="fox"), Record("b", prompt="p", completion="the quick brown fox " * 5, secret="brown")]
    whole = compute_token_statistics(MODEL, Encoder(TOKENIZER, 64).encode(records), PAD)
    split = compute_token_statistics(MODEL, Encoder(TOKENIZER, 16, "split").encode(records), PAD)
    assert [len(entry) for entry in split] == [len(entry) for entry in whole]
    np.testing.assert_array_equal(split[1].secret, whole[1].secret)
    np.testing.assert_allclose(split[1].log_probability[:14], whole[1].log_probability[:14], rtol=1e-4, atol=1e-4)
    assert not np.allclose(split[1].log_probability[16:], whole[1].log_probability[16:])


@pytest.mark.parametrize("rows", [3, 1000])
def test_bfloat16_models_are_scored(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bfloat16 model gives finite statistics near those of its own float32 copy, in one pass through the layers."""
    model = make_llama(TOKENIZER).to(torch.bfloat16)
    copy = make_llama(TOKENIZER)
    copy.load_state_dict(model.state_dict())
    monkeypatch.setattr(token_stats, "CHUNK_BYTES", rows * 4 * len(TOKENIZER))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    windows = windows_of(*TEXTS)
    half = compute_token_statistics(model, windows, PAD)
    full = compute_token_statistics(copy, windows, PAD)
    assert len(calls) == 1
    for one, other in zip(half, full, strict=True):
        np.testing.assert_allclose(one.loss, other.loss, rtol=0.05)
        assert one.log_probability.dtype == np.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_stop_the_run(value: float) -> None:
    """A NaN is never a score: the error says which record and what to do."""
    model = make_llama(TOKENIZER)
    with torch.no_grad():
        model.model.norm.weight[0] = value
    with pytest.raises(RunError, match=r"not finite \(record"):
        compute_token_statistics(model, windows_of(*TEXTS), PAD)


def test_a_certain_model_has_exact_statistics() -> None:
    """Where one token has all the probability, deviation and entropy are zero, not the noise of a cancelled difference."""
    logits = torch.zeros(3, 50, dtype=torch.float32)
    logits[:, 7], logits[:, 3] = 200.0, 1.0
    entry = token_stats._reduce(logits, torch.tensor([7, 7, 3]))
    assert entry["log_probability"].tolist() == [0.0, 0.0, -199.0]
    assert entry["deviation"].abs().max() == 0
    assert entry["mean"].abs().max() == 0
    assert entry["rank"].tolist() == [0, 0, 1]
    assert entry["greedy"].tolist() == [True, True, False]


def test_the_model_is_left_as_it_was_found() -> None:
    """Scoring turns dropout off and training mode back on, and leaves no hook behind."""
    model = transformers.GPT2LMHeadModel(CONFIGURATIONS["gpt2"]).train()
    first, second = (compute_token_statistics(model, windows_of(*TEXTS), PAD) for _ in range(2))
    assert model.training
    assert all((one.log_probability == other.log_probability).all() for one, other in zip(first, second, strict=True))
    assert not output_head(model)._forward_pre_hooks


def test_progress_reaches_the_number_of_windows() -> None:
    """The last thing that progress is told is that all windows are done."""
    told: list[int] = []
    compute_token_statistics(MODEL, windows_of(*TEXTS), PAD, told.append)
    assert told[-1] == len(TEXTS)
    assert told == sorted(told)


def test_no_window_no_entry() -> None:
    """Nothing in, nothing out."""
    assert len(compute_token_statistics(MODEL, [], PAD)) == 0


def test_training_and_auditing_see_the_same_loss() -> None:
    """The log-probabilities that training differentiates are those that an audit reads."""
    from verify.data.encoding import collate

    windows = windows_of(*TEXTS)
    log_probability, rows = scored_log_probabilities(MODEL, collate(windows, PAD))
    audited = np.concatenate([entry.log_probability for entry in compute_token_statistics(MODEL, windows, PAD)])
    np.testing.assert_allclose(log_probability.detach().numpy(), audited, rtol=1e-4, atol=1e-4)
    assert torch.bincount(rows).tolist() == [int(window.scored.sum()) for window in windows]


def test_the_head_hook_goes_even_after_an_error() -> None:
    """An exception inside the block leaves the model usable."""
    with pytest.raises(KeyError), head_sees(MODEL, lambda hidden: hidden[:, :1]):
        raise KeyError
    assert MODEL(input_ids=torch.tensor([[1, 5, 6]])).logits.shape == (1, 3, len(TOKENIZER))


def test_every_array_is_declared() -> None:
    """The cache and the joining of windows know every field there is."""
    assert tuple(entry.name for entry in dataclasses.fields(TokenStatistics)) == ARRAYS


COMMON = 20


def beginning_alike(lengths: Sequence[int] = (5, 12, 3, 30, 7, 7)) -> list[Encoded]:
    """Texts of random tokens with the same first `COMMON`, each followed by tokens of its own, all but the first scored."""
    random = np.random.default_rng(0)
    start, made = random.integers(3, 64, COMMON), []
    for row, length in enumerate(lengths):
        ids = np.concatenate([start, [3 + row], random.integers(3, 64, length - 1)]).astype(np.int32)
        scored = np.arange(len(ids)) > COMMON
        made.append(Encoded(ids, scored, scored, row))
    return made


def tiny(kind: str, **settings: Any) -> Any:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, **sizes, num_key_value_heads=2, head_dim=8, pad_token_id=0, initializer_range=0.2, **settings
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_what_all_texts_begin_with_is_read_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statistic equals its definition, while the common tokens go through the layers once, in batches of any size."""
    model, windows = tiny(kind), beginning_alike()
    read: list[int] = []
    slow = [slow_statistics(model, window) for window in windows]
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].numel()))
    for budget in (1024, 40):
        monkeypatch.setattr(token_stats, "BATCH_TOKENS", budget)
        read.clear()
        assert_agree(compute_token_statistics(model, windows, 0), slow)
        assert read[0] == COMMON
        assert sum(read[1:]) >= sum(len(window.input_ids) - COMMON for window in windows)
        assert max(read[1:]) <= (6 * 30 if budget == 1024 else 40)


DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
LONG = {"rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"max_position_embeddings": COMMON + 4, "rope_parameters": DYNAMIC}),
        ("phi3", {"original_max_position_embeddings": COMMON + 4, "rope_parameters": LONG}),
        ("mistral", {"sliding_window": 8}),
    ],
)
def test_angles_that_depend_on_the_length_and_windows(kind: str, settings: Mapping[str, Any]) -> None:
    """A beginning is not read apart where longer texts turn its positions otherwise; a window shorter than it changes nothing."""
    model = tiny(kind, **settings)
    for length in (30, 7):  # of one length, as the angles are those of the longest text of a batch
        windows = beginning_alike((length,) * LEAST_ROWS)
        assert_agree(compute_token_statistics(model, windows, 0), [slow_statistics(model, window) for window in windows])


@pytest.mark.parametrize("combine", ["average", "route"])
def test_an_ensemble_reads_the_common_beginning_once(combine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every adapter has keys and values of its own; in chunks of any size the statistics are those of the definition.

    Also where the first token of a batch is left to the last adapter, whose head alone would then seem to give the logits.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(tiny("llama"), config, adapter_name="one")
    adapted.add_adapter("two", config)
    model, windows = combined(adapted, ["one", "two"], combine).eval(), beginning_alike()
    slow = [slow_statistics(model, window) for window in windows]
    for rows in (1000, 2):
        monkeypatch.setattr(token_stats, "CHUNK_BYTES", rows * 4 * 64)
        assert_agree(compute_token_statistics(model, windows, 0), slow)


def test_a_common_beginning_is_read_in_bfloat16_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """On bfloat16 copies of the weights it changes a loss by rounding alone."""
    model, windows, read = tiny("llama"), beginning_alike(), list[int]()
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].numel()))
    with torch.no_grad(), Arithmetic.in_copies_of(model).of(model):
        shared = compute_token_statistics(model, windows, 0)
        monkeypatch.setattr(shared_prefix, "ARCHITECTURES", ())
        whole = compute_token_statistics(model, windows, 0)
    assert read[0] == COMMON
    assert sum(read[:2]) < read[2]
    np.testing.assert_allclose(shared.means, whole.means, rtol=0.01)


def test_common_beginnings_are_counted() -> None:
    """Up to the first token that differs, or that predicts a scored one; a text that is the beginning of another keeps a token."""
    windows = beginning_alike()
    assert common_length(windows) == COMMON
    assert common_length(windows[:1]) == COMMON
    early = dataclasses.replace(windows[0], scored=np.arange(len(windows[0].input_ids)) > 9)
    assert common_length([*windows, early]) == 9
    short = dataclasses.replace(windows[0], input_ids=windows[0].input_ids[:8], scored=np.zeros(8, dtype=bool))
    assert common_length([*windows, short]) == 7
    other = dataclasses.replace(windows[0], input_ids=windows[0].input_ids[::-1].copy())
    assert common_length([*windows, other]) == 0
    assert WORTH < COMMON
