"""Shards of a model as each other's references: checks of their training logs, and their losses one by one.

A shard that was rebuilt without the forget records is ranked among the other shards (`verify.statistics.shard_siblings`). That they
never saw the records, nor anything else about the same people, is read from their training logs, as it is for references; and each
shard that is scored must have the weights with which its log ends.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError
from verify.io.files import file_digest
from verify.models.checked_loading import load_adapter
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel, load_model
from verify.provenance.shard_plan import ShardsDescription, shard_and_slice
from verify.provenance.training_log import LOG_NAME, TrainingLog, resolved
from verify.schema.parts import SetRole
from verify.schema.siblings import ShardChecked
from verify.scores.observe import measure
from verify.scores.scorer import Scorer
from verify.scores.table import BEFORE, SHARD, ScoreBlock, ScoreTable
from verify.training.shard_sum import add_adapters

SIDES: tuple[SetRole, ...] = ("forget", "holdout")
OWN_OPTIONS = frozenset({"seed", "save_steps", "epochs"})
"""Options in which stages differ from their training's; their epochs are compared with each other."""
INSTEAD = "Leave --shard-siblings out, and audit with retrained references (--references)."


@dataclass(frozen=True, eq=False, repr=False)
class Shards:
    """The shards of a model before and after a deletion, whose logs were checked.

    Attributes:
        after, before: folders of the two models.
        plan: how both are divided.
        held: shard -> rows of the forget records that it held.
        logs: digests of the training logs, by the label of the shard.
        final: digest of the weights that they end with, by label; a shard without records has none.
    """

    after: Path
    before: Path
    plan: ShardsDescription
    held: Mapping[int, Sequence[int]]
    logs: Mapping[str, tuple[str, ...]]
    final: Mapping[str, str]

    def places(self) -> Iterator[tuple[str, Path]]:
        """Yield label and folder of every shard's last stage: all shards after the deletion, then the rebuilt ones before it."""
        last = f"slice-{self.plan.slices - 1}"
        for shard in range(self.plan.shards):
            yield f"{SHARD}{shard}", self.after / f"shard-{shard}" / last
        for shard in sorted(self.held):
            yield f"{SHARD}{shard}{BEFORE}", self.before / f"shard-{shard}" / last


def check_shards(model: Any, original: Any, sets: Mapping[SetRole, Sequence[Record]], key: RecordKey) -> Shards:
    """Check that the siblings of the rebuilt shards never saw the forget set, and that all shards were trained alike.

    Args:
        model, original: the models after and before the deletion: folders of models in shards.
        sets: the audit's records; controls are needed.
        key: the record key.

    Raises:
        InputError: the models are not in the same shards, a log is missing, of another key or unfinished, names a forget record
            after the deletion or not before it, another record of the same people, or a control, or the models differ in other
            records.
    """
    then = require_siblings(original, with_controls="holdout" in sets)
    after, before = _folder(model), _folder(original)
    plan = ShardsDescription.read(after)
    _require_same_division(then, plan)
    forget = {key.of(record.fingerprint) for record in sets["forget"]}
    held: dict[int, list[int]] = {}
    for row, record in enumerate(sets["forget"]):
        held.setdefault(shard_and_slice(record, key, plan.shards, plan.slices)[0], []).append(row)
    _require_forget_set_left(then, plan, forget)
    people = {key.of(name, "subject") for record in sets["forget"] for name in record.subjects}
    controls = {key.of(record.fingerprint) for record in sets["holdout"]}
    logs: dict[str, tuple[str, ...]] = {}
    final: dict[str, str] = {}
    epochs: set[str] = set()
    for folder, description, ending, shards in ((after, plan, "", range(plan.shards)), (before, then, BEFORE, sorted(held))):
        for shard in shards:
            label = f"{SHARD}{shard}{ending}"
            read = [(path, TrainingLog.read(path)) for path in _log_paths(folder, description, shard)]
            for _, log in read:
                _require_alike(log, label, description, key)
                _require_unseen(log, label, controls if ending else controls | forget, frozenset() if ending else people)
                epochs.add(str(log.options.get("epochs")))
            if ending:
                names = {key.of(sets["forget"][row].fingerprint) for row in held[shard]}
                _require_seen(read[-1][1].names if read else frozenset(), label, names)
            logs[label] = tuple(file_digest(path) for path, _ in read)
            if read:
                final[label] = str(read[-1][1].final_weights)
    if len(epochs) > 1:
        raise InputError(f"the stages of the shards were trained for different numbers of epochs, by their logs. {INSTEAD}")
    return Shards(after, before, plan, held, logs, final)


