"""Shared by all tests: a tiny tokenizer, a tiny random model, a record key of their own, the public data if present."""

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before anything of Hugging Face is imported: no test talks to the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Threads that wait for each other must not spin: as many test processes run as there are cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Most tests state what the processor computes, many to the bit; those for a GPU (tests/gpu) are asked for by name.
if not os.environ.get("UNLEARN_TESTS_ON_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from hypothesis import settings
from tiny_models import make_llama, make_tokenizer
from training_rows import make_rows

from verify.data.identity import KEY_VARIABLE
from verify.data.records import Fields, Record, parse_records
from verify.models.loading import LoadedModel, load_model

torch.set_num_threads(1)
# No test asserts a timing: the first example of a test that is run alone pays for imports.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Set the objects of the imported libraries, half a million, apart from those that garbage is looked for among."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def record_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key of a test run never touches the user's own. It is always the same, as it decides which shard a record is in."""
    path = tmp_path_factory.mktemp("key") / "record.key"
    path.write_text("5a" * 32)
    os.environ[KEY_VARIABLE] = str(path)
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets; skips where it is absent."""
    folder = Path(os.environ.get("UNLEARN_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the public data sets are not at {folder}; set UNLEARN_SHARED_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tiny tokenizer, with <s> in front of every text."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def tokenizer_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer alone."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and its tokenizer; tests must not change it."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    make_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def talker(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model with a chat template and a context that holds a question and its answer."""
    folder = tmp_path_factory.mktemp("talker")
    model = make_llama(tokenizer)
    model.config.max_position_embeddings = 256
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": 256}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def dask_engine() -> Iterator[str]:
    """The address of a Dask cluster of two workers, each a process with one thread."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as made:
        yield f"dask://{made.scheduler_address.removeprefix('tcp://')}"


@pytest.fixture
def rows() -> Callable[[str, int], list[dict[str, str]]]:
    """Makes records."""
    return make_rows


@pytest.fixture
def records() -> list[Record]:
    """Ten records."""
    return parse_records(make_rows("forget", 10), Fields(), "records")


@pytest.fixture
def loaded(model_dir: Path) -> LoadedModel:
    """A fresh tiny model."""
    return load_model(model_dir)


@pytest.fixture(scope="session")
def dropout_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model with attention dropout, so that random numbers matter; tests must not change it."""
    folder = tmp_path_factory.mktemp("dropout")
    model = make_llama(tokenizer)
    model.config.attention_dropout = 0.2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
