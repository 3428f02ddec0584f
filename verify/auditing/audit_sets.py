"""Loading of an audit's record sets: forget, retain, holdout and fresh, with checks that they fit together."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from verify.data.identity import RecordKey
from verify.data.near_duplicates import near_texts
from verify.data.record_sets import require_disjoint, require_trained, require_unseen
from verify.data.records import Fields, Record, RecordSource
from verify.data.sources import load_forget_set, load_records
from verify.data.subjects import subject_groups
from verify.errors import InputError
from verify.provenance.holdout import without_held_out
from verify.schema.near_duplicates import LISTED, NearDuplicatesLeft
from verify.schema.parts import SetRole
from verify.schema.reexecution import Likeness
from verify.schema.settings import Settings


def load_sets(
    forget_set: RecordSource,
    retain_set: RecordSource | None,
    holdout_set: RecordSource | None,
    fresh_set: RecordSource | None,
    data: RecordSource | None,
    fields: Fields | None,
    settings: Settings,
    original: Any = None,
    *,
    with_controls: bool = False,
) -> dict[SetRole, Sequence[Record]]:
    """Load the sets, check that they fit together, and draw the retain records that are scored.

    Args:
        forget_set, retain_set, holdout_set, fresh_set, data, fields: as `verify.audit`.
        settings: how many retain records are scored, and the seed that draws them.
        original: as for `load_whole_sets`.
        with_controls: as `load_whole_sets`.

    Raises:
        InputError: as `load_whole_sets`.
    """
    whole = load_whole_sets(forget_set, retain_set, holdout_set, fresh_set, data, fields, original, with_controls=with_controls)
    return draw_retain(whole, settings)


def draw_retain(sets: Mapping[SetRole, Sequence[Record]], settings: Settings) -> dict[SetRole, Sequence[Record]]:
    """Return the sets with at most `settings.retain_records` retain records, drawn with the settings' seed."""
    drawn = dict(sets)
    if "retain" in drawn and len(drawn["retain"]) > settings.retain_records:
        order = np.random.default_rng(settings.seed).permutation(len(drawn["retain"]))[: settings.retain_records]
        drawn["retain"] = [drawn["retain"][index] for index in sorted(order)]
    return drawn


def near_duplicates_left(sets: Mapping[SetRole, Sequence[Record]], key: RecordKey) -> NearDuplicatesLeft | None:
    """Find records to keep whose text is nearly that of a forget record; None without a retain set.

    Args:
        sets: the whole sets, before retain records are drawn.
        key: names the records and hashes their words.
    """
    if "retain" not in sets:
        return None
    known = {key.of(record.fingerprint): record.whole_text for record in sets["forget"]}
    others = ((key.of(record.fingerprint), record.whole_text) for record in sets["retain"])
    forget: set[str] = set()
    found: list[Likeness] = []
    for name, near in near_texts(known, others, key.secret):
        forget |= near.keys()
        closest, similarity = next(iter(near.items()))
        found.append(Likeness(record=name, forget=closest, similarity=similarity))
    found.sort(key=lambda pair: (-pair.similarity, pair.record))
    return NearDuplicatesLeft(
        compared=len(sets["retain"]), records=len(found), forget=tuple(sorted(forget)), listed=tuple(found[:LISTED])
    )


def load_whole_sets(
    forget_set: RecordSource,
    retain_set: RecordSource | None,
    holdout_set: RecordSource | None,
    fresh_set: RecordSource | None,
    data: RecordSource | None,
    fields: Fields | None,
    original: Any = None,
    *,
    with_controls: bool = False,
) -> dict[SetRole, Sequence[Record]]:
    """Load the sets with all retain records, and check that they fit together.

    Args:
        forget_set, retain_set, holdout_set, fresh_set, data, fields: as `verify.audit`.
        original: the model before unlearning, whose training may have held some of `data` out as controls.
        with_controls: whether a level table or shards judge, which need controls for a single record too.

    Raises:
        InputError: a set is empty, too small, or shares records with another; the message says what to do.
    """
    training = None if data is None else without_held_out(load_records(data, fields), original, fields)
    forget = load_forget_set(forget_set, training, fields)
    if len(forget) == 1 and not with_controls and not (holdout_set is None and fresh_set is None):
        raise InputError(
            "the forget set holds one record, but attacks judged against controls need at least two: no rate can be computed from "
            "one value. Leave out --holdout and --fresh: one record is judged against retrained references alone."
        )
    _warn_of_copies(forget)
    sets: dict[SetRole, Sequence[Record]] = {"forget": forget}
    if retain_set is not None:
        sets["retain"] = load_records(retain_set, fields)
    elif training is not None:
        removed = {record.fingerprint for record in forget}
        sets["retain"] = [record for record in training if record.fingerprint not in removed]
    if holdout_set is not None:
        sets["holdout"] = load_records(holdout_set, fields)
    if fresh_set is not None:
        sets["fresh"] = _fresh(fresh_set, forget, fields)
    if training is not None:
        require_trained(forget, training, "the forget set")
        require_disjoint({"training": training, "holdout": sets.get("holdout", []), "fresh": sets.get("fresh", [])})
    require_disjoint(sets)
    seen = {"forget": forget, "retain": sets.get("retain", []), "training": training or []}
    require_unseen({role: sets.get(role, []) for role in ("holdout", "fresh")}, seen)
    for role, records in sets.items():
        if len(records) < 2 and role != "forget":
            raise InputError(f"the {role} set holds {len(records)} records; at least two are needed. Give more, or leave it out.")
    return sets


def _warn_of_copies(forget: Sequence[Record]) -> None:
    """Warn where a text occurs several times in the forget set: a set padded with copies looks larger than it is."""
    texts = len({record.fingerprint for record in forget})
    if texts < len(forget):
        warnings.warn(
            f"the forget set holds {len(forget)} records with {texts} different texts. A text counts once in the test per record; "
            "a copy of it that names another subject counts as one more person in the tests per person, so leave such copies out.",
            stacklevel=3,
        )


def _fresh(source: RecordSource, forget: Sequence[Record], fields: Fields | None) -> list[Record]:
    """Load fresh texts of the forget set's subjects, and refuse texts of anybody else."""
    records = load_records(source, fields)
    people = {subject for record in forget for subject in record.subjects}
    strangers = [number for number, record in enumerate(records, 1) if people.isdisjoint(record.subjects)]
    if strangers:
        raise InputError(
            f"{len(strangers)} fresh texts (the first in row {strangers[0]}) name no subject of the forget set. Give texts of "
            "those people, with the column that holds the subject (--subject-field)."
        )
    return records


def compared_texts(sets: Mapping[SetRole, Sequence[Record]]) -> tuple[dict[SetRole, list[str]], dict[SetRole, list[str]]]:
    """Return the blind baseline's input: the whole text of every record, and the person it belongs to."""
    compared: dict[SetRole, Sequence[Record]] = {role: sets[role] for role in sets if role in ("forget", "holdout", "fresh")}
    texts = {role: [f"{record.prompt} {record.scored_text}" for record in records] for role, records in compared.items()}
    everybody = iter(
        subject_groups([record for records in compared.values() for record in records], lambda record: record.example_id)
    )
    groups = {role: [next(everybody) for _ in records] for role, records in compared.items()}
    return texts, groups
