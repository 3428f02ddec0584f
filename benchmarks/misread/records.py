"""Duplicate keys in files, values that are not identifiers, and data sets with configurations (cases 4, 8 and 11)."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.misread.judging import Family, Member
from benchmarks.misread.world import Bench, command, patched, rows, write_lines
from unlearn.requests.ledger.intake import from_csv, from_opendsr
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.sources import load_records

TWICE = r"(?=.*(twice|duplicate|more than once|repeat|two|again|same|\d times))"
ROW = r"(?=.*\b(row|line|record)s?\b)(?=.*\d)"
PRIVATE = "Ines Kolb lives in Arlen"


def reading(path: Any) -> Callable[[], list[Record]]:
    return lambda: load_records(path)


def members_json(pairs: list[tuple[str, Any]]) -> str:
    """Write a JSON object with these members, in order, duplicates included."""
    return "{" + ", ".join(f"{name if name.startswith(chr(34)) else json.dumps(name)}: {json.dumps(v)}" for name, v in pairs) + "}"


def spelled(name: str, draw: Random) -> str:
    """A JSON string with one of its letters escaped: the same name."""
    place = draw.randrange(len(name))
    return f'"{name[:place]}\\u{ord(name[place]):04x}{name[place + 1 :]}"'


def twice_in_json(at: Bench) -> Iterable[Member]:
    """A name twice in one object: at its top, escaped, or inside a turn."""
    for number, name in enumerate(["completion", "prompt", "subject_id", "example_id", "note", "secret"]):
        pairs = [("prompt", "Where?"), ("completion", PRIVATE), ("subject_id", "ines"), ("example_id", "r1"), (name, "in")]
        pairs += [(name, "Arlen")] if name in ("note", "secret") else []
        head, last = pairs[:-1], pairs[-1]
        at.draw.shuffle(head)
        for ending in ("jsonl", "json", "ndjson"):
            text = members_json([*head, last])
            path = at.folder / f"{number}.{ending}"
            path.write_text(f"[{text}]" if ending == "json" else f"{json.dumps(rows(1)[0])}\n{text}\n")
            yield Member(f"{name} twice, {ending}", reading(path), None, TWICE + ROW, (PRIVATE,))
        path = at.folder / f"escaped-{number}.jsonl"
        path.write_text(members_json([*head, (spelled(name, at.draw), last[1])]) + "\n")
        yield Member(f"{name} twice, once escaped", reading(path), None, TWICE + ROW, (PRIVATE,))
    for name in ("role", "content"):
        turn = members_json([("role", "assistant"), ("content", PRIVATE), (name, "assistant")])
        (at.folder / f"turn-{name}.jsonl").write_text('{"messages": [{"role": "user", "content": "Where?"}, ' + turn + "]}\n")
        yield Member(f"{name} twice in a turn", reading(at.folder / f"turn-{name}.jsonl"), None, TWICE + ROW, (PRIVATE,))
    key = members_json([(PRIVATE, 1), (PRIVATE, 2)])
    call = '{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": ' + key + "}}]}"
    (at.folder / "call.jsonl").write_text('{"messages": [' + call + "]}\n")
    yield Member("a person's name twice in a call", reading(at.folder / "call.jsonl"), None, TWICE + ROW, (PRIVATE,))
    (at.folder / "call.json").write_text(f'[{json.dumps(rows(1)[0])}, {{"messages": [{call}]}}]')
    yield Member("the same in a list", reading(at.folder / "call.json"), None, TWICE + r"(?=.*row 2)", (PRIVATE,))


def twice_in_csv(at: Bench) -> Iterable[Member]:
    """A column twice in a CSV file's header."""
    for number, name in enumerate(["completion", "prompt", "subject_id", "example_id"]):
        names = ["prompt", "completion", "subject_id", "example_id", name]
        order = at.draw.sample(range(5), 5)
        values = ["Where?", PRIVATE, "ines", "r1", "another"]
        for mark in ("", "\ufeff"):
            stream = io.StringIO()
            csv.writer(stream).writerows([[names[place] for place in order], [values[place] for place in order]])
            path = at.folder / f"{number}{'-mark' * bool(mark)}.csv"
            path.write_text(mark + stream.getvalue(), encoding="utf-8")
            yield Member(f"{name} twice{' after a byte order mark' * bool(mark)}", reading(path), None, TWICE, (PRIVATE,))
    for what, text in {
        "a row with more cells": f"prompt,completion\nq,{PRIVATE},x\n",
        "a row with fewer cells": f"prompt,completion,note\nq,{PRIVATE}\n",
        "an open quotation mark": f'prompt,completion\nq,"{PRIVATE}\n',
    }.items():
        (at.folder / f"{what}.csv").write_text(text)
        yield Member(what, reading(at.folder / f"{what}.csv"), None, "column|readable", (PRIVATE,))


