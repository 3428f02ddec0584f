"""Software and hardware that the bits of a training depend on."""

import platform
from importlib import metadata

import torch

from verify.provenance.training_log import GPU


def software(device: torch.device) -> dict[str, str]:
    """Return the software and hardware that the bits of a run on a device depend on, besides the number of threads."""
    gpu = {GPU: torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        **gpu,
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }
