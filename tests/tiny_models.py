"""A tiny tokenizer and a tiny random model, made in milliseconds."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from verify.data.encoding import Encoder, collate
from verify.data.records import Record
from verify.models.loading import LoadedModel, load_model
from verify.models.log_probabilities import scored_log_probabilities

CONTEXT = 64
CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def make_tokenizer(begin: bool = True) -> Any:
    """A byte-level BPE tokenizer of 320 tokens with <pad>, <s> and </s>; `begin` puts <s> in front of every text."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog and other animals. "] * 4, trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=CONTEXT
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_llama(tokenizer: Any, seed: int = 0) -> LlamaForCausalLM:
    """A random Llama of two layers whose logits spread like a trained model's."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def train_by_heart(records: Sequence[Record], seed: int = 0, steps: int = 150, rate: float = 5e-3) -> LoadedModel:
    """A tiny model trained on these records, all in one batch, until it nearly knows them by heart."""
    tokenizer = make_tokenizer()
    model = make_llama(tokenizer, seed).train()
    batch = collate(Encoder(tokenizer, CONTEXT).encode(records), tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        (-scored_log_probabilities(model, batch)[0].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return load_model(model.eval(), tokenizer=tokenizer)