def twice_in_parquet(at: Bench) -> Iterable[Member]:
    """A column twice in a Parquet file."""
    for name in ("completion", "prompt", "subject_id", "example_id"):
        names = ["prompt", "completion", "subject_id", "example_id", name]
        order = at.draw.sample(range(5), 5)
        values = [["Where?"], [PRIVATE], ["ines"], ["r1"], ["another"]]
        pq.write_table(
            pa.table([values[place] for place in order], names=[names[place] for place in order]), at.folder / f"{name}.parquet"
        )
        yield Member(f"{name} twice", reading(at.folder / f"{name}.parquet"), None, TWICE, (PRIVATE,))
    struct = pa.StructArray.from_arrays(
        [pa.array(["assistant"]), pa.array([PRIVATE]), pa.array(["x"])], ["role", "content", "content"]
    )
    turns = pa.ListArray.from_arrays(pa.array([0, 1]), struct)
    pq.write_table(pa.table({"messages": turns}), at.folder / "turn.parquet")
    yield Member("content twice in a turn", reading(at.folder / "turn.parquet"), None, TWICE, (PRIVATE,))


def opendsr(identity: str = "ines.kolb@example.org") -> dict[str, Any]:
    return {
        "regulation": "gdpr",
        "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-02T10:00:00Z",
        "subject_identities": [{"identity_type": "email", "identity_value": identity, "identity_format": "raw"}],
    }


def twice_in_requests(at: Bench) -> Iterable[Member]:
    """A duplicate key in a request, so that the person or the law is ambiguous."""
    key = RecordKey(b"k" * 32)
    for name, value in opendsr().items():
        body = members_json([*opendsr().items(), (name, value)])
        yield Member(f"{name} twice, alike", lambda body=body: from_opendsr(body, key), None, TWICE, ("ines.kolb",))
        body = members_json([*opendsr().items(), (spelled(name, at.draw), opendsr("otto@example.org")[name])])
        yield Member(f"{name} twice, escaped", lambda body=body: from_opendsr(body, key), None, TWICE, ("ines.kolb", "otto@"))
    entry = members_json(
        [("identity_value", "ines.kolb@example.org"), ("identity_format", "raw"), ("identity_value", "otto@example.org")]
    )
    body = json.dumps(opendsr()).replace(json.dumps(opendsr()["subject_identities"][0]), entry)
    yield Member("identity_value twice in one identity", lambda: from_opendsr(body, key), None, TWICE, ("ines.kolb", "otto@"))
    good = from_opendsr(json.dumps(opendsr()), key).subjects
    yield Member("no name twice", lambda: from_opendsr(json.dumps(opendsr()), key).subjects, lambda found: found == good)
    for name in ("identifier", "regime", "received"):
        (at.folder / f"{name}.csv").write_text(
            f"identifier,regime,received,{name}\nines,gdpr,2026-11-02,{'x' if name == 'identifier' else 'ccpa'}\n"
        )
        path = at.folder / f"{name}.csv"
        yield Member(f"{name} twice in a batch", lambda path=path: from_csv(path, key), None, TWICE)


def same_record_twice(at: Bench) -> Iterable[Member]:
    """Two rows with one identifier, also where one is a number and the other its digits."""
    for one, other in (("7", "7"), (7, "7"), ("7", 7), (7, 7), (7, 7.0), (7.0, "7")):
        listed = [rows(2)[0] | {"example_id": one}, rows(2)[1] | {"example_id": other}]
        path = write_lines(at.folder / f"{one!r}-{other!r}.jsonl", listed)
        yield Member(f"{one!r} and {other!r}", reading(path), None, r"(?=.*example_id)(?=.*1)(?=.*2)")


NOBODY: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "an empty text": "",
    "spaces": "   ",
    "no-break spaces": "\u00a0\u2007",
    "a zero-width space": "\u200b",
}


def no_names(at: Bench) -> Iterable[Member]:
    """Missing numbers and blank texts are not identifiers, and do not merge all who have them into one person."""
    for column in ("subject_id", "example_id"):
        for what, value in NOBODY.items():
            listed = [{**row, column: value} for row in rows(2)]

            def nobody(found: list[Record], column: str = column) -> bool:
                return not any(one.named if column == "example_id" else one.subject_id is not None for one in found)

            path = write_lines(at.folder / f"{column}-{what}.jsonl", listed)
            yield Member(f"{what} as {column}, from a file", reading(path), nobody, column)
            yield Member(f"{what} as {column}, from Python", reading(listed), nobody, column)
    for what, value in {"numpy.nan": np.float32("nan"), "a tensor of NaN": torch.tensor(math.nan)}.items():
        listed = [{**row, "subject_id": value} for row in rows(2)]
        yield Member(
            f"{what} as subject_id", reading(listed), lambda found: all(one.subject_id is None for one in found), "subject_id"
        )


