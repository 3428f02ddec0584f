"""The contract of a training-time defence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from unlearn.training.options import Trained, TrainingOptions
from verify.data.records import Fields, Record, RecordSource
from verify.models.loading import LoadedModel


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """A training task: model, records and options.

    Attributes:
        loaded: the model before training, which is trained in place, or through an adapter with `options.lora`.
        records: the training records.
        options: training settings.
        output_dir: where the model will be saved; a defence may store files of its own there.
        work_dir: for temporary files; emptied when the training is done.
        source: where the records were loaded from, for a defence that reads a further column.
        fields: names of the columns.
    """

    loaded: LoadedModel
    records: Sequence[Record]
    options: TrainingOptions
    output_dir: Path
    work_dir: Path
    source: RecordSource
    fields: Fields


@dataclass(frozen=True, eq=False)
class Defended:
    """A model trained under a defence.

    Attributes:
        trained: the model, with steps, tokens and seconds.
        facts: entries for the manifest in addition to the defence's parameters; JSON-serializable, no personal data.
    """

    trained: Trained
    facts: Mapping[str, Any] = field(default_factory=dict)


class Defense(Protocol):
    """Protocol of a defence: a way of training that protects the training data.

    Attributes:
        name: its name in manifests and training logs.
    """

    name: ClassVar[str]

    def train(self, task: TrainingTask) -> Defended:
        """Train `task.loaded` in place.

        Raises:
            InputError: this defence does not support the settings, the model or the records.
            RunError: training failed.
        """
        ...
