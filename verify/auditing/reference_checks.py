"""Checks of what the references were trained on, by the training logs and manifests beside them.

A verdict compares a model with references "trained like the original, without the forget set". No score can show that they were:
references that saw the records make any model look as if it had forgotten them. Their logs say what they were trained on, and an
audit refuses references that differ. Logs are self-declared; only executing a training again proves one.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from verify.data.identity import RecordKey
from verify.errors import InputError
from verify.provenance.training_history import History, Stage, history_of
from verify.provenance.training_log import TrainingLog, resolved
from verify.schema.differences import ReferenceDifference
from verify.schema.inputs import AcceptedDifference, ReferenceCheck

IGNORED_OPTIONS = frozenset({"seed", "save_steps", "keep_checkpoints", "logging_steps", "report_to", "gradient_checkpointing"})
"""Options that do not change what is learned; the seed is compared separately, since it must differ."""
BATCHING = ("batch_size", "gradient_accumulation")
KINDS: tuple[ReferenceDifference, ...] = get_args(ReferenceDifference)
SHOWN = 4

Found = Iterator[tuple[ReferenceDifference, str]]


@dataclass(frozen=True, repr=False)
class Expected:
    """What the references are compared with.

    Attributes:
        forget, holdout: keyed hashes of these sets.
        retain: keyed hashes of all retain records, including those that are not scored; None where no retain set was given.
        canaries: keyed hashes of the canaries that the original was trained on; references are not.
        key: the record key of the hashes.
    """

    forget: frozenset[str]
    retain: frozenset[str] | None
    holdout: frozenset[str]
    canaries: frozenset[str]
    key: RecordKey


def check_references(
    references: Sequence[Any], others: Mapping[str, Any], expected: Expected, accept: Collection[str] = ()
) -> tuple[ReferenceCheck, ...]:
    """Read the references' training logs, and refuse references that are not retrainings without the forget set.

    Args:
        references: the models, as passed to the audit.
        others: "original", "target" and, if present, "base".
        expected: the records of the audit.
        accept: intended differences.

    Raises:
        InputError: a reference differs and that was not accepted, or its log is damaged; the message names the reference.
    """
    histories = {f"reference {number}": _read(f"reference {number}", source) for number, source in enumerate(references, 1)}
    known = {role: _read(f"the {role}", source) for role, source in others.items()}
    yardstick = _Yardstick.of(known.get("original"), histories, expected)
    checks = []
    for (label, history), source in zip(histories.items(), references, strict=True):
        if history is None:
            checks.append(ReferenceCheck(label=label, compared=(), not_compared=(_nothing_beside(source),)))
            continue
        earlier = {name: other for name, other in {**known, **_before(label, histories)}.items() if other is not None}
        comparison = _Comparison(label, history, yardstick, earlier, expected)
        found = list(comparison.differences())
        refused = [(kind, what) for kind, what in found if kind not in accept]
        if refused:
            raise InputError(_refusal(label, source, refused))
        checks.append(
            ReferenceCheck(
                label=label,
                compared=tuple(kind for kind in KINDS if kind in comparison.compared),
                not_compared=tuple(comparison.not_compared),
                accepted=tuple(AcceptedDifference(kind=kind, what=what) for kind, what in found),
                log=history.log_digest,
            )
        )
    return tuple(checks)


def _read(label: str, source: Any) -> History | None:
    try:
        return history_of(source)
    except InputError as error:
        raise InputError(f"{label}: {error}") from None


def _before(label: str, histories: Mapping[str, History | None]) -> dict[str, History | None]:
    """Return the histories of the references before this one, so that each pair is compared once."""
    names = list(histories)
    return {name: histories[name] for name in names[: names.index(label)]}


def _nothing_beside(source: Any) -> str:
    if isinstance(source, (str, Path)):
        return "it is not a local folder, so there is no training log beside it"
    return "it is a model in memory, so there is no training log beside it"


def _refusal(label: str, source: Any, refused: Sequence[tuple[ReferenceDifference, str]]) -> str:
    kinds = list(dict.fromkeys(kind for kind, _ in refused))
    return (
        f"{label} ({Path(str(source)).name}) is not a retraining of the original without the forget set: "
        f"{'; '.join(what for _, what in refused)}. Train it as the original was trained, on the same records without the forget "
        f"set and with a different seed; or, if the difference is intended, accept it with --accept-reference-differences "
        f"{' '.join(kinds)} (Python: accept={set(kinds)!r}), which the report then shows."
    )


@dataclass(frozen=True)
class _Yardstick:
    """The trainings that a reference must repeat: the original's or, if it has no log, those of the first reference with one.

    Attributes:
        name: the model they belong to.
        history: these trainings; None where no model has a log.
        seen: keyed hashes of the records the original was trained on; None where unknown.
    """

    name: str
    history: History | None
    seen: frozenset[str] | None

    @classmethod
    def of(cls, original: History | None, references: Mapping[str, History | None], expected: Expected) -> "_Yardstick":
        if original is not None and original.logged:
            names = frozenset().union(*(_names(stage) for stage in original.logged))
            return cls("the original", original, names if names & expected.forget else None)
        for label, history in references.items():
            if history is not None and history.last.log is not None:
                return cls(label, history, None)
        return cls("", None, None)


class _Comparison:
    """Comparison of one reference with the yardstick; records what could and could not be compared."""

    def __init__(
        self, label: str, history: History, yardstick: _Yardstick, earlier: Mapping[str, History], expected: Expected
    ) -> None:
        self.label, self.history, self.yardstick, self.earlier, self.expected = label, history, yardstick, earlier, expected
        self.compared: set[ReferenceDifference] = set()
        self.not_compared: list[str] = []

    def differences(self) -> Found:
        """Yield every difference that the logs and manifests show."""
        self.compared.add("unfinished")
        if self.history.unfinished is not None:
            yield "unfinished", self.history.unfinished
        yield from self._weights()
        if self.history.last.method is not None:
            yield "stages", f"it was made by the unlearning method {self.history.last.method}, not by training"
        if self.history.last.log is None and self.history.last.method is None:
            self.not_compared.append("there is no training log beside it")
        yield from self._records()
        if self.history.last.log is not None:
            yield from self._log(self.history.last.log)
            yield from self._training()

    def _weights(self) -> Found:
        """Yield identical weights, by the manifests; models without a manifest are compared when they are loaded."""
        self.compared.add("weights")
        mine = self.history.weights
        same = next((name for name, other in self.earlier.items() if mine is not None and other.weights == mine), None)
        if same is not None:
            if same.startswith("reference"):
                # One training counted twice would underestimate the spread of honest retrainings; never acceptable.
                raise InputError(
                    f"{self.label} has the very weights of {same}: one training counts once. Leave one of the two out."
                )
            yield "weights", f"it has the very weights of the {same}"

    def _log(self, log: TrainingLog) -> Found:
        """Yield a log of other weights, and a seed that is not new."""
        self.compared.add("seed")
        if self.history.weights is None:
            self.not_compared.append("its training log with its weights: there is no manifest beside it that names them")
        else:
            self.compared.add("log")
        # A rebuild may merge its adapter into the weights after its log has ended.
        rebuilt = "method" in self.history.last.about
        if log.finished and not rebuilt and self.history.weights not in (None, log.final_weights):
            yield "log", "the training log beside it belongs to other weights"
        for name, other in self.earlier.items():
            theirs = other.last.log
            if theirs is not None and theirs.seed == log.seed and (name == "original" or name.startswith("reference")):
                yield "seed", f"its seed {log.seed} is that of {name if name.startswith('reference') else 'the original'}"

    def _records(self) -> Found:
        """Yield forget or holdout records that any of its trainings used, and retain records that none used."""
        logs = [stage.log for stage in self.history.logged if stage.log is not None]
        if not logs:
            return
        if any(self._other_key(log) for log in logs):
            self.not_compared.append(
                "its records: its training log was written under another record key, so no record can be recognised"
            )
            return
        seen = frozenset().union(*(log.names for log in logs))
        if self.history.last.log is not None:
            self.compared |= {"forget", "holdout"} if self.expected.holdout else {"forget"}
        if count := len(seen & self.expected.forget):
            yield "forget", f"it was trained on {count} of the {len(self.expected.forget)} forget records"
        if count := len(seen & self.expected.holdout):
            yield "holdout", f"it was trained on {count} of the {len(self.expected.holdout)} holdout records"
        if self.history.last.log is not None:
            yield from self._retain(seen)
        else:
            self.not_compared.append("its retain records: the training log of its base does not name those of its own training")

    def _other_key(self, log: TrainingLog) -> bool:
        """Return whether a log's hashes use another key; an older log does not say, but then shares no record."""
        if log.key_check is not None:
            return log.key_check != self.expected.key.check
        anything = self.expected.forget | (self.expected.retain or frozenset()) | (self.yardstick.seen or frozenset())
        recognisable = bool(self.expected.retain) or self.yardstick.seen is not None
        return recognisable and bool(log.names) and not log.names & anything and self.history.last.log is log

    def _retain(self, seen: frozenset[str]) -> Found:
        """Yield retain records that the original was trained on and this reference was not."""
        original, given = self.yardstick.seen, self.expected.retain
        if original is None and given is None:
            self.not_compared.append("its retain records: no retain set was given, and the original's log does not name them")
            return
        if given is None and any(stage.method for stage in self._yardstick_stages()):
            self.not_compared.append("its retain records: the original is itself the result of an unlearning. Give the retain set")
            return
        self.compared.add("retain")
        wanted = (original if given is None else given if original is None else given & original) or frozenset()
        wanted -= self.expected.forget | self.expected.canaries
        if count := len(wanted - seen):
            whose = "retain records" if original is None else "retain records that the original was trained on"
            yield "retain", f"it was not trained on {count} of the {len(wanted)} {whose}"

    def _yardstick_stages(self) -> tuple[Stage, ...]:
        return () if self.yardstick.history is None else self.yardstick.history.stages

    def _training(self) -> Found:
        """Yield deviations from the original's trainings: start weights, order, or training configuration."""
        history = self.yardstick.history
        if history is None or self.yardstick.name == self.label:
            self.not_compared.append("its base, trainings and options: the original has no training log")
            return
        if self.yardstick.name != "the original":
            self.not_compared.append(
                f"its base, trainings and options with the original's, which has no training log; with those of "
                f"{self.yardstick.name} they were compared"
            )
        self.compared |= {"base", "stages", "recipe"}
        theirs, mine = own_trainings(history, self.history)
        theirs = [stage for stage in theirs if not _only(stage, self.expected.forget)]
        if theirs and mine and theirs[0].start != mine[0].start:
            yield (
                "base",
                f"its training began with the weights {_short(mine[0].start)}, that of {self.yardstick.name} with "
                f"{_short(theirs[0].start)}",
            )
        if len(theirs) != len(mine):
            yield "stages", f"it is the result of {len(mine)} trainings, {self.yardstick.name} of {len(theirs)}"
            return
        if _reordered(theirs, mine):
            yield "stages", f"its {len(mine)} trainings are in another order than those of {self.yardstick.name}"
            return
        if what := "; ".join(text for pair in zip(theirs, mine, strict=True) for text in _other_options(*pair, len(mine))):
            yield "recipe", f"its training options differ from those of {self.yardstick.name}: {what}"


