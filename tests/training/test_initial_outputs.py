"""Initial outputs of a part of the windows: the rows that a run reads are those of the whole table."""

import json
from pathlib import Path

import pytest
import torch

from unlearn.training.initial_outputs import load_or_compute_outputs
from verify.data.encoding import Encoder
from verify.data.records import Record
from verify.models.loading import LoadedModel
from verify.training.schedule import PairSampler, epoch_pairs

NAMES = ("forget_log_probability", "retain_log_probability", "retain_logits")


def test_only_what_is_read_is_computed(loaded: LoadedModel, records: list[Record], tmp_path: Path) -> None:
    """Read rows are as in the whole table, the others hold nothing; a resumed run finds them, also in a table made whole."""
    found = Encoder(loaded.tokenizer, loaded.context_length).encode(records)
    windows, read, cpu = {"forget": found[:3], "retain": found[3:]}, {"retain": {1, 4, 5}}, torch.device("cpu")
    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
    whole = load_or_compute_outputs(tmp_path / "whole", loaded, NAMES, windows, 0)
    rows = {"forget": [2, 0], "retain": [5, 1]}
    for folder in ("part", "part", "whole"):
        part = load_or_compute_outputs(tmp_path / folder, loaded, NAMES, windows, 0, read=read)
        for name, values in part.of(rows, cpu).items():
            torch.testing.assert_close(values, whole.of(rows, cpu)[name])
    part = load_or_compute_outputs(tmp_path / "part", loaded, NAMES, windows, 0, read=read)
    unread = part.of({"forget": [0], "retain": [0]}, cpu)
    assert unread["retain_log_probability"].isnan().all()
    assert len(unread["retain_logits"]) == 0
    assert len(part.tables["retain_logits"]) == sum(int(windows["retain"][row].scored.sum()) for row in read["retain"])
    assert "parts" not in json.loads((tmp_path / "whole" / "reference.json").read_text())


@pytest.mark.parametrize(("count", "partners", "epochs"), [(3, 20, 4), (3, 5, 2), (4, 4, 1), (7, 3, 1)])
def test_the_partners_that_a_run_reads(count: int, partners: int, epochs: int) -> None:
    """They are those of its pairs."""
    expected = {partner for epoch in range(epochs) for _, partner in epoch_pairs(count, partners, 5, epoch)}
    assert PairSampler(count, partners, 5).partners_of(epochs) == expected
