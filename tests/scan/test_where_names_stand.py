"""A person is found wherever a row names them: in a longer subject, in two columns, in values of every type, in every spelling."""

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn.scan.search import find_records
from unlearn.scan.spellings import likenesses, subject_hashes
from verify.data.identity import RecordKey

TEXT = {"text": "The customer complained about a late parcel."}
FOUND = ("similar identifier", "named in its text")


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(TEXT | row) + "\n" for row in rows))
    return path


def found(path: Path, *identifiers: str) -> list[tuple[int, str, str | None]]:
    key = RecordKey.load()
    tokens = likenesses(identifiers, key)
    matches = find_records([path], key, subjects=subject_hashes(identifiers, key), likenesses=tokens, near=False)
    return sorted((match.row, match.how, match.reason) for match in matches)


@pytest.mark.parametrize(
    "subject",
    [
        "Dr. Nora Velt",
        "Max Roe; Nora Velt",
        ["Max Roe", "Frau Nora Velt"],
        "Nora M. Velt",
        "Nora Velt-Roe",
        "Nora Velt (born Roe)",
        "Nora Velt <nora@example.org>",
        "Velt, Nora Maria",
        "nora.velt@example.org; max@example.org",
    ],
    ids=str,
)
def test_a_longer_subject_is_proposed_beside_an_exact_one(tmp_path: Path, subject: str | list[str]) -> None:
    """An exact row of the person hides no other of theirs; rows whose subject is somebody else are still not read."""
    path = written(
        tmp_path / "people.jsonl",
        *({"subject_id": "Nora Velt"}, {"subject_id": "nora.velt@example.org"}, {"subject_id": subject}),
        *({"subject_id": "Max Roe", "text": "He met Nora Velt."}, {"subject_id": "Dr. Max Roe", "city": "nora.velt@example.org"}),
    )
    rows = found(path, "Nora Velt", "nora.velt@example.org")
    assert rows == [(1, "subject", None), (2, "subject", None), (3, "similar identifier", "elsewhere")]


def test_a_longer_subject_is_proposed_by_a_linked_name(tmp_path: Path) -> None:
    """The name beside the requested account is recognized in a longer subject as well."""
    path = written(
        tmp_path / "people.jsonl",
        *({"subject_id": "u-4711", "name": "Nora Velt"}, {"subject_id": "Dr. Nora Velt"}, {"subject_id": "Dr. Max Roe"}),
    )
    assert found(path, "u-4711") == [(1, "subject", None), (2, "similar identifier", "linked")]