def known_bases(original: Any, forget: frozenset[str]) -> frozenset[str]:
    """Return the weights that a retraining of the original without the forget set may start from; none where no log names them.

    These are the starts of the original's trainings up to the first that used a forget record: what came before it may be shared.

    Args:
        original: as passed to the audit.
        forget: keyed hashes of the forget records.

    Raises:
        InputError: a log or manifest beside the original is damaged.
    """
    history = _read("the original", original)
    found: set[str] = set()
    for stage in () if history is None else history.logged:
        if stage.start is not None:
            found.add(stage.start)
        if _names(stage) & forget:
            break
    return frozenset(found)


def own_trainings(one: History, other: History) -> tuple[list[Stage], list[Stage]]:
    """Return the trainings of two models that are not common to both, without unlearning stages.

    Common trainings are part of their base. Where one history reaches further back, it is cut at the weights that the other
    starts from.
    """
    first, second = ([stage for stage in history.stages if stage.log is not None] for history in (one, other))
    while (
        first and second and first[0].final is not None and first[0].final == second[0].final and min(len(first), len(second)) > 1
    ):
        first, second = first[1:], second[1:]
    return _cut(first, second), _cut(second, first)


def _cut(stages: list[Stage], other: list[Stage]) -> list[Stage]:
    """Return the stages from the one that starts from the same weights as the other history; all if there is none."""
    starts = [stage.start for stage in stages]
    return stages[starts.index(other[0].start) :] if other and other[0].start in starts else stages


