"""The real audits on a pretrained model: a tiny one is taught people, and both kinds of retrainings are made and audited."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.calibration.__main__ import run_pretrained
from benchmarks.calibration.pretrained import HONEST, KEPT, NAMES, audit_pretrained
from benchmarks.calibration.real import write_kept
from benchmarks.channel_methods.world import Place, Sizes
from verify.data.sources import load_records
from verify.errors import InputError

SMALL = Sizes(trained=6, forgotten=2, held_out=8, references=2, epochs=1, wordings=1)


@pytest.mark.slow
def test_audits_and_page(talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of each kind is made and audited once, and the page counts what is there; nothing begins when the time is up."""
    place = Place(tmp_path / "world", 9, SMALL, talker)
    monkeypatch.setattr("benchmarks.channel_methods.world.TAUGHT", replace(place.options, bf16=False))
    with pytest.raises(InputError, match="the time was up before the first audit"):
        run_pretrained(place, 1, 1, -1.0, tmp_path)
    run_pretrained(place, 1, 1, 600.0, tmp_path)
    page = (tmp_path / "calibration_smollm2.md").read_text()
    assert "| honest retraining | 1 |" in page
    assert "| 20 % kept | 1 |" in page
    assert len(re.findall(r"^\| (?:honest retraining|20 % kept) \| [A-Z_]+ \|", page, re.MULTILINE)) == len(NAMES)
    files = {path: path.stat().st_mtime_ns for path in place.folder.rglob("manifest.json")}
    audits = audit_pretrained(place, 2, lambda *_: None, workers=1, seconds=-1.0)
    assert [one.truth for one in audits] == [HONEST, KEPT]
    assert files == {path: path.stat().st_mtime_ns for path in place.folder.rglob("manifest.json")}
    assert all({"exact text", "rewording 1", "no prompt"} <= {channel.name for channel in one.evidence.channels} for one in audits)
    assert all(one.evidence.settings.rule == 2 for one in audits)
    run_pretrained(place, 2, 1, -1.0, tmp_path)
    assert "| honest retraining | 1 of 2 |" in (tmp_path / "calibration_smollm2.md").read_text()


def test_one_wording_and_what_was_kept(talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one wording every person has six records, and a fifth of the forget set stays with the retain set."""
    place = Place(tmp_path, 9, SMALL, talker)
    monkeypatch.setattr("benchmarks.channel_methods.world.TAUGHT", replace(place.options, bf16=False))
    audit_pretrained(place, 1, lambda *_: None, workers=1, seconds=-1.0)
    sets = {role: {record.fingerprint for record in place.records(role)} for role in ("forget", "retain", "train")}
    assert [len(found) for found in sets.values()] == [12, 24, 36]
    assert {row["record"] for row in place.rewordings()} >= {record.example_id for record in place.records("forget")}
    write_kept(place.folder, 0)
    kept = {record.fingerprint for record in load_records(str(place.data("kept0")))}
    assert sets["retain"] < kept < sets["train"]
    assert len(kept) == 24 + 2
