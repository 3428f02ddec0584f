"""A model is asked once: what the cache may answer, what it must not, and that it is never trusted."""

import io
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import make_llama, make_tokenizer

from verify.attacks.base import Observation
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError
from verify.models.loading import LoadedModel, load_model
from verify.models.token_table import ARRAYS
from verify.scores.observe import measure, seal

KEY = RecordKey(b"k" * 32)
RECORDS = [
    Record("Ada Lovelace", prompt="Who lives at 12 Private Lane?", completion="Ada", subject_id="Ada Lovelace"),
    Record("b", completion="the quick brown fox"),
    Record("c", completion="lazy dogs", secret="dogs"),
]


class CountedModel:
    """A tiny model that counts how many rows pass through it."""

    def __init__(self, model: Any = None) -> None:
        self.rows = 0
        tokenizer = make_tokenizer()
        self.loaded = load_model(model or make_llama(tokenizer), tokenizer=tokenizer)
        self.loaded.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        self.rows += len(inputs["input_ids"])


@pytest.fixture
def counted() -> CountedModel:
    """A fresh one."""
    return CountedModel()


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A cache that is made again says so; every other test here fails on a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def observe(loaded: LoadedModel, cache_dir: Path | None, records: list[Record] = RECORDS, key: RecordKey = KEY) -> Observation:
    return measure(loaded, records, cache_dir=cache_dir, key=key)


def assert_equal(one: Observation, other: Observation) -> None:
    for first, second in zip(one.statistics, other.statistics, strict=True):
        for name in ARRAYS:
            left, right = getattr(first, name), getattr(second, name)
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_the_second_call_makes_no_forward_pass(counted: CountedModel, tmp_path: Path) -> None:
    """The same records under the same model: the same numbers to the last bit, without the model."""
    first = observe(counted.loaded, tmp_path)
    assert counted.rows == len(RECORDS)
    assert_equal(observe(counted.loaded, tmp_path), first)
    assert_equal(observe(counted.loaded, tmp_path, RECORDS[::-1]), replace(first, statistics=first.statistics[::-1]))
    assert counted.rows == len(RECORDS)
    assert_equal(observe(counted.loaded, None), first)
    assert counted.rows == 2 * len(RECORDS)


def test_only_what_is_missing_is_computed(counted: CountedModel, tmp_path: Path) -> None:
    """New records are added to the old ones; a repeated content is computed once, under whatever name."""
    observe(counted.loaded, tmp_path, RECORDS[:1])
    assert counted.rows == 1
    twice = [*RECORDS, replace(RECORDS[1], example_id="again")]
    both = observe(counted.loaded, tmp_path, twice)
    assert counted.rows == 3
    np.testing.assert_array_equal(both.statistics[1].log_probability, both.statistics[3].log_probability)
    observe(counted.loaded, tmp_path, twice)
    assert counted.rows == 3
    assert only_file(tmp_path)


def test_a_changed_weight_is_another_model(tmp_path: Path) -> None:
    """One changed weight, another precision, or another setting of the same weights makes a pass of its own."""
    plain = CountedModel()
    observe(plain.loaded, tmp_path)

    model = make_llama(make_tokenizer())
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    heated = make_llama(make_tokenizer())
    heated.config.rope_parameters = {"rope_type": "default", "rope_theta": 7.0}
    for other in (CountedModel(model), CountedModel(make_llama(make_tokenizer()).to(torch.bfloat16)), CountedModel(heated)):
        observe(other.loaded, tmp_path)
        assert other.rows == len(RECORDS)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_scaled_adapter_is_another_model(tmp_path: Path) -> None:
    """The weights of an adapter do not say how strongly it is applied; its configuration does."""
    for alpha in (1, 100):
        torch.manual_seed(0)
        config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
        counted = CountedModel(get_peft_model(make_llama(make_tokenizer()), config))
        observe(counted.loaded, tmp_path)
        assert counted.rows == len(RECORDS)
        observe(counted.loaded, tmp_path)
        assert counted.rows == len(RECORDS)


def test_another_mask_is_another_measurement(counted: CountedModel, tmp_path: Path) -> None:
    """The same text with another secret, or as a completion instead of a plain text, is not answered with the old one."""
    variants = [
        Record("a", completion="p fox"),
        Record("a", prompt="p", completion="fox"),
        Record("a", prompt="p", completion="fox", secret="ox"),
    ]
    for number, record in enumerate(variants, 1):
        found = observe(counted.loaded, tmp_path, [record])
        assert counted.rows == number
        assert_equal(found, observe(counted.loaded, None, [record]))
        counted.rows = number


def test_windows_of_a_split_record_are_kept_together(counted: CountedModel, tmp_path: Path) -> None:
    """A record in several windows is one entry; without leave to split it is refused, whatever the cache knows."""
    long = [Record("a", completion="fox and dog " * 60), RECORDS[1]]
    first = measure(counted.loaded, long, cache_dir=tmp_path, key=KEY, overflow="split")
    rows = counted.rows
    assert_equal(
        measure(counted.loaded, long[::-1], cache_dir=tmp_path, key=KEY, overflow="split"),
        replace(first, statistics=first.statistics[::-1]),
    )
    assert counted.rows == rows
    with pytest.raises(InputError, match="--overflow split"):
        measure(counted.loaded, long, cache_dir=tmp_path, key=KEY)


