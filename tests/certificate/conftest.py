"""One certificate with everything around it, for all tests of this folder; they must not change it."""

from pathlib import Path
from typing import Any

import pytest
from certificates import build_house


@pytest.fixture(scope="session")
def house(model_dir: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model before and after with manifests, an audit, a deletion record, two key pairs and the certificate."""
    return build_house(model_dir, tokenizer, tmp_path_factory.mktemp("certificate"))
