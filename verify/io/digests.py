"""Digest of a tokenizer's behaviour, independent of the files it is stored in."""

import hashlib
import json
from typing import Any


def tokenizer_digest(tokenizer: Any) -> str:
    """Compute SHA-256 of a tokenizer's rules, special tokens and chat template, without padding and truncation settings."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    content = {
        "rules": {name: value for name, value in rules.items() if name not in ("padding", "truncation")},
        "special": {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        "chat_template": str(tokenizer.chat_template),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
