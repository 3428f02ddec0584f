"""Presets of the benchmarks: `bench`, a model and batches that most speed figures refer to, and `smollm2`, a pretrained model.

`bench`: a float32 Llama of 8 layers, width 256 and a vocabulary of 32,000 (22.7 million parameters); questions and answers of about
50 tokens (25 +- 8 each), loss on the answers. Random weights and tokens: speed does not depend on their values.

`smollm2`: SmolLM2-135M-Instruct (30 layers, width 576, vocabulary 49,152, tied head; 134.5 million parameters) from the folder that
`make model` writes or the environment variable UNLEARN_SMOLLM2 names; invented people's answers to questions in its chat template,
about 60 tokens with the template, loss on the answers. Real texts, since losses are compared there too.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from unlearn.experiments.people import MOST_RECORDS, WORDINGS, interviews
from verify.data.encoding import Encoded, Encoder
from verify.data.records import Fields
from verify.data.sources import load_records
from verify.errors import InputError
from verify.models.loading import load_tokenizer

VOCABULARY = 32_000
HALF = 25
SPREAD = 8
BATCH = 8


def bench_model(seed: int = 0) -> LlamaForCausalLM:
    """Build the model, in evaluation mode."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def smollm2_folder() -> Path:
    """Return the folder of SmolLM2, which exists only where it was fetched."""
    return Path(os.environ.get("UNLEARN_SMOLLM2") or Path(__file__).parents[1] / ".cache" / "smollm2")


def require_smollm2() -> Path:
    """Return the folder of SmolLM2.

    Raises:
        InputError: it is not there.
    """
    folder = smollm2_folder()
    if not (folder / "config.json").is_file():
        raise InputError(f"SmolLM2 is not at {folder}. Run make model, or set UNLEARN_SMOLLM2 to its folder.")
    return folder


def smollm2_model(dtype: torch.dtype = torch.float32) -> Any:
    """Load SmolLM2, in evaluation mode."""
    return LlamaForCausalLM.from_pretrained(smollm2_folder(), dtype=dtype).eval()


def bench_windows(count: int, seed: int = 0) -> list[Encoded]:
    """Draw questions and answers of 17 to 33 tokens each, with the answer scored."""
    rng = np.random.default_rng(seed)
    windows = []
    for record in range(count):
        question, answer = rng.integers(HALF - SPREAD, HALF + SPREAD + 1, 2)
        length = int(question + answer)
        scored = np.arange(length) >= question
        windows.append(Encoded(rng.integers(3, VOCABULARY, length).astype(np.int32), scored, scored, record))
    return windows


def smollm2_windows(count: int, seed: int = 0) -> list[Encoded]:
    """Encode `count` answers of invented people; the people differ between seeds."""
    rows = interviews(-(-count // (MOST_RECORDS * WORDINGS)), seed)
    chosen = [rows[number] for number in np.random.default_rng(seed).permutation(len(rows))[:count]]
    return Encoder(load_tokenizer(str(smollm2_folder())), 2048).encode(load_records(chosen, Fields()))


def stock_batches(windows: list[Encoded], size: int = BATCH) -> list[dict[str, torch.Tensor]]:
    """Pad the same windows for a stock loss pass: batches with labels of -100 outside the answers."""
    from verify.data.encoding import collate

    batches = []
    for start in range(0, len(windows), size):
        batch = collate(windows[start : start + size], 0)
        labels = batch["input_ids"].masked_fill(~batch["scored"], -100)
        batches.append({"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels})
    return batches
