"""Documents of every kind with bits flipped, parts cut out or put in, and values replaced: they are read, or refused in words."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deletions import proof_about
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from level_tables import invented_members, write_invented
from score_tables import simulated_table

from unlearn.purge.suppression import SuppressionList
from unlearn.requests.http.tokens import Tokens, new_token
from unlearn.training.log import LOG_NAME, TrainingLog
from verify.auditing.audit import register
from verify.auditing.registration import Registration
from verify.certificate.check import check_certificate
from verify.certificate.statements import load_public_key
from verify.data.canaries import Canaries
from verify.data.sources import load_records
from verify.errors import InputError
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.level_table import LevelTable
from verify.report.letter_words import copy_templates, load_words
from verify.schema.deletion_record import DeletionRecord
from verify.schema.evidence import Evidence
from verify.schema.reexecution import Reexecution
from verify.scores.table import ScoreTable

SAMPLE = Path(__file__).parents[1] / "docs" / "sample"
MARK = "zq7-identifier-9xk"
"""Put into spoiled documents; no message may repeat it."""
LARGEST_JSON = 1 << 17
"""Bytes of a document up to which its values are replaced, too; a larger one is spoiled by its bytes alone."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8) | st.just(MARK),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just(MARK), inner, max_size=3),
    max_leaves=6,
)
HOSTILE_BYTES = st.binary(min_size=1, max_size=8) | st.sampled_from([b"[" * 3000, b"null", b'"', b"\\ud800", MARK.encode()])


