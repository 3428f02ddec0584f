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
        loaded: the model before training; it is trained in place, with `options.lora` through an adapter.
        records: what to learn.
        options: training settings.
        output_dir: where the model will lie; a defence may keep files of its own there.
        work_dir: for what is needed on the way; emptied when the training is done.
        source: where the records came from, for a defence that reads a further column.
        fields: which columns hold what.
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
        trained: the model, and what the training did.
        facts: what the manifest says beside the defence's parameters; JSON-serializable, no personal data.
    """

    trained: Trained
    facts: Mapping[str, Any] = field(default_factory=dict)


class Defense(Protocol):
    """Protocol of a defence: a way of training that protects the training data.

    Attributes:
        name: how manifests and training logs call it.
    """

    name: ClassVar[str]

    def train(self, task: TrainingTask) -> Defended:
        """Train `task.loaded` in place.

        Raises:
            InputError: the settings, the model or the records do not go together with this defence.
            RunError: training went wrong.
        """
        ...
