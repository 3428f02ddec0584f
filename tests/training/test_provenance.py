"""The training log: whole, private, and refused where it is not what it says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearn import TrainingOptions, finetune
from unlearn.training.log import LOG_NAME, SCHEMA, LogWriter, TrainingLog, require_in_log
from verify import InputError
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.provenance.training_log import Stretch


@pytest.fixture(scope="module")
def trained(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training_rows import make_rows

    output = tmp_path_factory.mktemp("log") / "out"
    options = TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=4, save_steps=2)
    finetune(model_dir, make_rows("train", 10), output_dir=output, options=options)
    return output


def test_it_says_what_happened(trained: Path) -> None:
    """Every record once an epoch, in the logged microbatches; checkpoints are there and named; the last line is the weights."""
    log = TrainingLog.read(trained / LOG_NAME)
    assert [batch.number for batch in log.microbatches] == list(range(6))
    for epoch in range(2):
        seen = [index for batch in log.microbatches[3 * epoch : 3 * epoch + 3] for index in batch.records]
        assert sorted(seen) == list(range(10))
    assert [step for step, _ in log.checkpoints] == [2, 4, 6]
    assert all((trained / folder).is_dir() for step, folder in log.checkpoints if step > 2), "the last two are kept"
    assert log.final_weights == json.loads((trained / "manifest.json").read_text())["about"]["weights"]


def test_it_names_nobody(trained: Path, rows: Callable[..., Any]) -> None:
    """No text, name or identifier in any file of the output, and no pickle that a reader would have to execute: those of the
    checkpoints hold tensors and numbers alone."""
    needles = [part.encode() for row in rows("train", 10) for part in (row["example_id"], row["subject_id"], row["completion"])]
    needles += [b"trainville", b"Zebedee"]
    for path in trained.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [needle for needle in needles if needle in content], path.name
    pickles = [path for path in trained.rglob("*") if path.suffix in (".pt", ".bin", ".pkl", ".pth")]
    assert {path.name for path in pickles} == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    for path in pickles:
        assert path.parent.name.startswith("checkpoint-")
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        assert not [name for name in named if not name.startswith("numpy.")], path.name


def test_records_are_found_in_it(trained: Path, rows: Callable[..., Any]) -> None:
    """Trained records are in the log under the key, others are not, and under another key none is."""
    log, key = TrainingLog.read(trained / LOG_NAME), RecordKey.load()
    require_in_log(load_records(rows("train", 10)), log, key)
    with pytest.raises(InputError, match=r"2 of 2 forget records \(rows 1, 2\)"):
        require_in_log(load_records(rows("other", 2)), log, key)
    with pytest.raises(InputError, match="restore the key file"):
        require_in_log(load_records(rows("train", 1)), log, RecordKey(b"x" * 32))


def test_a_cut_last_line_belongs_to_a_killed_run(trained: Path, tmp_path: Path) -> None:
    """A log that was cut off in its last line reads as an unfinished run; one cut earlier or edited is refused."""
    text = (trained / LOG_NAME).read_text()
    path = tmp_path / LOG_NAME
    path.write_text(text[:-30])
    assert TrainingLog.read(path).final_weights is None
    lines = text.splitlines()
    for broken in (
        [lines[0], lines[1][:20], *lines[2:]],
        lines[1:],
        [lines[0].replace("/1", "/9"), *lines[1:]],
        [lines[0], *lines[2:]],
    ):
        path.write_text("\n".join(broken) + "\n")
        with pytest.raises(InputError, match="log"):
            TrainingLog.read(path)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]\n[]", b"\xff\xfe", b"[" * 10_000, b'{"schema": "unlearn-verify/training-log/1"}']
)
def test_damaged_logs(tmp_path: Path, content: bytes) -> None:
    """Empty, binary, hostile: a clear error."""
    path = tmp_path / LOG_NAME
    path.write_bytes(content)
    with pytest.raises(InputError):
        TrainingLog.read(path)


def test_a_resumed_run_says_what_made_which_steps(tmp_path: Path) -> None:
    """The header keeps the software of the first steps; what was resumed with other software has an entry of its own, once."""

    def writer(**software: str) -> LogWriter:
        return LogWriter(tmp_path / LOG_NAME, {**header, **({"execution": software} if software else {})})

    def steps(log: LogWriter, after: int, until: int) -> None:
        log.begin(after)
        for number in range(after, until):
            log.microbatch(number, number + 1, [0], 0, 0.1)
            log.step()
            log.checkpoint(number + 1, f"checkpoint-{number + 1}", number + 1, None)

    options = {"schema": SCHEMA, "options": {}, "records": ["0" * 32], "subjects": [None]}
    header: dict[str, Any] = {**options, "tokenizer": "0" * 64, "start_weights": "0" * 64}
    steps(writer(torch="1"), 0, 3)
    steps(writer(torch="1"), 2, 4)
    assert TrainingLog.read(tmp_path / LOG_NAME).stretches == (Stretch(0, {"torch": "1"}),), "the same software needs no entry"
    writer(torch="2").begin(3)  # killed before its first step
    steps(writer(torch="3"), 3, 6)
    steps(writer(torch="3"), 5, 6)
    steps(writer(torch="1"), 4, 6)
    log = TrainingLog.read(tmp_path / LOG_NAME)
    assert log.stretches == (Stretch(0, {"torch": "1"}), Stretch(3, {"torch": "3"}), Stretch(4, {"torch": "1"}))
    assert [entry.number for entry in log.microbatches] == list(range(6))
    assert [step for step, _ in log.checkpoints] == [1, 2, 3, 4, 5, 6]
    steps(writer(torch="2"), 0, 1)
    assert TrainingLog.read(tmp_path / LOG_NAME).stretches == (Stretch(0, {"torch": "2"}),), "begun again, nothing is left of it"
    steps(LogWriter(tmp_path / LOG_NAME, {**header, "execution": {}}), 0, 2)
    steps(writer(torch="2"), 2, 3)
    assert TrainingLog.read(tmp_path / LOG_NAME).stretches == (Stretch(0, {}), Stretch(2, {"torch": "2"})), "unknown stays unknown"
    text = (tmp_path / LOG_NAME).read_text()
    for wrong in (text.replace('"resumed": 2', '"resumed": 1'), text.replace('"resumed": 2', '"resumed": 3')):
        (tmp_path / LOG_NAME).write_text(wrong)
        with pytest.raises(InputError, match="not a training log"):
            TrainingLog.read(tmp_path / LOG_NAME)


COLUMNS = st.sampled_from(["microbatch", "step", "records", "seed", "rate", "checkpoint", "resumed", "execution"])
ENTRIES = st.lists(st.dictionaries(COLUMNS, st.none() | st.integers() | st.lists(st.integers())))


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ENTRIES)
def test_hostile_entries(trained: Path, tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    """Whatever follows a good header is read or refused, and indices never point outside."""
    header = (trained / LOG_NAME).read_text().splitlines()[0]
    path = tmp_path / LOG_NAME
    path.write_text("\n".join([header, *(json.dumps(entry) for entry in entries)]) + "\n")
    try:
        log = TrainingLog.read(path)
    except InputError:
        return
    assert all(0 <= index < len(log.records) for batch in log.microbatches for index in batch.records)
