"""One training log to execute, with its windows and the states kept of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.data.encoding import Encoded
from verify.provenance.training_log import TrainingLog
from verify.reexecution.schedules import segment_ends
from verify.training.checkpoints import Checkpoint


@dataclass(frozen=True, eq=False)
class Course:
    """One training log to execute: its start, its windows, and where its states are kept.

    Attributes:
        place: folder of the log, "." or a stage's.
        log: the deletion's log.
        windows: the encoded window of every log entry.
        start_model: makes the model that the log starts from, with its new adapter.
        tokenizer: its tokenizer.
        folder: the deleted model's, with its checkpoints; None where the log has none.
        clean: a folder with checkpoints from before the first forget record, and the last step that these count for.
        served: folder with the weights that the log ends with.
        forget: windows of the forget records, for the power of a comparison with a tolerance.
        stood: microbatches of the committed log in which one of them stood, with its window.
        tolerance: whether a state with other digests is measured, instead of refused.
    """

    place: str
    log: TrainingLog
    windows: Mapping[int, Encoded]
    start_model: Callable[[], Any]
    tokenizer: Any
    folder: Path | None = None
    clean: tuple[Path, int] | None = None
    served: Path | None = None
    forget: Sequence[Encoded] = ()
    stood: Sequence[tuple[int, Encoded]] = ()
    tolerance: bool = False

    @property
    def last(self) -> int:
        """The log's last optimizer step."""
        return segment_ends(self.log)[-1]

    def segments(self) -> list[tuple[int, int]]:
        """Return start and end of every segment of the log, in optimizer steps."""
        ends = segment_ends(self.log)
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def tokens(self, after: int, until: int) -> int:
        """Count the tokens of the steps later than `after`, up to `until`."""
        entries = (entry for entry in self.log.microbatches if after < entry.step <= until)
        return sum(len(self.windows[index].input_ids) for entry in entries for index in entry.records)

    def origin(self, step: int) -> Checkpoint | None:
        """Return the latest kept state at or before a step; None for the log's start."""
        for at, name in sorted(self.log.checkpoints, reverse=True):
            parents = [parent for parent in (self.folder,) if parent is not None]
            if self.clean is not None and at <= self.clean[1]:
                parents.append(self.clean[0])
            kept = next((parent / name for parent in parents if (parent / name).is_dir()), None)
            if at <= step and kept is not None:
                return Checkpoint(kept, at)
        return None
