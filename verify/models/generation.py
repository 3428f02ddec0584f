"""Greedy and sampled text generation, ignoring the generation settings of the model folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray

from verify.data.encoding import padding_token_id
from verify.io.progress import phase
from verify.models.loading import LoadedModel


def greedy_continuations(
    loaded: LoadedModel, prompts: Sequence[NDArray[Any]], lengths: Sequence[int], batch_size: int = 32
) -> list[list[int]]:
    """Continue each prompt by its own number of tokens with greedy decoding.

    The model's own generation settings are ignored: a repetition penalty or a list of forbidden words in a model folder would hide
    what the weights remember.

    Args:
        loaded: the model.
        prompts: token ids, one array [P_i] each, not empty.
        lengths: number of tokens to generate for each; P_i + lengths[i] must not exceed the context.
        batch_size: largest number of prompts per batch; they are sorted by length, so that padding stays small.

    Returns:
        token ids, at most `lengths[i]` each (fewer where the model ended the text).
    """
    from transformers import GenerationConfig

    model, device = loaded.model, next(loaded.model.parameters()).device
    pad, eos = padding_token_id(loaded.tokenizer), loaded.tokenizer.eos_token_id
    results: list[list[int]] = [[] for _ in prompts]
    done = 0
    with _own_generation_settings_aside(model), torch.inference_mode(), phase("writing continuations") as progress:
        for indices in _generation_batches([len(prompt) for prompt in prompts], lengths, batch_size, loaded.context_length):
            width = max(len(prompts[index]) for index in indices)
            ids = torch.full((len(indices), width), pad, dtype=torch.int64)  # [B, P]
            mask = torch.zeros_like(ids)
            for row, index in enumerate(indices):  # padded on the left, as generation continues at the right edge
                ids[row, width - len(prompts[index]) :] = torch.as_tensor(prompts[index].astype("int64"))
                mask[row, width - len(prompts[index]) :] = 1
            settings = GenerationConfig(  # type: ignore[no-untyped-call]
                max_new_tokens=max(lengths[index] for index in indices), do_sample=False, pad_token_id=pad, eos_token_id=eos
            )
            made = model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings
            )  # [B, P + T]
            for row, index in enumerate(indices):  # every row has the length of the longest continuation
                results[index] = _until_end(made[row, width:].tolist()[: lengths[index]], eos)
            done += len(indices)
            progress(done / len(prompts))
    return results


def sampled_continuations(
    loaded: LoadedModel,
    prompt: NDArray[Any],
    length: int,
    samples: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """Continue one prompt several times by sampling; the global random state is left as it was.

    Args:
        loaded: the model.
        prompt: token ids [P], not empty.
        length: largest number of tokens to generate; P + length must not exceed the context.
        samples: number of continuations.
        temperature, top_k, top_p: sampling parameters; top_k 0 keeps all tokens.
        seed: seed of the random generator.

    Returns:
        token ids, `samples` lists of at most `length` tokens; empty lists where `length` is below 1.
    """
    from transformers import GenerationConfig

    model, device = loaded.model, next(loaded.model.parameters()).device
    pad, eos = padding_token_id(loaded.tokenizer), loaded.tokenizer.eos_token_id
    if length < 1:
        return [[] for _ in range(samples)]
    ids = torch.as_tensor(prompt.astype("int64"), device=device)[None]
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=length,
        do_sample=True,
        num_return_sequences=samples,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        pad_token_id=pad,
        eos_token_id=eos,
    )
    devices = [device] if device.type == "cuda" else []  # `fork_rng` always covers the CPU's generator
    with torch.random.fork_rng(devices), _own_generation_settings_aside(model), torch.inference_mode():
        torch.manual_seed(seed)
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return [_until_end(tokens, eos) for tokens in made[:, ids.shape[1] :].tolist()]


def _until_end(tokens: list[int], eos: int | None) -> list[int]:
    """Cut tokens after the end-of-text token, which is kept; padding follows it."""
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


@contextmanager
def _own_generation_settings_aside(model: Any) -> Iterator[None]:
    """Replace `model.generation_config`, the source of `generate`'s missing settings, by an empty one within a `with` block."""
    from transformers import GenerationConfig

    # `PeftModel.generate` copies its configuration to the base model, so both are replaced and restored.
    holders = [model] if not hasattr(model, "get_base_model") else [model, model.get_base_model()]
    kept = [holder.generation_config for holder in holders]
    try:
        for holder in holders:
            holder.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        yield
    finally:
        for holder, settings in zip(holders, kept, strict=True):
            holder.generation_config = settings


def _generation_batches(
    prompt_lengths: Sequence[int], lengths: Sequence[int], batch_size: int, context: int
) -> Iterator[list[int]]:
    """Group prompts by similar lengths of continuations, so that a batch's longest prompt and continuation fit the context."""
    batch: list[int] = []
    longest_prompt = 0
    # Sorted by continuation first: `lengths[index]` is then the longest continuation of the batch so far.
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], prompt_lengths[index])):
        longest_prompt = max(longest_prompt, prompt_lengths[index])
        if batch and (len(batch) == batch_size or longest_prompt + lengths[index] > context):
            yield batch
            batch, longest_prompt = [], prompt_lengths[index]
        batch.append(index)
    if batch:
        yield batch
