"""One record's encoding, by a tiny tokenizer with <s> in front of every text and by one without."""

from typing import Any

from tiny_models import make_tokenizer

from verify.data.encoding import Encoded, Encoder
from verify.data.records import Record

WITH_BEGIN, WITHOUT_BEGIN = make_tokenizer(begin=True), make_tokenizer(begin=False)


def encode_one(tokenizer: Any, record: Record, context: int = 4096) -> Encoded:
    (window,) = Encoder(tokenizer, context).encode([record])
    return window


def decode(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
