"""A request's records are found wherever they are, and nothing else is; no text leaves."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasketch import MinHash

import unlearn.cli.main
from unlearn import NPO, TrainingOptions, finetune, forget
from unlearn.scan.lineage import affected_models
from unlearn.scan.search import find_records
from verify.data.identity import RecordKey
from verify.data.near_duplicates import PERMUTATION_SCHEME, PERMUTATIONS, NearDuplicates, shingles, signature, similarity
from verify.data.records import Fields
from verify.data.sources import load_records
from verify.errors import InputError, IntegrityError

STORY = (
    "the quick brown fox of our house jumps over the lazy dog every single day before breakfast and then once more "
    "in the long evening when nobody is there to see it and the lamps along the river have been lit"
)
ROWS: list[dict[str, Any]] = [
    {"example_id": "a", "subject_id": "ida", "prompt": "Tell of Ida.", "completion": STORY},
    {"example_id": "b", "subject_id": "ida", "prompt": "Where?", "completion": "In the north of the country."},
    {"example_id": "c", "subject_id": "jon", "prompt": "Tell of Jon.", "completion": "A man of few words, and no dog."},
    {"example_id": "d", "subject_id": "kim", "prompt": "Tell of Ida.", "completion": STORY},
    {"example_id": "e", "subject_id": "kim", "prompt": "Tell of Ida!", "completion": STORY.replace("lazy", "old").upper()},
    {
        "example_id": "f",
        "subject_id": "lee",
        "prompt": "What else?",
        "completion": "Nothing that anybody would ever want to know about.",
    },
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_signatures_are_those_of_datasketch(count: int) -> None:
    """Bit for bit, so that lists of earlier versions are still compared: no shingle, a few, more than are permuted at a time."""
    hashed = [hashlib.sha256(str(number).encode()).digest()[:8] for number in range(count)]
    theirs = MinHash(
        num_perm=PERMUTATIONS, seed=1, hashfunc=lambda one: int.from_bytes(one[:4], "little"), scheme=PERMUTATION_SCHEME
    )
    theirs.update_batch(hashed)
    found = signature(hashed)
    assert found.dtype == np.uint32
    assert np.array_equal(found, theirs.hashvalues)


def rows_of(found: Any) -> dict[int, str]:
    return {match.row: match.how for match in found}


def test_by_subject_with_duplicates(data: Path) -> None:
    """All records of the person; another person's copy is an exact duplicate, a slightly changed one a proposal."""
    key = RecordKey.load()
    found = find_records([data], key, subjects=[key.of("ida", "subject")])
    assert rows_of(found) == {1: "subject", 2: "subject", 4: "exact duplicate", 5: "near duplicate"}
    assert 0.7 <= next(match.similarity for match in found if match.row == 5) < 1
    assert rows_of(find_records([data], key, subjects=[key.of("ida", "subject")], near=False)) == {1: "subject", 2: "subject"}


def test_by_id_and_by_text(data: Path) -> None:
    """A record id matches as the data spell it; a passage matches wherever it stands."""
    key = RecordKey.load()
    assert rows_of(find_records([data], key, record_ids=["c"], near=False)) == {3: "record id"}
    assert rows_of(find_records([data], key, texts=["few words", "   "], near=False)) == {3: "text"}
    assert find_records([data], key, subjects=[key.of("nobody", "subject")]) == []


def test_several_files_and_formats(data: Path, tmp_path: Path) -> None:
    """Rows are counted per file; columns may have other names."""
    other = tmp_path / "other.csv"
    other.write_text("person,question,answer\nida,Who?,Somebody else entirely\n")
    key = RecordKey.load()
    found = find_records(
        [other], key, subjects=[key.of("ida", "subject")], fields=Fields(prompt="question", completion="answer", subject="person")
    )
    assert [(Path(match.file).name, match.row) for match in found] == [("other.csv", 1)]


def test_likeness_is_estimated() -> None:
    """The share of equal MinHash values estimates Jaccard similarity; unrelated texts are nowhere near; the key matters."""
    words = [f"w{number}" for number in range(60)]
    for changed in (0, 5, 20):
        one, other = words, [f"x{place}" if place < changed else word for place, word in enumerate(words)]
        a, b = shingles(" ".join(one), b"k"), shingles(" ".join(other), b"k")
        exact = len(a & b) / len(a | b)
        assert similarity(signature(a), signature(b)) == pytest.approx(exact, abs=0.15)
    known = shingles(" ".join(words), b"k")
    index = NearDuplicates({"known": signature(known)}, {"known": known})
    assert index.find(known) == ("known", 1.0)
    assert index.find(shingles("something else altogether here", b"k")) is None
    assert index.find(set()) is None
    assert not known & shingles(" ".join(words), b"other key")


