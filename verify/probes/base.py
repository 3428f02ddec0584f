"""The contract of a robustness probe: one frozen dataclass per file, named after the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from verify.data.encoding import Encoder, padding_token_id
from verify.data.records import Record
from verify.models.loading import LoadedModel
from verify.models.token_stats import compute_token_statistics

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Material:
    """Records and the old model that a probe may use besides the model under test.

    Attributes:
        forget: the records that were to be removed [N].
        other: records that are not among them, for prefixes and for relearning; never empty.
        old: the model before unlearning.
        seed: seed of every random draw.
        learning_rate: peak rate of the fine-tuning that made the old model; None where no training log names it.
        base: the model before fine-tuning; None where it was not given.
    """

    forget: Sequence[Record]
    other: Sequence[Record]
    old: LoadedModel
    seed: int = 0
    learning_rate: float | None = None
    base: LoadedModel | None = None


class ProbeNotRunError(Exception):
    """A probe cannot treat these models or records; the message says why, as the end of a sentence."""


@runtime_checkable
class Probe(Protocol):
    """Protocol of a probe: what every file of `probes/` defines.

    Attributes:
        idea, paper: one line each, for `verify-unlearning probes`.

    A class attribute `by_default = False` marks a probe that is run only when it is named.
    """

    idea: ClassVar[str]
    paper: ClassVar[str]

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the mean loss of every forget record under the treatment.

        Args:
            loaded: the model under test; its weights are bit-identical afterwards.
            material: the records and the old model.

        Returns:
            mean losses, nats per token [N], by the name of each strength of the treatment; NaN for a record that the probe leaves
            out, the same ones for every model.

        Raises:
            ProbeNotRunError: the model or the records lack what the probe needs.
        """
        ...


def mean_losses(loaded: LoadedModel, records: Sequence[Record]) -> Array:
    """Compute the mean negative log-likelihood per record, nats per token [N]."""
    return statistics_losses(loaded.model, loaded, records)


def statistics_losses(model: Any, loaded: LoadedModel, records: Sequence[Record]) -> Array:
    """Compute mean losses of another module with the tokenizer and context length of `loaded`, nats per token [N]."""
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    return np.array([entry.loss for entry in compute_token_statistics(model, windows, padding_token_id(loaded.tokenizer))])
