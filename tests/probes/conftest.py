"""Every kind of model that a probe must treat."""

import pytest
import torch
from probed_models import FORGET, OTHER, adapter, whole

from verify.models.loading import LoadedModel
from verify.probes.base import Material


@pytest.fixture(params=["whole", "bfloat16", "adapter", "adapter in bfloat16"], scope="module")
def models(request: pytest.FixtureRequest) -> tuple[LoadedModel, Material]:
    """A model, and the material with an old model of the same kind."""
    make = adapter if "adapter" in request.param else whole
    dtype = torch.bfloat16 if "bfloat16" in request.param else torch.float32
    return make(1, dtype), Material(FORGET, OTHER, make(2, dtype), seed=3, base=whole(7, dtype))
