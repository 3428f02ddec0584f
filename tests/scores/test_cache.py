"""The cache of attack scores: what it returns, what it writes, and what it makes again."""

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import make_llama, make_tokenizer

from verify.attacks import select_attacks
from verify.attacks.base import Observation
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.models.loading import LoadedModel, load_model
from verify.scores.cache import ScoreCache
from verify.scores.observe import measure, seal

KEY = RecordKey(b"k" * 32)
RECORDS = [Record("a", completion="the quick brown fox"), Record("b", prompt="who", completion="lazy dogs", subject_id="Ada")]
SCORES = np.array([0.1 + 0.2, -1e-300])
ATTACKS = select_attacks(["lowercase", "recall"])


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A tiny model."""
    tokenizer = make_tokenizer()
    return load_model(make_llama(tokenizer), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def observed(loaded: LoadedModel) -> Observation:
    """What it gives on the records."""
    return measure(loaded, RECORDS, cache_dir=None, key=KEY)


def never() -> NDArray[np.float64]:
    raise AssertionError("the cache knows these scores")


def got(
    folder: Path, loaded: LoadedModel, observed: Observation, name: str, compute: Callable[[], NDArray[np.float64]]
) -> list[float]:
    return ScoreCache(folder, loaded, KEY).get(name, ATTACKS[name], (observed, None, None), compute).tolist()


def test_scores_come_back_to_the_last_bit(loaded: LoadedModel, observed: Observation, tmp_path: Path) -> None:
    """Computed once an attack and set of records; another attack, other records or a subject are other scores."""
    assert got(tmp_path, loaded, observed, "lowercase", lambda: SCORES) == SCORES.tolist()
    assert got(tmp_path, loaded, observed, "recall", lambda: -SCORES) == (-SCORES).tolist()
    for name, expected in (("lowercase", SCORES), ("recall", -SCORES)):
        assert got(tmp_path, loaded, observed, name, never) == expected.tolist()
    alone = Observation([replace(RECORDS[0], subject_id="Ada")], observed.statistics[:1])
    assert got(tmp_path, loaded, alone, "recall", lambda: SCORES[:1]) == SCORES[:1].tolist()
    assert got(tmp_path, loaded, alone, "recall", never) == SCORES[:1].tolist()
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"Ada" not in path.read_bytes()


def test_a_cache_of_an_earlier_version_is_made_again(loaded: LoadedModel, observed: Observation, tmp_path: Path) -> None:
    """Release 0.1.0 wrote JSON: the seal verifies, the layout does not, and the file is replaced."""
    got(tmp_path, loaded, observed, "recall", lambda: SCORES)
    (path,) = tmp_path.iterdir()
    old = json.dumps({"0" * 32: [1.0, 2.0]}).encode()
    path.write_bytes(seal(path, old, KEY) + old)
    with pytest.warns(UserWarning, match="earlier version"):
        assert got(tmp_path, loaded, observed, "recall", lambda: SCORES) == SCORES.tolist()
    assert got(tmp_path, loaded, observed, "recall", never) == SCORES.tolist()


def test_numbers_take_eight_bytes(loaded: LoadedModel, tmp_path: Path) -> None:
    """A score is a float64 and nothing beside it."""
    records = RECORDS * 500
    many = Observation(records, measure(loaded, records, cache_dir=None, key=KEY).statistics)
    got(tmp_path, loaded, many, "recall", lambda: np.arange(1000) / 7)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 8 * 1000 + 2000