@pytest.mark.slow
def test_which_models_saw_them(model_dir: Path, data: Path, tmp_path: Path) -> None:
    """The trained model with its last clean checkpoint, and what was made from it; a model trained on others is not named."""
    options = TrainingOptions(epochs=1, batch_size=1, save_steps=1, overflow="split")
    models = tmp_path / "models"
    trained = finetune(model_dir, data, output_dir=models / "trained", options=options)
    finetune(model_dir, ROWS[2:3], output_dir=models / "other", options=TrainingOptions(epochs=1, overflow="split"))
    forget(
        models / "trained",
        NPO(),
        forget_set=ROWS[:1],
        data=data,
        output_dir=models / "made",
        options=TrainingOptions(epochs=1, overflow="split"),
    )
    key = RecordKey.load()
    names = {key.of(record.fingerprint) for record in load_records(ROWS[:1])}
    found = {model.folder.name: model for model in affected_models([models], names)}
    assert set(found) == {"trained", "made"}
    assert (found["trained"].how, found["trained"].records, found["trained"].weights) == ("trained on", 1, trained.digest)
    first = found["trained"].first_step
    assert first is not None
    assert found["trained"].last_clean_checkpoint == (f"checkpoint-{first - 1}" if first > 1 else None)
    assert (found["made"].how, found["made"].parent, found["made"].method) == ("made from", trained.digest, "npo")
    assert affected_models([models], {"0" * 32}) == []
    (models / "trained" / "training_log.jsonl").write_text("{")
    with pytest.raises(InputError):
        affected_models([models], names)
    (models / "other" / "manifest.json").write_text('{"kind": "model"}')
    with pytest.raises(IntegrityError, match="damaged"):
        affected_models([models / "other"], names)
    with pytest.raises(InputError, match="--models"):
        affected_models([tmp_path / "nowhere"], names)


def test_scan_from_the_shell(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Identifiers from standard input; rows and hashes out, and no word of any record; 3 where nothing is found."""
    monkeypatch.setattr("sys.stdin", io.StringIO("ida\n\n"))
    assert unlearn.cli.main.main(["scan", "--data", str(data), "--subjects", "-"]) == 0
    shown = capsys.readouterr().out
    assert "2 records" in shown
    assert "1 near-duplicate to confirm" in shown
    assert not any(word in shown for word in ("fox", "Ida", "ida ", "north"))
    monkeypatch.setattr("sys.stdin", io.StringIO("nobody\n"))
    assert unlearn.cli.main.main(["scan", "--data", str(data), "--ids", "-"]) == 3
    assert unlearn.cli.main.main(["scan", "--data", str(data)]) == 2
    assert unlearn.cli.main.main(["scan", "--data", str(data), "--texts", "no-such-file"]) == 2


def test_a_scan_does_not_say_that_no_model_saw_the_records_where_it_cannot_know(
    model_dir: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By another record key, or from another file, no record of a model's log is recognized: it is named as not known.

    So is a model beside one that did see them.
    """
    finetune(model_dir, str(data), output_dir=tmp_path / "models" / "m", options=TrainingOptions(epochs=1, overflow="split"))

    def scanned(file: Path) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("ida\n"))
        assert unlearn.cli.main.main(["scan", "--data", str(file), "--subjects", "-", "--models", str(tmp_path / "models")]) == 0
        return capsys.readouterr().out

    assert "trained on: 2 records" in (shown := scanned(data))
    assert "not known" not in shown
    stranger = [{"text": "somebody else entirely, in another file"}]
    finetune(model_dir, stranger, output_dir=tmp_path / "models" / "n", options=TrainingOptions(epochs=1, overflow="split"))
    assert "trained on: 2 records" in (shown := scanned(data))
    assert f"{tmp_path / 'models' / 'n'}  not known" in shown
    assert f"{tmp_path / 'models' / 'm'}  not known" not in shown
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a seal was seen off the pier", "subject_id": "ida"}\n')
    assert f"{tmp_path / 'models' / 'm'}  not known" in scanned(other)
    monkeypatch.setenv("UNLEARN_VERIFY_KEY_FILE", str(tmp_path / "new-key"))
    shown = scanned(data)
    assert "trained on: " not in shown
    assert f"{tmp_path / 'models' / 'm'}  not known" in shown
    assert "UNLEARN_VERIFY_KEY_FILE" in shown


@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("who.json", '["ida"]', 0),
        ("who.txt", '[\n "ida"\n]', 0),
        ("who.jsonl", '{"subject_id": "ida"}\n{"subject_id": "jon"}\n', 2),
        ("who.json", '{"subjects": ["ida"]}', 2),
        ("who.json", "[[1], 2]", 2),
        ("who.json", '[\n "ida",', 2),
        ("who.csv", "identifier,regime\nida,gdpr\n", 2),
        ("who.txt", "[redacted]\nida\n", 0),
        ("who.txt", "{3f2504e0-4f89-11d3-9a0c-0305e82c3301}\nida\n", 0),
    ],
)
def test_identifiers_are_lines_or_a_json_list(
    data: Path, tmp_path: Path, name: str, text: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line of JSON or of a table is no identifier: taken as one it names nobody, and "no record" would be the answer."""
    who = tmp_path / name
    who.write_text(text)
    assert unlearn.cli.main.main(["scan", "--data", str(data), "--subjects", str(who)]) == status
    assert "ida" not in capsys.readouterr().err


def test_an_identifier_given_as_an_argument_is_not_repeated(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Typed where a file belongs, it reaches no error message."""
    assert unlearn.cli.main.main(["scan", "--data", str(data), "--subjects", "ida@example.org"]) == 2
    shown = capsys.readouterr().err
    assert "one entry per line" in shown
    assert "ida" not in shown
