"""Shared by all tests: a tiny tokenizer, a tiny random model, a record key of their own, the public data if present."""

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before anything of Hugging Face is imported: no test talks to the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Threads that wait for each other must not spin: as many test processes run as there are cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Most tests state what the processor computes, many to the bit; those for a GPU (tests/gpu) are asked for by name.
if not os.environ.get("UNLEARN_TESTS_ON_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
from hypothesis import settings
from training_rows import make_rows

# Nothing here imports torch: the process that only hands tests out would wait for it before any of the others begins.
if TYPE_CHECKING:
    from verify.data.records import Record
    from verify.models.loading import LoadedModel

# No test asserts a timing: the first example of a test that is run alone pays for imports.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Set the objects of the imported libraries, half a million, apart from those that garbage is looked for among."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests compute in one thread each, as many run side by side as there are cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def record_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key of a test run never touches the user's own. It is always the same, as it decides which shard a record is in."""
    from verify.data.identity import KEY_VARIABLE

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
    from tiny_models import make_tokenizer

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
    from tiny_models import make_llama

    folder = tmp_path_factory.mktemp("tiny-llama")
    make_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def talker(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model with a chat template and a context that holds a question and its answer."""
    from tiny_models import make_llama

    folder = tmp_path_factory.mktemp("talker")
    model = make_llama(tokenizer)
    model.config.max_position_embeddings = 256
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": 256}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def dask_engine() -> Iterator[str]:
    """The address of a Dask cluster of two workers, each a process with one thread. It ends with its test."""
    from new_processes import dask_cluster

    with dask_cluster() as address:
        yield f"dask://{address}"


@pytest.fixture
def forked_workers() -> Iterator[None]:
    """Workers of this machine begin without the seconds that importing torch takes."""
    from new_processes import local_workers

    with local_workers():
        yield


@pytest.fixture
def rows() -> Callable[[str, int], list[dict[str, str]]]:
    """Makes records."""
    return make_rows


@pytest.fixture
def records() -> "list[Record]":
    """Ten records."""
    from verify.data.records import Fields, parse_records

    return parse_records(make_rows("forget", 10), Fields(), "records")


@pytest.fixture
def loaded(model_dir: Path) -> "LoadedModel":
    """A fresh tiny model."""
    from verify.models.loading import load_model

    return load_model(model_dir)


@pytest.fixture(scope="session")
def dropout_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model with attention dropout, so that random numbers matter; tests must not change it."""
    from tiny_models import make_llama

    folder = tmp_path_factory.mktemp("dropout")
    model = make_llama(tokenizer)
    model.config.attention_dropout = 0.2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