def _names(stage: Stage) -> frozenset[str]:
    return frozenset() if stage.log is None else stage.log.names


def _only(stage: Stage, forget: frozenset[str]) -> bool:
    """Return whether a training used forget records only: without them there is nothing to repeat."""
    return bool(_names(stage)) and _names(stage) <= forget


def _reordered(theirs: Sequence[Stage], mine: Sequence[Stage]) -> bool:
    """Return whether the same trainings come in another order, matching each of theirs to mine by its records."""
    if len(mine) < 2:
        return False
    places = [_most_alike(stage, mine) for stage in theirs]
    return any(later < earlier for earlier, later in pairwise(places))


def _most_alike(stage: Stage, among: Sequence[Stage]) -> int:
    """Return the index of the training that shares the most records with this stage; the first of several."""
    shared = [len(_names(stage) & _names(other)) for other in among]
    return shared.index(max(shared))


def _other_options(theirs: Stage, mine: Stage, stages: int) -> Iterator[str]:
    """Yield the options in which two trainings differ, with both values; at most `SHOWN` of them."""
    one, other = training_configuration(mine), training_configuration(theirs)
    differing = [name for name in one if name in other and one[name] != other[name]]
    where = f" in the training from {_short(mine.start)}" if stages > 1 else ""
    for name in differing[:SHOWN]:
        yield f"{name} {one[name]} against {other[name]}{where}"
    if len(differing) > SHOWN:
        yield f"and {len(differing) - SHOWN} more"


def training_configuration(stage: Stage) -> dict[str, Any]:
    """Return the settings of a training that decide what is learned, by name; unknown settings are left out."""
    assert stage.log is not None, "the caller passes trainings with a log"
    options = resolved(stage.log.options)
    processes = stage.about.get("environment")
    count = processes.get("processes", 1) if isinstance(processes, Mapping) else 1
    found = {
        name: value
        for name, value in options.items()
        if name not in IGNORED_OPTIONS and name not in BATCHING and (options.get("lora") or not name.startswith("lora_"))
    }
    if options.get("max_steps"):
        found.pop("epochs", None)
    found["records a step"] = (options.get("batch_size") or 1) * (options.get("gradient_accumulation") or 1) * (count or 1)
    found["defense"] = stage.log.defense
    if stage.defense is not None and isinstance(stage.defense.get("parameters"), Mapping):
        found |= {f"{stage.log.defense} {name}": value for name, value in stage.defense["parameters"].items() if name != "seed"}
    found |= {name: stage.inputs[name] for name in ("dtype", "quantize") if name in stage.inputs}
    return found


def _short(digest: str | None) -> str:
    return "unknown" if digest is None else f"{digest[:12]}..."