Odd = dict[str, tuple[Any, set[str] | None]]
"""Description -> the value, and whom it names if it can be read as an identifier."""
ODD: Odd = {
    "true": (True, None),
    "a fraction": (12.5, {"12.5"}),
    "an object": ({"name": "Ines"}, None),
    "a list of lists": ([["Ines"], ["Otto"]], None),
    "a list with nobody in it": (["Ines", None], None),
    "an empty list": ([], set()),
}
ODD_IN_PYTHON: Odd = {
    "bytes": (b"ines", None),
    "a tensor of two": (torch.tensor([1, 2]), {"1", "2"}),
    "an array of two": (np.array(["Ines", "Otto"]), {"Ines", "Otto"}),
    "a tuple": (("Ines", "Otto"), {"Ines", "Otto"}),
    "a set": ({"Ines"}, {"Ines"}),
    "a complex number": (1j, None),
    "an object without a text": (object(), None),
}


def odd_names(at: Bench) -> Iterable[Member]:
    """Identifiers that are neither text nor whole numbers: refused, or all whom they name are found."""
    for column in ("subject_id", "example_id"):
        for what, (value, people) in {**ODD, **ODD_IN_PYTHON}.items():

            def right(found: list[Record], column: str = column, people: set[str] | None = people) -> bool:
                return people is not None and set(_names(found[0], column)) == people

            row = {**rows(1)[0], column: value}
            yield Member(f"{what} as {column}, from Python", reading([row]), right, column)
            if what in ODD:
                path = write_lines(at.folder / f"{column}-{what}.jsonl", [row])
                yield Member(f"{what} as {column}, from a file", reading(path), right, column)


def _names(record: Record, column: str) -> Iterable[str]:
    if column == "subject_id":
        return record.subjects
    return [record.example_id] if record.named else []


def numbers(at: Bench) -> Iterable[Member]:
    """A whole number equals its digits, in any type."""
    number = at.draw.randrange(10**4, 10**6)
    listed = [number, str(number), float(number), np.int64(number), np.float64(number), torch.tensor(number), np.array(number)]
    for value in listed:
        row = {**rows(1)[0], "subject_id": value}
        # What comes from Python as a tensor may be refused; read as another name it may not be.
        refusal = "subject_id" if isinstance(value, torch.Tensor | np.ndarray) else None
        yield Member(
            type(value).__name__, lambda row=row: load_records([row])[0].subject_id, lambda found: found == str(number), refusal
        )
    pq.write_table(pa.table({"text": ["Ines lives in Arlen"], "subject_id": [float(number)]}), at.folder / "double.parquet")
    yield Member(
        "a double in Parquet", lambda: load_records(at.folder / "double.parquet")[0].subject_id, lambda found: found == str(number)
    )


def several_people(at: Bench) -> Iterable[Member]:
    """A record about several people: the request of each of them finds it, or the record is refused."""
    people = ["ines.kolb@example.org", "otto@example.org", "uma"]
    for count in (2, 3):
        for person in people[:count]:
            path = write_lines(at.folder / f"{count}-{person}.jsonl", [rows(2)[1], rows(1)[0] | {"subject_id": people[:count]}])
            yield Member(
                f"one of {count} asks, JSON", _scan(path, person), lambda found: found.names_row(2), "subject_id", (person,)
            )
    table = pa.table({"text": ["Ines and Otto live in Arlen"], "subject_id": [people[:2]]})
    pq.write_table(table, at.folder / "list.parquet")
    for person in people[:2]:
        yield Member(
            "one of 2 asks, Parquet", _scan(at.folder / "list.parquet", person), lambda found: found.names_row(1), "subject_id"
        )
    datasets.Dataset.from_list([{"text": "Ines and Otto live in Arlen", "subject_id": people[:2]}]).save_to_disk(
        at.folder / "arrow"
    )
    yield Member(
        "one of 2 asks, Arrow", _scan(at.folder / "arrow", "otto@example.org"), lambda found: found.names_row(1), "subject_id"
    )
    spelled_out = write_lines(at.folder / "text.jsonl", [rows(1)[0] | {"subject_id": "['otto@example.org', 'uma']"}])
    yield Member("a list as another program wrote it", _scan(spelled_out, "uma"), lambda found: found.names_row(1), "subject_id")


