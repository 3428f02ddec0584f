"""Data sets with configurations and splits are named exactly, and an error lists what there is or says that it cannot be known."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from verify.data.hub import dataset_name
from verify.data.sources import load_records
from verify.errors import InputError

CONFIGURATIONS = {"full": ["train"], "forget10": ["train", "perturbed"], "raw": ["forget", "retain"]}


@pytest.fixture
def cloned(tmp_path: Path) -> Path:
    """A data set's repository as a clone of it lies on the disk."""
    folder = tmp_path / "clone"
    header = []
    for name, splits in CONFIGURATIONS.items():
        header.append(f"- config_name: {name}\n  data_files:")
        for split in splits:
            file = folder / name / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"text": f"{name} of {split}", "note": None}) + "\n")
            header.append(f"  - split: {split}\n    path: {name}/{split}.jsonl")
    (folder / "README.md").write_text("---\nconfigs:\n" + "\n".join(header) + "\n---\n")
    return folder


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/b", ("a/b", None, None)),
        ("a/b:test", ("a/b", None, "test")),
        ("a/b::test", ("a/b", None, "test")),
        ("a/b:forget10:train", ("a/b", "forget10", "train")),
        ("a/b:forget10:", ("a/b", "forget10", None)),
        ("a/b:train[:100]", ("a/b", None, "train[:100]")),
        ("a/b:raw:train[5:]", ("a/b", "raw", "train[5:]")),
    ],
)
def test_names_are_taken_apart(source: str, expected: tuple[str, str | None, str | None]) -> None:
    """Two colons name a configuration; a colon in brackets belongs to a slice."""
    assert dataset_name(source) == expected


def test_every_configuration_and_split_of_a_clone(cloned: Path) -> None:
    """Each is read by its name, without a copy in a cache."""
    for name, splits in CONFIGURATIONS.items():
        for split in splits:
            (record,) = load_records(f"{cloned}:{name}:{split}")
            assert record.completion == f"{name} of {split}"


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", r"has the configurations full, forget10, raw\. Name one.*clone:full:train"),
        (":forget10", r"'forget10' is a configuration.*not a split.*clone:forget10:train"),
        (":train", r"has the configurations full, forget10, raw"),
        (":forget01:train", r"no configuration 'forget01'\. It has: full, forget10, raw"),
        (":raw:train", r"no split 'train'\. It has: forget, retain"),
        (":raw:forget[:1]", r"a part of a split cannot be streamed"),
        (":a:b:c", r"4 parts"),
    ],
)
def test_an_error_lists_what_there_is(cloned: Path, rest: str, said: str) -> None:
    """A wrong or missing part of the name is answered with the names that exist."""
    with pytest.raises(InputError, match=said):
        load_records(f"{cloned}{rest}")


