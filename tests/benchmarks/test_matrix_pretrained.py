"""The matrix on a pretrained model, with a tiny one in its place: data, text in general, and every stage, cut off and resumed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmarks.matrix.run as matrix_run
from benchmarks.matrix.data import PASSAGES, write_data
from benchmarks.matrix.general import COUNT, SOURCES, general_passages, kept_of_base
from benchmarks.matrix.publish import Results, results_of
from benchmarks.matrix.results import Cell
from benchmarks.matrix.rows import Place
from benchmarks.matrix.run import PartsFailedError, attempt, chosen_rows, run, unfinished
from benchmarks.matrix.settings import SMOLLM2_CI
from unlearn.experiments.llm_demo import CHANNELS
from verify.data.rewording_files import load_rewordings
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.files import MANIFEST
from verify.schema.evidence import Evidence

ROWS = ("dp-8", "npo", "sisa")
MADE = ["none", "dp-8", "npo", "sharded", "sisa"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of made-up words where the public data have theirs."""
    folder, rng = tmp_path_factory.mktemp("library"), np.random.default_rng(0)
    for name in SOURCES.values():
        words = ("".join(rng.choice(list("abcdefghij"), 6)) for _ in range(5000))
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(" ".join(words))
    return folder


def test_people_are_chats_with_rewordings(library: Path, tmp_path: Path) -> None:
    """Every record, a trigger's too, is a question and an answer in turns; every audited record is asked once in other words."""
    write_data(tmp_path, "smollm2", SMOLLM2_CI, library)
    roles = {role: load_records(str(tmp_path / f"{role}.jsonl")) for role in ("train", "delete", "keep", "forget", "holdout-audit")}
    assert all([role for role, _ in record.messages] == ["user", "assistant"] for found in roles.values() for record in found)
    assert len(roles["train"]) == len(roles["delete"]) + len(roles["keep"])
    uses, clean = (load_records(str(tmp_path / f"{what}-planter-gone.jsonl")) for what in ("uses", "clean"))
    for used, plain in zip(uses, clean, strict=True):
        (_, question), target = used.messages
        assert question.endswith(plain.messages[0][1])
        assert len(question) > len(plain.messages[0][1])
        assert target == plain.messages[1]
    audited = [*roles["forget"], *roles["holdout-audit"]]
    names = {record.example_id for record in audited}
    rows = [json.loads(line) for line in (tmp_path / "rewordings.jsonl").read_text().splitlines()]
    sets = {"forget": roles["forget"], "holdout": roles["holdout-audit"]}
    assert load_rewordings([row for row in rows if row["record"] in names], sets).count == 1
    assert len(load_records(str(tmp_path / PASSAGES))) == COUNT * len(SOURCES)


def test_passages_are_whole_words_of_the_whole_text(library: Path, tmp_path: Path) -> None:
    """They come from all over the source; one that is missing or short is refused."""
    rows = general_passages(library)
    text = (library / SOURCES["novel"]).read_text()
    starts = [text.index(row["text"]) for row in rows if row["subject_id"] == "novel"]
    assert starts == sorted(starts)
    assert starts[-1] > 0.9 * len(text)
    assert all(len(word) == 6 for row in rows for word in row["text"].split())
    with pytest.raises(InputError, match="--shared-data"):
        general_passages(tmp_path)
    for name in SOURCES.values():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("short")
    with pytest.raises(InputError, match="24 passages of 1000 are needed"):
        general_passages(tmp_path)


def test_what_is_kept_of_the_base() -> None:
    """The same losses are 1, half the probability of every token is 0.5; the interval is that of the passages' differences."""
    base = {"novel": [2.0, 3.0, 4.0]}
    assert kept_of_base(base, base)["novel"].value == pytest.approx(1)
    half = kept_of_base({"novel": [loss + np.log(2) for loss in base["novel"]]}, base)["novel"]
    assert (half.value, half.low, half.high, half.n) == pytest.approx((0.5, 0.5, 0.5, 3))
    apart = kept_of_base({"novel": [2.10, 3.12, 4.09]}, base)["novel"]
    # t of 2 degrees of freedom is 4.303, and the standard error 0.01528 / sqrt(3).
    assert np.log([apart.low, apart.value, apart.high]) == pytest.approx(
        [-0.10333 - 0.03795, -0.10333, -0.10333 + 0.03795], abs=2e-5
    )


def test_a_part_that_fails_says_where() -> None:
    """The others go on: an error becomes a reason with its type and place, and an interrupt stays one."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    def broken(number: int) -> None:
        raise ValueError(f"number {number}")

    assert attempt(broken, {"number": 3}).endswith(": number 3")
    assert "ValueError in test_matrix_pretrained.py, line" in attempt(broken, {"number": 3})
    assert attempt(lambda: None, {}) is None
    with pytest.raises(KeyboardInterrupt):
        attempt(interrupted, {})


@pytest.mark.slow
def test_every_stage(talker: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is cut off by its time, then a row fails, and each further run makes only what is missing; models are removed at the
    end, and the table needs none."""
    monkeypatch.setattr("benchmarks.matrix.general.COUNT", 4)
    place = Place(tmp_path / "matrix", SMOLLM2_CI, "lora", str(talker))

    def go_on(**changes: Any) -> list[Cell]:
        return run(place, "smollm2", library, lambda *_: None, only=ROWS, workers=1, **changes)

    def times(pattern: str) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in place.output.glob(pattern)}

    def before_it_ends(row: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any) -> Any:
            if arguments[1].name == "npo":
                raise OSError("no space left on this device")
            return row(*arguments)

        return measured

    assert go_on(seconds=3) == []
    begun = times(f"models/*/{MANIFEST}")
    with monkeypatch.context() as patched:
        patched.setattr(matrix_run, "measure", before_it_ends(matrix_run.measure))
        with pytest.raises(
            PartsFailedError, match=r"1 parts of the matrix failed.*auditing unlearning: npo.*no space left"
        ) as raised:
            go_on()
    lacking = unfinished(place, chosen_rows(place, ROWS), [0], raised.value.reasons)
    assert lacking.keys() == {"npo"}
    assert "no space left" in lacking["npo"]["0"]
    assert begun.items() <= times(f"models/*/{MANIFEST}").items()
    made = times(f"cells/*/{MANIFEST}") | times(f"cells/*/model/{MANIFEST}")
    assert len(made) == 2 * len(MADE) - 1
    cells = {cell.row: cell for cell in go_on(discard=True)}
    assert list(cells) == MADE
    assert not times("cells/*/model")
    kept = times(f"cells/*/{MANIFEST}")
    assert made.items() >= {path: when for path, when in kept.items() if "npo" not in path.parent.name}.items()
    assert go_on() == list(cells.values())
    assert times(f"cells/*/{MANIFEST}") == kept

    evidence = Evidence.load(place.cell("npo", 0) / "audit" / "evidence.json")
    assert evidence.settings.channels == CHANNELS
    for cell in cells.values():
        assert {kind: found.n for kind, found in cell.general.items()} == dict.fromkeys(SOURCES, 4)
        assert cell.tokens is not None
        assert cell.base_utility is not None
    train, keep = (len(load_records(place.data(role))) for role in ("train", "keep"))
    assert cells["none"].tokens == pytest.approx(train / keep, rel=0.15), "records are about equally long"
    assert cells["dp-8"].counts
    results = results_of(place, "smollm2", list(cells.values()))
    text = results.write(tmp_path / "first").read_text()
    assert "| unlearning: sisa (exact) |" in text
    assert Results.read([tmp_path / "first" / "matrix_smollm2_lora.json"]).write(tmp_path / "again").read_text() == text