def require_siblings(original: Any, *, with_controls: bool) -> ShardsDescription:
    """Check that the shards of a model before a deletion can be ranked after it; return how it is divided.

    Args:
        original: the model's folder.
        with_controls: whether the audit has a holdout set.

    Raises:
        InputError: it has none, or the model is not in several shards.
    """
    if not with_controls:
        raise InputError(
            "shards are compared on their losses on the records less those on never-trained controls. Give these with --holdout."
        )
    plan = ShardsDescription.read(_folder(original))
    if plan.shards < 2:
        raise InputError(f"a model of one shard has no siblings. {INSTEAD}")
    return plan


def _folder(source: Any) -> Path:
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        raise InputError(f"shards are read from a model's folder, and this model is in none. {INSTEAD}")
    return Path(source)


def _require_same_division(then: ShardsDescription, plan: ShardsDescription) -> None:
    """Refuse models that are not the same training in shards."""
    for what in ("shards", "slices", "combine", "options", "base_weights"):
        if getattr(then, what) != getattr(plan, what):
            name = what.replace("_", " ")
            raise InputError(f"the models before and after the deletion differ in the {name} of their shards. {INSTEAD}")


def _require_forget_set_left(then: ShardsDescription, plan: ShardsDescription, forget: set[str]) -> None:
    """Refuse a deletion of other records than the forget set."""
    if missing := len(forget - then.records.keys()):
        raise InputError(f"{missing} of {len(forget)} forget records were not in the shards before the deletion. Leave them out.")
    if then.records.keys() - forget != plan.records.keys():
        raise InputError(
            "the shards after the deletion were not trained on the records before it without the forget set. Give the model from "
            "which this one was made, and all records that were removed."
        )


def _log_paths(folder: Path, plan: ShardsDescription, shard: int) -> list[Path]:
    """Return the logs of a shard's stages; a stage whose slices so far hold no record has none.

    Raises:
        InputError: a log is missing.
    """
    first = min((stage for where, stage in plan.records.values() if where == shard), default=plan.slices)
    paths = [folder / f"shard-{shard}" / f"slice-{stage}" / LOG_NAME for stage in range(first, plan.slices)]
    if absent := [path for path in paths if not path.is_file()]:
        raise InputError(f"{absent[0]} is missing, so nobody can read what this shard was trained on. {INSTEAD}")
    return paths


def _require_alike(log: TrainingLog, label: str, plan: ShardsDescription, key: RecordKey) -> None:
    """Require a finished training with the options of all shards, whose records are named under this key."""
    if log.key_check != key.check:
        raise InputError(
            f"the training log of {label} names records under another key, so none can be found in it. Name the key file of the "
            "training in $UNLEARN_VERIFY_KEY_FILE."
        )
    if not log.finished:
        raise InputError(f"the training log of {label} has no end: the run was interrupted. Run the same command again.")
    given, own = resolved({**plan.options, "lora": True}), resolved(log.options)
    if other := sorted(name for name in given.keys() | own.keys() if given.get(name) != own.get(name) and name not in OWN_OPTIONS):
        raise InputError(f"{label} was trained with another {other[0].replace('_', ' ')} than the other shards. {INSTEAD}")


def _require_unseen(log: TrainingLog, label: str, records: set[str], people: frozenset[str] | set[str]) -> None:
    """Require a training without these records and without any record about these people."""
    if seen := len(log.names & records):
        raise InputError(f"{label} was trained on {seen} of the records that it should never have seen, by its log. {INSTEAD}")
    others = {name for names in log.subjects if names is not None for name in names.split(",")}
    if there := len(others & people):
        raise InputError(
            f"{label} was trained on other records about {there} of the people of the forget set. A record that stays stays in the "
            f"same shard, so that ranks show it instead of the deletion: remove all records of these people. {INSTEAD}"
        )


def _require_seen(seen: frozenset[str], label: str, records: set[str]) -> None:
    """Require that a shard was trained on the forget records that the key put into it."""
    if missing := len(records - seen):
        raise InputError(
            f"{label} was not trained on {missing} of the forget records that the record key puts into it, by its log, so that its "
            f"rank says nothing. {INSTEAD}"
        )