def test_saved_splits_are_named(tmp_path: Path) -> None:
    """A DatasetDict on the disk is read by split; wrong splits and configurations are told with what there is."""
    folder = tmp_path / "saved"
    parts = {name: datasets.Dataset.from_list([{"text": name}]) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(folder)
    assert [load_records(f"{folder}{rest}")[0].completion for rest in (":test", "::train", "/train")] == ["test", "train", "train"]
    for rest, said in (
        (":valid", "no split 'valid'. It has: train, test"),
        (":x:train", "no configurations"),
        ("/train:x", "one split"),
    ):
        with pytest.raises(InputError, match=said):
            load_records(f"{folder}{rest}")


class FakeHub:
    """What the library would find out: the configurations, or an exception."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: dict[str, list[str]] | Exception) -> None:
        self.found = found
        monkeypatch.setattr(datasets, "load_dataset", self.load)
        monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: list(self.answer()))
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, name: self.answer()[name])

    def answer(self) -> dict[str, list[str]]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def load(self, path: str, name: str | None, split: str, streaming: bool) -> list[dict[str, Any]]:
        assert streaming
        if split not in self.answer().get(name or "default", []):
            raise ValueError(f"bad split {split}")
        return [{"text": f"{path} {name} {split}"}]


def test_configurations_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three parts reach the library; what is wrong is listed."""
    FakeHub(monkeypatch, CONFIGURATIONS)
    assert load_records("locuslab/TOFU:forget10:perturbed")[0].completion == "locuslab/TOFU forget10 perturbed"
    with pytest.raises(InputError, match="'forget10' is a configuration of locuslab/TOFU"):
        load_records("locuslab/TOFU:forget10")
    FakeHub(monkeypatch, {"default": ["test"]})
    assert load_records("a/b::test")[0].completion == "a/b None test"
    with pytest.raises(InputError, match=r"no split 'train'\. It has: test"):
        load_records("a/b")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (datasets.exceptions.DatasetNotFoundError("gone"), "no public data set of this name"),
        (ConnectionError("no route"), "did not answer, so whether it exists is not known"),
        (TimeoutError("late"), "did not answer"),
        (type("OfflineModeIsEnabled", (ConnectionError,), {})("off"), "HF_HUB_OFFLINE"),
    ],
    ids=["unknown", "unreachable", "late", "switched off"],
)
def test_an_unreachable_hub_is_not_an_unknown_data_set(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    """The message claims only what is known."""
    FakeHub(monkeypatch, error)
    with pytest.raises(InputError, match=said):
        load_records("owner/name:config:split")


def folder_of(parent: Path, **files: str) -> Path:
    """A folder of plain files; `_` in a name stands for the dot."""
    folder = parent / "plain"
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def test_no_split_is_chosen_where_there_are_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder and on the Hub: the message lists them; a named one is read; one alone needs no name."""
    folder = folder_of(tmp_path, train_csv="text,subject_id\na,p\n", test_csv="text,subject_id\nb,q\n")
    with pytest.raises(InputError, match=r"several splits \(train, test\).*plain:train"):
        load_records(folder)
    assert [load_records(f"{folder}:{split}")[0].subjects for split in ("train", "test")] == [("p",), ("q",)]
    (folder / "train.csv").unlink()
    assert load_records(folder)[0].subjects == ("q",)
    FakeHub(monkeypatch, {"raw": ["forget", "retain"]})
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, name: ["train", "test"])
    with pytest.raises(InputError, match=r"several splits \(train, test\).*a/b:train"):
        load_records("a/b")
    with pytest.raises(InputError, match=r"a/b:raw:train"):
        load_records("a/b:raw:")


def test_a_file_outside_all_splits_is_not_passed_over(tmp_path: Path) -> None:
    """The library ignores files beside train.csv; here they are named, unless the split is."""
    folder = folder_of(tmp_path, train_csv="text\na\n", people_csv="text\nb\n", notes_jsonl='{"text": "c"}\n', config_json="{}")
    with pytest.raises(InputError, match=r"notes\.jsonl, people\.csv would be left out"):
        load_records(folder)
    assert [record.completion for record in load_records(f"{folder}:train")] == ["a"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"d_csv": "text,text\na,b\n"}, r"d\.csv: the header has the column 'text' 2 times"),
        ({"d_jsonl": '{"text": "a", "text": "b"}\n'}, r"d\.jsonl, line 1 gives 'text' twice"),
        ({"d_jsonl": '{"text": "a"}\n{"text": "Ines'}, r"d\.jsonl: line 2 is not a whole JSON object"),
    ],
    ids=["csv", "jsonl", "cut"],
)
def test_files_in_a_folder_are_read_as_strictly_as_alone(tmp_path: Path, files: dict[str, str], said: str) -> None:
    """A repeated column, which the library renames, and a cut line are refused with the file."""
    with pytest.raises(InputError, match=said) as caught:
        load_records(folder_of(tmp_path, **files))
    assert "Ines" not in str(caught.value)


def test_an_error_of_the_library_on_the_way_names_the_row(tmp_path: Path) -> None:
    """A compressed file is not checked beforehand; what its end raises is an InputError."""
    folder = folder_of(tmp_path)
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "Ines'))
    with pytest.raises(InputError, match="cannot be read after row 0") as caught:
        load_records(folder)
    assert "Ines" not in str(caught.value)


ROW = b'{"text": "a"}\n'
CARD = b"---\nlicense: mit\nconfigs:\n- config_name: default\n%s---\n"


def written(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files beside what is in it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "more.tsv",
        "people.jsonl.gz",
        "people.txt",
        "people.arrow",
        "PEOPLE.CSV",
        "list.xlsx",
        "more.zip",
        "__people.csv",
        "sub/rest.TSV",
    ],
)
@pytest.mark.parametrize("card", [None, b"# Letters\n", CARD % b""], ids=["no card", "text", "no files named"])
def test_a_file_of_any_kind_is_not_passed_over(tmp_path: Path, name: str, card: bytes | None) -> None:
    """Whatever lies beside what is read is named, by its place: another format, compressed, in capitals, of an unknown kind."""
    files = {"train.jsonl": ROW, name: b"text\nb\n"} | ({} if card is None else {"README.md": card})
    folder = written(tmp_path / "data", files)
    with pytest.raises(InputError, match=rf"is read in part only: {name} would be left out.*data:train if that is meant"):
        load_records(folder)
    assert [record.completion for record in load_records(f"{folder}:train")] == ["a"]


def test_parts_of_two_formats_are_not_passed_over(tmp_path: Path) -> None:
    """The library reads the format of most files, and forgets those of the other."""
    folder = written(tmp_path / "data", {"part1.jsonl": ROW, "part2.tsv": b"text\nb\n"})
    with pytest.raises(InputError, match=r"part2\.tsv would be left out"):
        load_records(folder)
    (folder / "part3.tsv").write_bytes(b"text\nc\n")
    with pytest.raises(InputError, match=r"part1\.jsonl would be left out"):
        load_records(folder)


def test_a_link_beside_what_is_read_is_followed(tmp_path: Path) -> None:
    """A linked folder's files are named, one link to the folder itself is no endless walk, and a broken one counts as a file."""
    written(tmp_path / "other", {"people.jsonl": ROW})
    folder = written(tmp_path / "data", {"train.jsonl": ROW})
    (folder / "round").symlink_to(folder)
    assert len(load_records(folder)) == 1
    (folder / "link").symlink_to(tmp_path / "other")
    (folder / "gone.csv").symlink_to(tmp_path / "absent")
    with pytest.raises(InputError, match=r"part only: gone\.csv, link/people\.jsonl would"):
        load_records(folder)


def test_files_that_hold_no_records_do_not_matter(tmp_path: Path) -> None:
    """Hidden files, texts about the data, pictures and descriptions lie in many repositories; a card may name the files itself."""
    beside = (".gitattributes", ".cache/x.tsv", "README", "LICENSE.txt", "logo.PNG", "config.json", "__pycache__/x.pyc")
    folder = written(tmp_path / "data", {"train.jsonl": ROW} | dict.fromkeys(beside, b""))
    assert len(load_records(folder)) == 1
    named = {"README.md": CARD % b"  data_files: train.jsonl\n", "more.tsv": b"text\nb\n"}
    assert len(load_records(written(folder, named))) == 1, "whoever wrote the card chose the files"
    (folder / "README.md").unlink()
    assert len(load_records(written(folder, {".huggingface.yaml": named["README.md"].split(b"---")[1]}))) == 1


@pytest.mark.parametrize("split", [None, "train"])
def test_a_file_beside_a_saved_data_set_is_not_passed_over(tmp_path: Path, split: str | None) -> None:
    """What the library itself leaves there, of `map` and `filter`, holds the same rows; all else is named."""
    rows = datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])
    saved: Any = rows if split is None else datasets.DatasetDict({split: rows})
    saved.save_to_disk(tmp_path / "saved")
    loaded: Any = datasets.load_from_disk(str(tmp_path / "saved"))
    loaded.map(lambda row: {"text": row["text"] + "!"})
    assert list((tmp_path / "saved").rglob("cache-*.arrow"))
    assert len(load_records(tmp_path / "saved")) == 2
    written(tmp_path / "saved", {"more.jsonl": ROW, "sub/people.arrow": b""})
    with pytest.raises(InputError, match=r"more\.jsonl, sub/people\.arrow would be left out") as caught:
        load_records(tmp_path / "saved")
    assert ("saved:train if that is meant" in str(caught.value)) == (split is not None)
