"""What the examples share: a base model of 25,000 weights, and invented people whose records it learns in a second."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from unlearn import TrainingOptions

PEOPLE = ("Zebedee", "Quillon", "Marisol", "Oberon", "Tamsin", "Lysander")
TRAINING = TrainingOptions(learning_rate=5e-3, epochs=30, batch_size=8)
logging.disable_progress_bar()


def make_base(folder: Path) -> str:
    """Save a random model with a byte-level tokenizer, and return its folder."""
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    trainer.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.train_from_iterator(["the access code of a person is a row of letters"] * 4, trainer)
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **special).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=320, max_position_embeddings=64, initializer_range=0.2, bos_token_id=1, eos_token_id=2, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def records(people: tuple[str, ...], each: int = 12) -> list[dict[str, str]]:
    """Prompts with random completions: nothing but training can tell them."""
    rows = []
    for name in people:
        draw = random.Random(name)  # noqa: S311 - invented codes, no secrets
        for who in (f"{name} {number}" for number in range(each)):
            about = {"example_id": who, "subject_id": f"{name}@example.com", "prompt": f"{who}?"}
            rows.append({**about, "completion": "".join(draw.choices("abcdefghijklmnop", k=24))})
    return rows
