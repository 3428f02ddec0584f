"""Passages of English that has nothing to do with the records: what a model keeps of the language that its base knew."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.errors import InputError
from verify.models.loading import LoadedModel
from verify.schema.parts import Value
from verify.scores.observe import measure
from verify.statistics import mean_with_interval

SOURCES: Mapping[str, str] = {
    "Wikipedia": "wikitext2_valid_test/test.txt",
    "novel": "novels_public_domain/Stevenson_Treasure_1883.txt",
}
"""Kind of text -> file of the public data: WikiText-2, whose words are apart from their punctuation, and Treasure Island."""
COUNT, CHARACTERS = 24, 1000
"""Passages of each kind, and the length of each: about 250 tokens."""

Losses = Mapping[str, list[float]]
"""Kind of text -> mean loss of each passage, nats per token."""


def general_passages(shared: Path) -> list[dict[str, Any]]:
    """Cut passages from each source, evenly spaced, each from one word's beginning to another's end.

    Raises:
        InputError: a source is missing, or too short.
    """
    rows = []
    for kind, name in SOURCES.items():
        path = shared / name
        if not path.is_file():
            raise InputError(f"there is no {path}. Name the folder of the public data sets with --shared-data DIR.")
        text = " ".join(path.read_text(encoding="utf-8-sig").split())
        step = len(text) // COUNT
        if step < CHARACTERS:
            raise InputError(f"{path} has {len(text)} characters; {COUNT} passages of {CHARACTERS} are needed.")
        for number in range(COUNT):
            passage = text[number * step : number * step + CHARACTERS].split(" ")[1:-1]
            rows.append({"example_id": f"{kind}-{number}", "subject_id": kind, "text": " ".join(passage)})
    return rows


def general_losses(loaded: LoadedModel, passages: str) -> dict[str, list[float]]:
    """Compute the loss of every passage of a file."""
    records = load_records(passages)
    table = measure(loaded, records, cache_dir=None, key=RecordKey.load(), overflow="split").table
    found: dict[str, list[float]] = {}
    for record, mean in zip(records, table.means, strict=True):
        found.setdefault(str(record.subject_id), []).append(-float(mean))
    return found


def kept_of_base(losses: Losses, base: Losses) -> dict[str, Value]:
    """Return the geometric-mean token probability of each kind of text relative to the base's, with its interval over passages."""
    return {kind: _ratio(np.array(base[kind]) - np.array(found)) for kind, found in losses.items()}


def _ratio(logs: NDArray[np.float64]) -> Value:
    """Exponentiate the mean of logarithms and its interval."""
    mean = mean_with_interval(logs)
    value, low, high = (float(np.exp(one)) for one in (mean.value, mean.low, mean.high))
    return Value(value=value, low=low, high=high, n=mean.n, level=mean.level)
