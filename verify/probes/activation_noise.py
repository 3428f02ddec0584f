"""Activation-noise probe: disturb the hidden states of one layer and keep the best of several draws."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from verify.models.loading import LoadedModel
from verify.probes.base import Array, Material, ProbeNotRunError, mean_losses


@dataclass(frozen=True)
class ActivationNoise:
    """Add Gaussian noise to the output of one layer, and take each record's smallest loss over several draws.

    Tice et al. 2024 (arXiv 2412.01784): noise may restore what a model was trained to withhold, as withholding rests on fewer
    directions than knowing. There the noise is added to the weights. The best of several draws is lower than one draw for every
    model, so that only the comparison with the references means something.

    Attributes:
        shares: standard deviations of the noise, each as a share of the root mean square of the token's hidden state.
        draws: number of draws.
        layer: the disturbed layer, counted from 1; the middle one by default.
    """

    shares: tuple[float, ...] = (0.05, 0.2)
    draws: int = 8
    layer: int | None = None

    idea: ClassVar[str] = "add noise to the hidden states of one layer, and keep the best of several draws"
    paper: ClassVar[str] = "Tice et al. 2024 (arXiv 2412.01784)"

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses at each strength of the noise.

        Raises:
            ProbeNotRunError: the model's layers cannot be found.
        """
        layers = decoder_layers(loaded.model)
        number = self.layer or (len(layers) + 1) // 2
        if not 1 <= number <= len(layers):
            raise ProbeNotRunError(f"the model has {len(layers)} layers, and no layer {number}")
        found = {}
        for share in self.shares:
            draws = []
            for draw in range(self.draws):
                # The seed decides the noise, and the batches are the same for every model of one tokenizer.
                with disturbed(layers[number - 1], share, material.seed + draw):
                    draws.append(mean_losses(loaded, material.forget))
            found[f"noise {share:.0%}, best of {self.draws}"] = np.min(draws, axis=0)
        return found


@contextmanager
def disturbed(layer: nn.Module, share: float, seed: int) -> Iterator[None]:
    """Add noise to a layer's output within a `with` block.

    Args:
        layer: a layer whose output is hidden states [B, L, D], or a tuple that begins with them.
        share: standard deviation of the noise, as a share of the root mean square of each hidden state over D.
        seed: seed of the noise, which is drawn on the processor so that it does not depend on the device.
    """
    generator = torch.Generator().manual_seed(seed)

    def add(_: Any, __: Any, output: Any) -> Any:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        scale = share * hidden.float().square().mean(-1, keepdim=True).sqrt()
        noise = torch.randn(hidden.shape, generator=generator).to(hidden.device)
        changed = (hidden.float() + scale * noise).to(hidden.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def decoder_layers(model: Any) -> nn.ModuleList:
    """Return the layers of a model, below any wrapper.

    Raises:
        ProbeNotRunError: no list of modules has as many entries as the configuration names layers.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    count = getattr(base.config.get_text_config(), "num_hidden_layers", None)
    lists = [module for module in base.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    if not lists:
        raise ProbeNotRunError(f"the layers of {type(base).__name__} cannot be found")
    return lists[0]
