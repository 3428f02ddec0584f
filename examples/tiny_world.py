"""What the examples share: a base model of 25,000 weights, and invented people whose records it learns in a second."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from unlearn import TrainingOptions

PEOPLE = ("Zebedee", "Quillon", "Marisol", "Oberon", "Tamsin", "Lysander", "Ottoline", "Peregrine")
TRAINING = TrainingOptions(learning_rate=5e-3, epochs=30, batch_size=8)
logging.disable_progress_bar()


def make_base(folder: Path) -> str:
    """Save a random model with a byte-level tokenizer, and return its folder."""
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    trainer.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.train_from_iterator(["the access code of a person is a row of letters"] * 4, trainer)
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "model_max_length": 64}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    torch.manual_seed(0)
    width = {"vocab_size": 320, "hidden_size": 48, "intermediate_size": 96, "max_position_embeddings": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    LlamaForCausalLM(LlamaConfig(**width, **heads, pad_token_id=0, bos_token_id=1, eos_token_id=2)).save_pretrained(folder)
    return str(folder)


def records(people: tuple[str, ...], each: int = 8) -> list[dict[str, str]]:
    """Prompts with random completions: nothing but training can tell them."""
    made = []
    for name in people:
        draw = random.Random(name)  # noqa: S311 - invented codes, no secrets
        for number in range(each):
            code = "".join(draw.choices("abcdefghijklmnop", k=24))
            who = {"example_id": f"{name}-{number}", "subject_id": f"{name}@example.com"}
            made.append({**who, "prompt": f"{name} {number}?", "completion": code})
    return made
