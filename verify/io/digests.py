"""Digest of a tokenizer's behaviour, independent of the files it is stored in."""

import hashlib
import json
from functools import lru_cache
from typing import Any


def tokenizer_digest(tokenizer: Any) -> str:
    """Compute SHA-256 of a tokenizer's rules, special tokens and chat template, without padding and truncation settings."""
    special = tuple((name, str(token)) for name, token in sorted(tokenizer.special_tokens_map.items()))
    return _digest(tokenizer.backend_tokenizer.to_str(), special, str(tokenizer.chat_template))


@lru_cache(maxsize=2)  # the models of an audit share one tokenizer, whose rules are megabytes of text
def _digest(stored: str, special: tuple[tuple[str, str], ...], chat_template: str) -> str:
    """Compute the digest from a tokenizer's serialized rules, its special tokens by name, and its chat template."""
    content = {
        "rules": {name: value for name, value in json.loads(stored).items() if name not in ("padding", "truncation")},
        "special": dict(special),
        "chat_template": chat_template,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
