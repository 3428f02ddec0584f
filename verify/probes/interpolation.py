"""Interpolation probe: move the weights part of the way back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from verify.models.loading import LoadedModel
from verify.probes._weights import merged, own_weights, replaced
from verify.probes.base import Array, Material, ProbeNotRunError, mean_losses


@dataclass(frozen=True)
class Interpolation:
    """Move the weights a share of the way to the original, and to the model before fine-tuning where it is known.

        theta(t) = (1 - t) theta + t theta',  theta' the original or the base

    After Ilharco et al. 2023 (arXiv 2212.04089): weights of models with a common past can be added. Unlearning that hides records
    behind a small change of the weights is undone by half of it, while a retraining gains as much from the original as any other.
    Adapters are merged first.

    Do not use it where no copy of the old model is kept.

    Attributes:
        shares: values of t.
    """

    shares: tuple[float, ...] = (0.25, 0.5)

    idea: ClassVar[str] = "move the weights part of the way back to the original and to the base"
    paper: ClassVar[str] = "Ilharco et al. 2023 (arXiv 2212.04089)"

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses at each share of the way.

        Raises:
            ProbeNotRunError: the models have other weights than each other by name or size, or are quantized.
        """
        ends = {"original": material.old, **({} if material.base is None else {"base": material.base})}
        return {
            f"{share:.0%} of the way to the {name}": self._moved(loaded, other, share, material)
            for name, other in ends.items()
            for share in self.shares
        }

    def _moved(self, loaded: LoadedModel, other: LoadedModel, share: float, material: Material) -> Array:
        if other.model is loaded.model:
            return mean_losses(loaded, material.forget)
        with merged(other.model), merged(loaded.model):
            own, theirs = own_weights(loaded.model), own_weights(other.model)
            if {name: one.shape for name, one in own.items()} != {name: one.shape for name, one in theirs.items()}:
                raise ProbeNotRunError(f"the weights of {loaded.name} and {other.name} differ by name or size")
            # In float32 at least, and rounded once to the model's own precision.
            moved = {
                one: one.data.float().lerp(theirs[name].data.float().to(one.device), share)
                for name, one in own.items()
                if one.is_floating_point()
            }
            with replaced(moved):
                return mean_losses(loaded, material.forget)