def score_shards(
    shards: Shards, scorer: Scorer, tokenizer: Any, base: Any = None
) -> tuple[dict[tuple[str, SetRole], ScoreBlock], tuple[ShardChecked, ...]]:
    """Score every shard by itself on forget records and controls; in memory is one base and one adapter.

    Args:
        shards: the checked shards.
        scorer: after all models were scored.
        tokenizer: as for `verify.audit`.
        base: the model below the shards, where it is not at the recorded place.

    Returns:
        the blocks of `ScoreTable`, and what was scored.

    Raises:
        InputError: the base is another one or, for summed shards, in memory; a shard does not have the weights that its log ends
            with; or the models that were audited are not made of these shards.
    """
    source = shards.plan.base if base is None else base
    if shards.plan.combine == "sum" and not isinstance(source, str | Path):
        raise InputError("summed shards are added up again on their base, which is not done to a model in memory. Give its folder.")
    loaded = load_model(source, tokenizer=tokenizer, dtype=scorer.settings.dtype)
    if loaded.digest != shards.plan.base_weights:
        raise InputError(
            f"{loaded.name} is not the base that the shards were trained on, or not in its precision. Give that base with --base "
            "DIR, and --dtype auto."
        )
    blocks: dict[tuple[str, SetRole], ScoreBlock] = {}
    checked, model = [], loaded.model
    for label, folder in shards.places():
        adapted = load_adapter(model, folder).eval()
        one = replace(loaded, model=adapted, digest=weights_digest(adapted))
        if shards.final.get(label, one.digest) != one.digest:
            raise InputError(f"{label} has not the weights with which its training log ends. Restore the folder. {INSTEAD}")
        blocks |= dict(_blocks(one, label, shards, scorer))
        checked.append(ShardChecked(label=label, weights=one.digest, logs=shards.logs[label]))
        model = adapted.unload()
    _require_served(shards, scorer, source, loaded.tokenizer)
    return blocks, tuple(checked)


def _blocks(one: LoadedModel, label: str, shards: Shards, scorer: Scorer) -> Iterator[tuple[tuple[str, SetRole], ScoreBlock]]:
    """Yield a shard's losses: on all forget records or, before the deletion, on those that it held; and on the controls."""
    for role in SIDES:
        target = scorer.blocks["target", role]
        observed = measure(
            one, scorer.sets[role], cache_dir=scorer.cache_dir, key=scorer.key, overflow=scorer.settings.overflow
        ).table
        rows = np.arange(len(target.records))
        if role == "forget" and label.endswith(BEFORE):
            rows = np.array(shards.held[int(label.split()[1])])
        yield (
            (label, role),
            ScoreBlock(
                records=tuple(target.records[row] for row in rows),
                subjects=tuple(target.subjects[row] for row in rows),
                tokens=observed.lengths[rows],
                loss=-observed.means[rows],
                scores={},
            ),
        )


def _require_served(shards: Shards, scorer: Scorer, base: Any, tokenizer: Any) -> None:
    """Require that summed weights are the sum of these shards; an ensemble's description names its adapters' files."""
    if shards.plan.combine != "sum":
        return
    weights: dict[str, str] = {model.role: model.weights for model in scorer.models}
    for role, folder in (("target", shards.after), ("original", shards.before)):
        last = [folder / f"shard-{shard}" / f"slice-{shards.plan.slices - 1}" for shard in range(shards.plan.shards)]
        fresh = load_model(base, tokenizer=tokenizer, dtype=scorer.settings.dtype)
        if weights_digest(add_adapters(fresh.model, last, int(shards.plan.options["seed"]))) != weights[role]:
            raise InputError(f"the weights of the {role} are not the sum of the shards in its folder. {INSTEAD}")


def with_siblings(
    shards: Shards | None, table: ScoreTable, scorer: Scorer, tokenizer: Any, base: Any
) -> tuple[ScoreTable, tuple[ShardChecked, ...] | None]:
    """Return the table with the losses of single shards, and what was scored; the table as it is without shards."""
    if shards is None:
        return table, None
    blocks, checked = score_shards(shards, scorer, tokenizer, base)
    return ScoreTable({**table.blocks, **blocks}), checked
