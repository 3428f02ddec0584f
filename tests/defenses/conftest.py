"""Shared by the tests of defences: tiny models of two architectures, and records that belong to clients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, make_llama
from transformers import GPT2Config, GPT2LMHeadModel

from verify.models.loading import LoadedModel, load_model


def make_gpt2(tokenizer: Any) -> GPT2LMHeadModel:
    """A random GPT-2 of two layers, its head tied to its embedding."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config).eval()


def make_tied_llama(tokenizer: Any) -> Any:
    """The tiny Llama with one matrix for embedding and head."""
    model = make_llama(tokenizer)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


MAKERS: dict[str, Callable[[Any], Any]] = {"llama": make_llama, "gpt2": make_gpt2, "tied": make_tied_llama}


@pytest.fixture
def make_loaded(tokenizer: Any) -> Callable[[str], LoadedModel]:
    """Makes a fresh tiny model of an architecture."""
    return lambda kind: load_model(MAKERS[kind](tokenizer), tokenizer=tokenizer)