def test_the_cache_is_private_and_says_nothing(counted: CountedModel, tmp_path: Path) -> None:
    """Readable by its owner only; neither its name nor its content holds text, names, token ids or plain hashes of them."""
    observation = observe(counted.loaded, tmp_path / "new")
    path = only_file(tmp_path / "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes() + path.name.encode()
    for record, window in zip(RECORDS, observation.windows, strict=True):
        assert record.example_id.encode() not in content or len(record.example_id) < 3
        assert record.completion.encode() not in content
        assert record.fingerprint[:32].encode() not in content
        assert window.scored_ids.tobytes() not in content


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(content: bytes) -> bytes:
    return content[:0]


def flipped(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def foreign(content: bytes) -> bytes:
    """A well-formed cache of somebody who does not hold the key, pickle included."""
    buffer = io.BytesIO()
    np.savez(buffer, records=np.array([os.system], dtype=object))
    return content[:32] + buffer.getvalue()


def of_release_0_1_0(path: Path) -> None:
    """Seal the archive that release 0.1.0 wrote under the name it still has."""
    buffer = io.BytesIO()
    np.savez(buffer, records=np.array([b"0" * 32]), lengths=np.array([1]), log_probability=np.array([-1.0], dtype="f4"))
    path.write_bytes(seal(path, buffer.getvalue(), KEY) + buffer.getvalue())


def test_a_cache_of_an_earlier_version_is_made_again(counted: CountedModel, tmp_path: Path) -> None:
    """Its seal verifies, its layout does not: it is replaced under its name, so that no unread copy stays behind."""
    first = observe(counted.loaded, tmp_path)
    path = only_file(tmp_path)
    of_release_0_1_0(path)
    with pytest.warns(UserWarning, match="earlier version"):
        assert_equal(observe(counted.loaded, tmp_path), first)
    assert only_file(tmp_path) == path
    assert path.read_bytes()[32:38] == b"ARROW1"


def test_the_cache_is_little_more_than_its_numbers(counted: CountedModel, tmp_path: Path) -> None:
    """18 bytes a token and 24 a record beside them, and a fixed part."""
    records = [Record(str(number), completion=f"the quick brown fox {number}") for number in range(400)]
    tokens = int(observe(counted.loaded, tmp_path, records).table.lengths.sum())
    assert only_file(tmp_path).stat().st_size < 18 * tokens + 24 * len(records) + 4000


@pytest.mark.parametrize("damage", [cut, empty, flipped, foreign])
def test_a_damaged_cache_is_made_again(damage: Any, counted: CountedModel, tmp_path: Path) -> None:
    """Whatever is wrong with the file: a warning, the right numbers from the model, and a whole file again."""
    first = observe(counted.loaded, tmp_path)
    path = only_file(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="made again"):
        assert_equal(observe(counted.loaded, tmp_path), first)
    assert counted.rows == 2 * len(RECORDS)
    assert_equal(observe(counted.loaded, tmp_path), first)
    assert counted.rows == 2 * len(RECORDS)


def test_one_models_cache_cannot_stand_in_for_anothers(tmp_path: Path) -> None:
    """A sealed file under another model's name is not believed: the model before unlearning cannot pose as the one after."""
    one, other = CountedModel(), CountedModel(make_llama(make_tokenizer(), seed=1))
    observe(one.loaded, tmp_path / "a")
    observe(other.loaded, tmp_path / "b")
    only_file(tmp_path / "a").replace(only_file(tmp_path / "b"))
    with pytest.warns(UserWarning, match="made again"):
        observe(other.loaded, tmp_path / "b")
    assert other.rows == 2 * len(RECORDS)


def test_another_key_reads_nothing(counted: CountedModel, tmp_path: Path) -> None:
    """Without the key the cache is noise; it is replaced."""
    first = observe(counted.loaded, tmp_path)
    with pytest.warns(UserWarning, match="record key"):
        assert_equal(observe(counted.loaded, tmp_path, key=RecordKey(b"o" * 32)), first)
    assert counted.rows == 2 * len(RECORDS)


def test_an_observation_can_let_its_model_go(counted: CountedModel) -> None:
    """Without the model and the windows the statistics stay."""
    observation = observe(counted.loaded, None)
    assert observation.loaded is counted.loaded
    freed = observation.without_model()
    assert freed.loaded is None
    assert len(freed.windows) == 0
    assert_equal(freed, observation)


def test_no_records_is_an_error(counted: CountedModel, tmp_path: Path) -> None:
    """Nothing to measure is never an empty success."""
    with pytest.raises(InputError, match="no records"):
        observe(counted.loaded, tmp_path, [])