@st.composite
def spoiled(draw: st.DrawFn, content: bytes) -> bytes:
    """A document's bytes with bits flipped, a part cut out or put in, or its end missing."""
    spoilt = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(spoilt) - 1)) if spoilt else 0
        match draw(st.sampled_from(["flip", "flip", "cut", "drop", "insert"])):
            case "flip" if spoilt:
                spoilt[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del spoilt[place:]
            case "drop":
                del spoilt[place : place + draw(st.integers(1, 40))]
            case _:
                spoilt[place:place] = draw(HOSTILE_BYTES)
    return bytes(spoilt)


@st.composite
def place_and_value(draw: st.DrawFn) -> tuple[list[float], Any]:
    """A way down into a tree, as fractions, and what to put there."""
    return draw(st.lists(st.floats(0, 0.999), min_size=1, max_size=7)), draw(JSON)


def put(tree: Any, way: list[float], value: Any) -> Any:
    """The tree with one node replaced (or removed, where the value is None)."""
    if not way or not isinstance(tree, dict | list) or not tree:
        return value
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[int(way[0] * len(keys))]
    if value is None and len(way) == 1:
        del tree[key]
    else:
        tree[key] = put(tree[key], way[1:], value)
    return tree


@dataclass(frozen=True)
class Kind:
    """A kind of document.

    Attributes:
        files: its files, all whole; one of them is spoiled at a time.
        take: reads the document from a folder with these files.
        names_columns: whether a refusal may name columns, which say how a file is laid out and nothing of what it holds.
    """

    files: Mapping[str, bytes]
    take: Callable[[Path], Any]
    names_columns: bool = False


def kinds(folder: Path, trained: Path) -> dict[str, Kind]:
    """A whole document of every kind.

    Args:
        folder: a new folder, in which they are made.
        trained: a model with its training log.
    """
    folder.mkdir()
    keys = [load_public_key(SAMPLE / f"{role}.key.pub") for role in ("operator", "auditor")]
    sample = {name: (SAMPLE / f"{name}.json").read_bytes() for name in ("certificate", "deletion", "evidence")}
    (folder / "table").mkdir()
    write_invented(folder / "table", invented_members())
    rows = [{"example_id": f"r{number}", "prompt": f"Who {number}?", "completion": f"Nobody {number}."} for number in range(4)]
    register(folder / "registration.json", forget_set=rows)
    simulated_table(records=20, controls=20).save(folder / "scores.parquet")
    listed = SuppressionList()
    listed.subjects |= {f"{number:032x}" for number in range(9)}
    listed.save(folder / "suppressed.jsonl")
    Canaries(random.Random(0).randbytes(32), 3, "0" * 64).save(folder / "canaries.json")
    new_token(folder / "tokens", "shop")
    copy_templates(folder / "letters")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rows.csv").write_text("example_id,prompt,completion\nr1,Who?,Nobody.\n")

    def of(place: Path, *names: str) -> dict[str, bytes]:
        return {name: (place / name).read_bytes() for name in names}

    proof, commitment = proof_about(Evidence.load(SAMPLE / "evidence.json")), TrainingCommitment.of(trained)
    return {
        "certificate": Kind(
            {"certificate.json": sample["certificate"]}, lambda at: check_certificate(at / "certificate.json", keys)
        ),
        "deletion record": Kind({"deletion.json": sample["deletion"]}, lambda at: DeletionRecord.load(at / "deletion.json")),
        "evidence": Kind({"evidence.json": sample["evidence"]}, lambda at: Evidence.load(at / "evidence.json")),
        "registration": Kind(of(folder, "registration.json"), lambda at: Registration.load(at / "registration.json")),
        "table of scores": Kind(of(folder, "scores.parquet"), lambda at: ScoreTable.load(at / "scores.parquet")),
        "level table": Kind(
            of(folder / "table", *(path.name for path in sorted((folder / "table").iterdir()))),
            lambda at: [table := LevelTable.open(at), table.losses(table.controls(), "exact text")],
        ),
        "proof of a re-execution": Kind({"proof.json": proof.text().encode()}, lambda at: Reexecution.load(at / "proof.json")),
        "commitment to a training": Kind(
            {"commitment.json": commitment.text().encode()}, lambda at: TrainingCommitment.load(at / "commitment.json")
        ),
        "training log": Kind(of(trained, LOG_NAME), lambda at: TrainingLog.read(at / LOG_NAME)),
        "suppression list": Kind(of(folder, "suppressed.jsonl"), lambda at: SuppressionList.load(at / "suppressed.jsonl")),
        "canaries": Kind(of(folder, "canaries.json"), lambda at: Canaries.load(at / "canaries.json")),
        "tokens of callers": Kind(of(folder, "tokens"), lambda at: Tokens.load(at / "tokens")),
        "letter templates": Kind(of(folder / "letters", "company.yaml", "de.yaml"), lambda at: load_words("de", at)),
        "training rows": Kind(
            of(folder, "rows.jsonl", "rows.csv"), lambda at: [load_records(str(path)) for path in at.iterdir()], names_columns=True
        ),
    }


def feed_document(kind: Kind, examples: int, folder: Path) -> int:
    """Give the reader of a kind of document a number of spoiled ones; how many it was given.

    Raises:
        AssertionError: it raised something else than an InputError, or its message repeats what was put in.
    """
    folder.mkdir()
    count, names = 0, sorted(kind.files)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(data=st.data())
    def attempt(data: st.DataObject) -> None:
        nonlocal count
        name = names[data.draw(st.integers(0, len(names) - 1))]
        for other in names:
            (folder / other).write_bytes(kind.files[other])
        (folder / name).write_bytes(_changed(data, name, kind.files[name]))
        count += 1
        said = _refusal(kind, folder)
        assert kind.names_columns or MARK not in said, "what is in a file is repeated"

    attempt()
    return count


def _refusal(kind: Kind, folder: Path) -> str:
    """What a reader says of a document that it refuses; nothing of one that it takes."""
    try:
        kind.take(folder)
    except InputError as refused:
        return str(refused)
    return ""


def _changed(data: st.DataObject, name: str, content: bytes) -> bytes:
    """The content of a file, spoiled: its bytes, or in the smaller JSON files a value."""
    if name.endswith(".json") and len(content) <= LARGEST_JSON and data.draw(st.booleans()):
        return json.dumps(put(json.loads(content), *data.draw(place_and_value()))).encode("utf-8", "surrogatepass")
    return data.draw(spoiled(content))
