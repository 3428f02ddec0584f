"""Models sharded over several processes (FSDP2): every parameter is a `DTensor`, and each process holds one shard of it."""

from pathlib import Path

from torch import Tensor, nn

from unlearn.training import distributed
from verify.errors import InputError
from verify.models.digests import whole

CONFIGURATIONS = Path(__file__).parents[1] / "configs"


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """Gather all weights in the main process's memory, one whole tensor at a time; empty in the other processes.

    Collective: all processes must call it.
    """
    found = {}
    for name, tensor in model.state_dict().items():
        value = whole(tensor.detach())
        if distributed.is_main():
            found[name] = value.cpu()
    return found


def configuration(name: str) -> Path:
    """Return a configuration file for `accelerate launch --config_file`.

    Raises:
        InputError: there is none of that name.
    """
    names = sorted(path.stem for path in CONFIGURATIONS.glob("*.yaml"))
    if name not in names:
        raise InputError(f"there is no configuration {name}. There are: {', '.join(names)}.")
    return CONFIGURATIONS / f"{name}.yaml"
