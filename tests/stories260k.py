"""stories260K, a real pretrained Llama of 260,032 parameters, from llama2.c's files into a `transformers` folder.

Two layouts differ: llama2.c rotates neighbouring pairs (0, 1), (2, 3), ..., Hugging Face rotates halves, so the rows of wq and
wk are permuted; and llama2.c merges by score where `tokenizers` merges by rank, so merges are listed by the score of what they
make.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def convert(source: Path, output: Path) -> Path:
    """Write model and tokenizer to `output` as `transformers` reads them, and return it."""
    model = _model((source / "stories260K.bin").read_bytes())
    model.save_pretrained(output)
    _tokenizer((source / "tok512.bin").read_bytes(), model.config.vocab_size, model.config.max_position_embeddings).save_pretrained(
        output
    )
    return output


def _model(content: bytes) -> LlamaForCausalLM:
    dim, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack("<7i", content[:28])
    values, place = np.frombuffer(content, dtype="<f4", offset=28), 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        size = int(np.prod(shape))
        place += size
        return torch.from_numpy(values[place - size : place].reshape(shape).copy())

    kv_dim = dim // heads * kv_heads
    embedding, attention_norm = take(vocabulary, dim), take(layers, dim)
    wq, wk, wv, wo = take(layers, dim, dim), take(layers, kv_dim, dim), take(layers, kv_dim, dim), take(layers, dim, dim)
    ffn_norm = take(layers, dim)
    w1, w2, w3 = take(layers, hidden, dim), take(layers, dim, hidden), take(layers, hidden, dim)
    state = {"model.embed_tokens.weight": embedding, "model.norm.weight": take(dim), "lm_head.weight": embedding}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        state |= {
            f"{name}.input_layernorm.weight": attention_norm[layer],
            f"{name}.self_attn.q_proj.weight": _halves(wq[layer], heads),
            f"{name}.self_attn.k_proj.weight": _halves(wk[layer], kv_heads),
            f"{name}.self_attn.v_proj.weight": wv[layer],
            f"{name}.self_attn.o_proj.weight": wo[layer],
            f"{name}.post_attention_layernorm.weight": ffn_norm[layer],
            f"{name}.mlp.gate_proj.weight": w1[layer],
            f"{name}.mlp.down_proj.weight": w2[layer],
            f"{name}.mlp.up_proj.weight": w3[layer],
        }
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(state)
    return model


def _halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from pairs (0, 1), (2, 3), ... to first elements, then second elements."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def _tokenizer(content: bytes, vocabulary: int, context: int) -> Any:
    pieces, scores, place = [], [], 4
    for _ in range(vocabulary):
        score, length = struct.unpack("<fi", content[place : place + 8])
        pieces.append(content[place + 8 : place + 8 + length].decode("utf-8"))
        scores.append(score)
        place += 8 + length
    # The first three and the bytes are written with their surroundings in llama2.c's file; here they get their usual names.
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces[259:]]
    known = {name: index for index, name in enumerate(names)}
    made = sorted(range(259, vocabulary), key=lambda index: -scores[index])
    merges = [
        (names[index][:cut], names[index][cut:])
        for index in made
        for cut in range(1, len(names[index]))
        if names[index][:cut] in known and names[index][cut:] in known
    ]
    tokenizer = Tokenizer(models.BPE(known, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=context
    )
