"""The contract of an attack: one frozen dataclass per file, named after the file.

An attack turns a model's output on N records into N scores, higher = more like a record the model was trained on. It sets no
threshold, interval or verdict: those belong to `verify.statistics` and `verify.judging.protocol`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from verify.data.encoding import Encoded, Encoder, padding_token_id
from verify.data.records import Record
from verify.errors import InputError
from verify.models.loading import LoadedModel
from verify.models.token_stats import compute_token_statistics
from verify.models.token_table import TokenStatistics, TokenTable

Family = Literal["membership", "extraction"]
Need = Literal[
    "one pass",
    "reference model",
    "retrained references",
    "reference tokens",
    "controls",
    "generation",
    "own passes",
    "activations",
    "gradients",
]
"""Inputs of an attack, in order: the shared forward pass; that of the base model; that of models retrained without the records; of
both, every token's statistics instead of each record's mean alone; never-trained records under the same model; text decoded from
the model; further passes over other texts; activations; gradients."""

MODEL_ITSELF: frozenset[Need] = frozenset({"generation", "own passes", "activations", "gradients"})
"""Needs that require the model itself, not only its token statistics."""


@dataclass(frozen=True, eq=False)
class Observation:
    """Token statistics of one model on N records, with the model and the controls that an attack may also read.

    Attributes:
        records: the records [N].
        statistics: their token statistics [N], in the same order; kept as a `TokenTable`. For models that an attack compares with,
            it has only each record's mean, unless the attack needs "reference tokens".
        loaded: the model itself, for attacks that run it again; None where only the statistics were kept.
        windows: the encoded records, in order; a record that was split has several; empty where `loaded` is None.
        controls: the same model on records it was never trained on, or None. When the controls themselves are scored, this is an
            observation of the same records, and an attack that fits a rule on controls must fit it without the one it scores.
        members: when the controls are scored, the same model on the records under audit; else None.
    """

    records: Sequence[Record]
    statistics: Sequence[TokenStatistics]
    loaded: LoadedModel | None = None
    windows: Sequence[Encoded] = ()
    controls: "Observation | None" = None
    members: "Observation | None" = None

    def __post_init__(self) -> None:
        assert len(self.records) == len(self.statistics), "one entry of statistics per record"
        if not self.records:
            raise InputError("there are no records to score. Give at least one.")
        object.__setattr__(self, "statistics", TokenTable.of(self.statistics))
        empty = np.flatnonzero(self.table.lengths == 0)
        if len(empty):
            raise InputError(f"record {empty[0] + 1} has no scored token, so no attack can score it. Remove it.")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def table(self) -> TokenTable:
        """The token statistics in columns."""
        assert isinstance(self.statistics, TokenTable)
        return self.statistics

    def without_model(self) -> "Observation":
        """Return a copy without the model and the windows, so that both can be freed."""
        controls = None if self.controls is None else self.controls.without_model()
        members = None if self.members is None else self.members.without_model()
        return replace(self, loaded=None, windows=(), controls=controls, members=members)

    @property
    def is_its_own_control(self) -> bool:
        """Whether the records are the controls themselves."""
        return self.controls is not None and self.controls.records is self.records


@runtime_checkable
class Attack(Protocol):
    """Protocol of an attack: what every file of `membership/` and `extraction/` defines.

    Attributes:
        idea: one line for `verify-unlearning attacks`.
        paper: its source.
        family: "membership" or "extraction"; the directory's name.
        needs: its inputs.
        cost: forward passes over a record in addition to the shared one, roughly; 0 for attacks that need none.
        references: minimum number of retrained references.
        unit: unit of the score: "nats per token", "share of tokens", ...
    """

    idea: ClassVar[str]
    paper: ClassVar[str]
    family: ClassVar[Family]
    needs: ClassVar[frozenset[Need]]
    cost: ClassVar[float]
    references: ClassVar[int]
    unit: ClassVar[str]

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Score N records, higher = more like a member.

        Args:
            target: the audited model on the records.
            references: the retrained reference models on the same records, in the same order [R]; for attacks that need a
                "reference model", the model before fine-tuning alone; ignored by attacks that need neither.

        Returns:
            finite float64 [N].

        Raises:
            InputError: an input named by `needs` is missing.
        """
        ...


def mean_log_probabilities(observation: Observation) -> NDArray[np.float64]:
    """Compute the mean log-probability of each record's scored tokens, nats per token, float64 [N]."""
    return observation.table.means


def token_gains(target: Observation, references: Sequence[Observation], attack: str) -> list[NDArray[np.float64]]:
    """Compute how much likelier each scored token is under the target than under the reference models, nats, N arrays [T].

    Several reference models count with their mean log-probability.

    Raises:
        InputError: no reference model was scored.
    """
    if not references:
        raise InputError(f"the {attack} attack needs the model before fine-tuning. Give it with --base DIR.")
    for reference in references:
        assert len(reference) == len(target), "references are scored on the target's records"
    others = zip(*(reference.statistics for reference in references), strict=True)
    return [
        np.subtract(own.log_probability, np.mean([entry.log_probability for entry in other], axis=0), dtype=np.float64)
        for own, other in zip(target.statistics, others, strict=True)
    ]


def mean_of_smallest(values: NDArray[np.float64], share: float) -> float:
    """Compute the mean of the max(1, floor(share * T)) smallest of T values."""
    count = max(1, int(np.floor(share * len(values))))
    return float(np.mean(np.partition(values, count - 1)[:count]))  # partial sort, O(T)


def require_controls(target: Observation, attack: str) -> Observation:
    """Return the controls, or raise an error that says how to give them.

    Raises:
        InputError: there are none.
    """
    if target.controls is None:
        raise InputError(f"{attack} needs records that no model was trained on. Give them with --holdout FILE.")
    return target.controls


def two_sides(target: Observation, attack: str) -> tuple[Observation, Observation]:
    """Return the audited records and the controls, in this order, whichever of the two `target` is.

    Raises:
        InputError: there are no controls, or the controls were given without the audited records.
    """
    controls = require_controls(target, attack)
    if not target.is_its_own_control:
        return target, controls
    if target.members is None:
        raise InputError(f"{attack} learns to separate members from controls and got controls only. Give their `members` too.")
    return target.members, controls


def require_model(target: Observation, attack: str) -> LoadedModel:
    """Return the model of an observation.

    Raises:
        InputError: the observation holds only its statistics.
    """
    if target.loaded is None:
        raise InputError(f"{attack} needs the model itself, not only its statistics.")
    return target.loaded


def require_references(references: Sequence[Observation], attack: str, count: int) -> Sequence[Observation]:
    """Return the retrained references, or raise an error that says how to give more.

    Raises:
        InputError: there are fewer than `count`.
    """
    if len(references) < count:
        raise InputError(
            f"{attack} needs {count} retrained references, got {len(references)}. Train them without the forget set, each with "
            "another --seed, and name them with --references."
        )
    return references


def log_probabilities_of(loaded: LoadedModel, records: Sequence[Record]) -> NDArray[np.float64]:
    """Compute the mean log-probability of other records under the model, nats per token [M]; long records are split."""
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    return compute_token_statistics(loaded.model, windows, padding_token_id(loaded.tokenizer)).means
