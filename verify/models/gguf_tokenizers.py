"""Tokenizer of a GGUF file: vocabulary, merges, special tokens and chat template are metadata of the file.

How a text is split before merging is stored by name only (`tokenizer.ggml.pre`), and a wrong split gives other tokens without any
error. So only vocabularies of byte-level BPE whose split is known here are read; for others the tokenizer's folder is needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from verify.errors import InputError
from verify.models.gguf_files import GgufFile

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens, by their numbers in `tokenizer.ggml.token_type`."""
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""Special tokens by their names in `transformers` and in the metadata."""
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
SPLITS: Mapping[str, str | None] = {
    "gpt-2": None,
    "smollm": "digits",
    "starcoder": "digits",
    "refact": "digits",
    "llama-bpe": LLAMA3_SPLIT,
    "llama3": LLAMA3_SPLIT,
    "llama-v3": LLAMA3_SPLIT,
    "qwen2": QWEN2_SPLIT,
    "deepseek-r1-qwen": QWEN2_SPLIT,
}
"""Name of a split in llama.cpp -> its pattern; None for that of GPT-2, "digits" for GPT-2's after every digit is split off."""
GIVE = "Name the folder of the model's own tokenizer with --tokenizer DIR."


def gguf_tokenizer(file: GgufFile) -> Any:
    """Build the fast tokenizer that a GGUF file describes.

    Raises:
        InputError: it holds no vocabulary, a damaged one, or one of an unsupported kind.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokens, kinds, merges = _vocabulary(file)
    split = _of(file, "pre", "gpt-2")
    if split not in SPLITS:
        raise InputError(f"the vocabulary of {file.path.name} splits texts by the rule {split!r}, which is not known here. {GIVE}")
    tokenizer: Any = Tokenizer(
        models.BPE({token: place for place, token in enumerate(tokens)}, merges, ignore_merges=SPLITS[split] == LLAMA3_SPLIT)
    )
    _split_texts(tokenizer, split)
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, kinds, strict=True):
        if kind == CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])
    special = {name: _token(file, tokens, key) for name, key in SPECIAL.items()}
    _add_ends(tokenizer, file, special)
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        model_max_length=int(file.metadata.get(f"{file.architecture}.context_length", 0)) or None,
        **{name: token for name, token in special.items() if token is not None},
    )
    made.chat_template = file.metadata.get("tokenizer.chat_template")
    return made


def _vocabulary(file: GgufFile) -> tuple[list[str], Sequence[int], list[tuple[str, str]]]:
    """Return the tokens by id, the type of each, and the merges in their order."""
    kind, tokens, merges = _of(file, "model"), _of(file, "tokens"), _of(file, "merges")
    if kind is None or not isinstance(tokens, list):
        raise InputError(f"{file.path.name} holds no vocabulary. {GIVE}")
    if kind != "gpt2" or not isinstance(merges, list):
        raise InputError(
            f"the vocabulary of {file.path.name} is of the kind {kind!r}; only byte-level BPE ('gpt2') is read from GGUF. {GIVE}"
        )
    kinds = _of(file, "token_type", [NORMAL] * len(tokens))
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else () for merge in merges]
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens) or any(len(pair) != 2 for pair in pairs):
        raise InputError(f"the vocabulary of {file.path.name} is damaged: repeated tokens, or merges that are not pairs. {GIVE}")
    known = set(tokens)
    if any(not {first, second, first + second} <= known for first, second in pairs):
        raise InputError(f"the vocabulary of {file.path.name} is damaged: a merge makes a token that it lacks. {GIVE}")
    # Rows of the embedding that no text ever reaches are filled up with names like [PAD151665].
    while tokens and kinds[len(tokens) - 1] == UNUSED and tokens[-1] == f"[PAD{len(tokens) - 1}]":
        tokens = tokens[:-1]
    return tokens, kinds[: len(tokens)], [(first, second) for first, second in pairs]


def _split_texts(tokenizer: Any, split: str) -> None:
    """Set how texts are split before merging, and normalized."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    pattern = SPLITS[split]
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif pattern == "digits":
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    else:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])
    if pattern == QWEN2_SPLIT:
        tokenizer.normalizer = normalizers.NFC()


def _add_ends(tokenizer: Any, file: GgufFile, special: Mapping[str, str | None]) -> None:
    """Add the tokens that the file puts at the beginning and the end of every text."""
    from tokenizers import processors

    begin = special["bos_token"] if _of(file, "add_bos_token", False) else None
    end = special["eos_token"] if _of(file, "add_eos_token", False) else None
    given = [token for token in (begin, end) if token is not None]
    if given:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(part for part in (begin, "$A", end) if part is not None),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(given)],
        )


def _token(file: GgufFile, tokens: Sequence[str], key: str) -> str | None:
    """Return one of the special tokens, or None if the file names none."""
    place = _of(file, f"{key}_token_id")
    if place is None:
        return None
    if not isinstance(place, int) or not 0 <= place < len(tokens):
        raise InputError(f"the vocabulary of {file.path.name} is damaged: its {key} token has the id {place}. {GIVE}")
    return tokens[place]


def _of(file: GgufFile, key: str, missing: Any = None) -> Any:
    return file.metadata.get(f"tokenizer.ggml.{key}", missing)
