"""The contest is fair: every method gets as many settings, nobody is both tuned on and judged; the table says what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contest.data import roles_of, write_world
from benchmarks.contest.run import approximate_methods, settings_of
from benchmarks.contest.table import summary, write_results
from unlearn.methods import method_classes
from verify.errors import InputError


@pytest.mark.parametrize("name", approximate_methods())
def test_every_method_has_six_settings(name: str) -> None:
    """All different and accepted by the method; those that are not trained search by themselves."""
    found = [({**parameters}, options.learning_rate, options.epochs) for parameters, options in settings_of(name)]
    trained = bool(method_classes()[name].defaults.get("epochs"))
    assert len(found) == (6 if trained else 1)
    assert len({json.dumps(entry) for entry in found}) == len(found)
    for parameters, _, _ in found:
        method_classes()[name](**parameters)


def test_nobody_is_tuned_on_and_judged(tmp_path: Path) -> None:
    """The halves are the forget set, and no person is in both; a twentieth of the trained records is forgotten."""
    write_world("people", tmp_path, 0, tmp_path)

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "data" / f"{name}.jsonl").read_text().splitlines()]

    tuning, judged, forget = lines("tuning"), lines("judged"), lines("forget")
    assert {row["subject_id"] for row in tuning}.isdisjoint(row["subject_id"] for row in judged)
    assert sorted(map(str, tuning + judged)) == sorted(map(str, forget))
    assert len(tuning) == len(judged)
    assert 0.04 < len(forget) / len(lines("train")) < 0.06


@pytest.mark.data
@pytest.mark.parametrize("world", ["tofu01", "tofu05", "tofu10", "knowundo"])
def test_roles_of_real_data_are_apart(shared_data: Path, world: Any) -> None:
    """No record is in two roles, and each has some."""
    roles = roles_of(world, shared_data, 0)
    sets = [{(row["prompt"], row["completion"]) for row in rows} for rows in (roles.forget, roles.retain, roles.holdout)]
    assert all(sets)
    assert not (sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2])


def test_absent_data_are_named(tmp_path: Path) -> None:
    """With what to type."""
    with pytest.raises(InputError, match="--shared-data DIR"):
        roles_of("tofu05", tmp_path / "nothing", 0)


def entry(method: str, residual: float, **changed: Any) -> dict[str, Any]:
    """What the contest keeps of one method and seed."""
    return {
        "method": method,
        "verdict": "NOT_FORGOTTEN",
        "residual": [residual, residual - 0.1, residual + 0.1],
        "records": 40,
        "accused": {"remembered": 4, "over-forgotten": 2},
        "auc": 0.7,
        "seen": ["zlib"],
        "utility": 0.9,
        "relearning_area": 0.1,
        "int4": 0.2,
        "share_of_retraining": 0.05,
        **changed,
    }


def test_the_table_says_what_was_measured(tmp_path: Path) -> None:
    """Means with their range over seeds, shares of records in both directions, and a method that diverged in words."""
    diverged = {"method": "npo", "verdict": "diverged", "setting": None, "tried": []}
    runs = {0: [entry("level", 0.02), diverged], 1: [entry("level", 0.06, verdict="EQUIVALENT_WITHIN", accused={}), diverged]}
    table = write_results(tmp_path, "people", runs, references=8)
    level = next(line for line in table.splitlines() if line.startswith("| level"))
    assert "1 EQUIVALENT_WITHIN, 1 NOT_FORGOTTEN" in level
    assert "0.04 [0.02, 0.06]" in level
    assert "0.05 / 0.02" in level
    assert "| npo | 2 diverged | - |" in table
    assert (tmp_path / "contest_people.svg").read_text().startswith("<svg")
    assert json.loads((tmp_path / "contest_people.json").read_text())["1"][0]["residual"][0] == 0.06


def test_all_worlds_side_by_side(tmp_path: Path) -> None:
    """Verdicts in letters, mean residual and utility; a dash where a method was not run; an empty folder says what to type."""
    write_results(tmp_path, "people", {0: [entry("level", 0.02)], 1: [entry("level", 0.06, verdict="EQUIVALENT_WITHIN")]}, 8)
    write_results(tmp_path, "knowundo", {0: [entry("npo", 0.5), {"method": "flat", "verdict": "diverged"}]}, 8)
    table = summary(tmp_path)
    assert "| method | people (2) | knowundo (1) |" in table
    assert "| level | 1 E, 1 N; 0.04; 0.90 | - |" in table
    assert "| npo | - | 1 N; 0.50; 0.90 |" in table
    assert "| flat | - | 1 diverged |" in table
    assert (tmp_path / "contest.md").read_text() == table
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="--world people"):
        summary(tmp_path / "empty")