def _scan(path: Path, person: str) -> Callable[[], Any]:
    return lambda: command("unlearn", "scan", "--data", str(path), "--subjects", "-", stdin=f"{person}\n")


AVAILABLE = {"owner/tofu": ["forget01", "forget10", "retain90"], "owner/plain": ["default"]}


def hub(_: Bench) -> Iterable[Member]:
    """Data sets with configurations: the named one is read, or those there are are listed."""
    for name in AVAILABLE["owner/tofu"]:
        for split in ("train", "validation"):
            yield Member(
                f"{name}, {split}", _from_hub(f"owner/tofu:{name}:{split}"), lambda found, want=(name, split): found == [want]
            )
    yield Member("a split alone", _from_hub("owner/plain:test"), lambda found: found in ([(None, "test")], [("default", "test")]))
    yield Member("a name alone", _from_hub("owner/plain"), lambda found: found in ([(None, "train")], [("default", "train")]))
    listing = "(?=.*forget01)(?=.*forget10)(?=.*retain90)"
    yield Member("no configuration where one is needed", _from_hub("owner/tofu"), None, listing)
    yield Member("a split where a configuration is needed", _from_hub("owner/tofu:train"), None, listing)
    for wrong in ("forget05", "raw", "FORGET10"):
        yield Member(f"the unknown configuration {wrong}", _from_hub(f"owner/tofu:{wrong}:train"), None, listing)
    yield Member(
        "a configuration in the place of the split",
        _from_hub("owner/tofu:forget10"),
        lambda found: found == [("forget10", "train")],
        listing,
    )
    yield Member("four parts", _from_hub("owner/tofu:forget10:train:x"), None, "owner/name")


def _from_hub(source: str) -> Callable[[], list[tuple[str | None, str]]]:
    """Return the requests made to a simulated Hub that answers like the real one."""

    def attempt() -> list[tuple[str | None, str]]:
        asked = []

        def load_dataset(path: str, name: str | None = None, *_: Any, split: str = "train", **__: Any) -> list[dict[str, str]]:
            known = AVAILABLE[path]
            if name is None and known != ["default"]:
                example = f"load_dataset('{path}', '{known[0]}')"
                raise ValueError(
                    f"Config name is missing.\nPlease pick one among the available configs: {known}\nExample: `{example}`"
                )
            if name is not None and name not in known:
                raise ValueError(f"BuilderConfig '{name}' not found. Available: {known}")
            if split not in ("train", "validation", "test"):
                raise ValueError(f"Bad split: {split}. Available splits: ['train', 'validation', 'test']")
            asked.append((name, split))
            return [dict(row) for row in rows(2)]

        fakes = {"load_dataset": load_dataset, "get_dataset_config_names": lambda path, **_: AVAILABLE[path]}
        with patched(datasets, fakes):
            load_records(source)
        return asked

    return attempt


def receipts(at: Bench) -> Iterable[Member]:
    """Dates of a batch that another country writes otherwise."""
    for value in ("02.11.2026", "11/02/2026", "2026-13-01", "2026-02-30", "", "yesterday", "20261102", "2026-11-02T10:00:00"):
        path = at.folder / f"{value.replace('/', '-')}x.csv"
        path.write_text(f"identifier,regime,received\nines,gdpr,{value}\n")

        def right(found: Any, value: str = value) -> bool:
            return value.startswith("2026") and [one.received for one in found] == [date(2026, 11, 2)]

        yield Member(
            value or "none", lambda path=path: from_csv(path, RecordKey(b"k" * 32)), right, "(?=.*ISO)(?=.*row 1)", ("ines",)
        )


FAMILIES = (
    Family(4, "a name twice in a JSON object", twice_in_json, quick=5),
    Family(4, "a column twice in a CSV file, and rows of another length", twice_in_csv, quick=4),
    Family(4, "a column twice in a Parquet file", twice_in_parquet),
    Family(4, "a name twice in a request", twice_in_requests, quick=4),
    Family(4, "one identifier for two rows", same_record_twice, quick=3),
    Family(8, "missing numbers and blank texts as identifiers", no_names, quick=4),
    Family(8, "identifiers that are neither text nor whole numbers", odd_names, quick=4),
    Family(8, "a whole number of another type as identifier", numbers, quick=4),
    Family(8, "a record about several people", several_people, quick=2),
    Family(11, "data sets with configurations", hub, quick=4),
    Family(4, "the day of receipt in another form", receipts, quick=2),
)
