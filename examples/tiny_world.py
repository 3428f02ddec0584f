"""What the examples share: a base model of 25,000 weights, and invented people whose records it learns in a second."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn import TrainingOptions

PEOPLE = ("Zebedee", "Quillon", "Marisol", "Oberon", "Tamsin", "Lysander")
TRAINING = TrainingOptions(learning_rate=5e-3, epochs=20, batch_size=10)


def make_base(folder: Path | str) -> str:
    """Save a random model with a byte-level tokenizer, and return its folder."""
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    trainer.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.train_from_iterator(["the quick brown fox jumps over the lazy dog and other animals. "] * 4, trainer)
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **special).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"vocab_size": len(words.get_vocab()), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    LlamaForCausalLM(LlamaConfig(max_position_embeddings=64, initializer_range=0.2, **shape, **ids)).save_pretrained(folder)
    return str(folder)


def records(people: tuple[str, ...]) -> list[dict[str, str]]:
    """Eight prompts a person with random completions: nothing but training can tell them."""
    draws = {name: random.Random(name) for name in people}  # noqa: S311 - invented codes, no secrets
    asked = [(name, f"{name} {number}") for name in people for number in range(8)]
    codes = ["".join(draws[name].choice("abcdefghijklmnop") for _ in range(24)) for name, _ in asked]
    facts = [{"example_id": which, "subject_id": f"{name}@example.com", "prompt": f"{which}?"} for name, which in asked]
    return [{**fact, "completion": code} for fact, code in zip(facts, codes, strict=True)]
