"""Shared by the tests of training: a few records, and a loaded tiny model that a test may change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_llama
from training_rows import make_rows

from verify.data.records import Fields, Record, parse_records
from verify.models.loading import LoadedModel, load_model


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


@pytest.fixture
def dropout_dir(tokenizer: Any, tmp_path: Path) -> Path:
    """A tiny model with attention dropout, so that random numbers matter."""
    model = make_llama(tokenizer)
    model.config.attention_dropout = 0.2
    model.save_pretrained(tmp_path / "dropout")
    tokenizer.save_pretrained(tmp_path / "dropout")
    return tmp_path / "dropout"
