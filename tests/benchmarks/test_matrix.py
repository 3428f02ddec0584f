"""The matrix's checks and words, on made-up numbers."""

from pathlib import Path

import numpy as np
import pytest
from matrix_cells import counts, make_cell, value

from benchmarks.matrix import __main__ as command
from benchmarks.matrix.checks import control_detected, exact_passes, privacy_bound, run_checks, untouched_detected
from benchmarks.matrix.figure import draw
from benchmarks.matrix.measure import held_out_counts
from benchmarks.matrix.publish import Results, results_of, update_page
from benchmarks.matrix.results import Cell, load_cell, save_cell, span
from benchmarks.matrix.rows import Place, rows_of
from benchmarks.matrix.run import CELL, TIME_UP, unfinished
from benchmarks.matrix.settings import CI, PRETRAINED, SETTINGS, SMOLLM2, setting_for
from benchmarks.matrix.table import left_of, sentences, table
from verify.errors import InputError
from verify.io.files import read_json, write_json, write_manifest
from verify.scores.table import ScoreBlock, ScoreTable


def cells() -> list[Cell]:
    """One seed of the rows that the words compare."""
    return [
        make_cell("none"),
        make_cell("dp-8", auc=0.52, strength=0.11, trigger=0.0, alike=False, utility=value(0.1)),
        make_cell("level-12", auc=0.2, strength=0.5, trigger=0.0, verdict="NOT_FORGOTTEN"),
        make_cell("exact", auc=0.5, strength=0.1, trigger=0.0, verdict="INCONCLUSIVE"),
        make_cell("control", strength=0.85),
        make_cell("clean-none", auc=0.6),
        make_cell("poisoned-none", auc=0.8),
    ]


def test_an_attack_above_the_bound_fails_the_run() -> None:
    """With epsilon 1, 90 calls against 1 false one is impossible; 20 against 10 is allowed; no promise, no check."""
    broken = make_cell("dp-1", epsilon=1.0, delta=1e-5, counts=(counts(90, 1),))
    fine = make_cell("dp-1", epsilon=1.0, delta=1e-5, counts=(counts(20, 10),))
    assert privacy_bound([broken]).passed is False
    assert "loss shows epsilon >=" in privacy_bound([broken]).reason
    assert privacy_bound([fine]).passed is True
    assert privacy_bound([make_cell("none", counts=(counts(100, 0),))]).passed is None


@pytest.mark.slow
def test_the_bound_is_kept_by_a_right_implementation() -> None:
    """Attacks exactly on the bound, eight at a time: the whole family fails about `LEVEL` of the time at most."""
    rng = np.random.default_rng(0)
    epsilon, false_rate = 1.0, 0.1
    failed = 0
    for _ in range(300):
        drawn = tuple(counts(rng.binomial(100, np.exp(epsilon) * false_rate), rng.binomial(100, false_rate)) for _ in range(8))
        failed += privacy_bound([make_cell("dp-1", epsilon=epsilon, delta=0.0, counts=drawn)]).passed is False
    assert failed / 300 <= 0.05 + 0.02


def test_a_missed_untouched_model_fails_the_run() -> None:
    """Audit and triggers must both see it, in every seed; a trigger that was never learned is said to tell nothing."""
    assert untouched_detected([make_cell("none"), make_cell("none", 1)]).passed is True
    assert untouched_detected([make_cell("none"), make_cell("none", 1, verdict="INCONCLUSIVE")]).passed is False
    assert untouched_detected([make_cell("none", trigger=0.1)]).passed is False
    triggers = make_cell("none").triggers.model_copy(update={"kept": None})
    assert "not learned" in untouched_detected([make_cell("none", triggers=triggers)]).reason


def test_exact_deletion_may_be_accused_by_chance_only() -> None:
    """One of three accusations at level 0.05 is chance (p = 0.14), two are not (p = 0.007), and one of one is not."""
    honest = [make_cell("exact", seed, trigger=0.0, verdict="EQUIVALENT_WITHIN") for seed in range(3)]
    accused = [make_cell("exact", seed, trigger=0.0) for seed in range(3)]
    assert exact_passes(honest).passed is True
    assert exact_passes([*honest[:2], accused[2]]).passed is True
    assert exact_passes([honest[0], *accused[1:]]).passed is False
    assert exact_passes(accused[:1]).passed is False
    assert exact_passes([make_cell("exact", trigger=0.9, verdict="EQUIVALENT_WITHIN")]).passed is False
    assert exact_passes([]).passed is None


def test_a_control_that_passes_fails_the_run() -> None:
    """Going on with retain data alone must be detected in every seed."""
    assert control_detected([make_cell("control")]).passed is True
    assert control_detected([make_cell("control"), make_cell("control", 1, verdict="EQUIVALENT_WITHIN")]).passed is False


def test_thresholds_do_not_look_at_what_they_judge() -> None:
    """Even controls set the threshold; the odd ones and the forget records are counted against it."""
    control = np.arange(100.0)
    blocks = {}
    for role, scores in (("forget", np.full(20, 95.0)), ("holdout", control)):
        names = tuple(f"{role}{number}" for number in range(len(scores)))
        zeros = np.zeros(len(scores))
        blocks["target", role] = ScoreBlock(names, (None,) * len(scores), zeros.astype(int), zeros, {"loss": scores})
    ten_percent = held_out_counts(ScoreTable(blocks))[1]
    # The even controls are 0, 2, .. 98; five of fifty lie above 88, the odd ones above it are 89, 91, .. 99.
    assert (ten_percent.true_positives, ten_percent.false_positives) == (20, 6)
    assert ten_percent.false_positives + ten_percent.true_negatives == 50


def test_spans_are_hulls() -> None:
    """Seeds share their records, so their intervals do not shrink by being averaged."""
    both = span([value(0.2, 0.1), value(0.4, 0.1)])
    assert (both.value, both.low, both.high) == pytest.approx((0.3, 0.1, 0.5))


def test_words_follow_the_numbers() -> None:
    """Stopped, weakened, left and overshot are told apart, against no defence and against retraining."""
    assert left_of(1.0, 1.0, 0.5) == 1.0
    assert left_of(0.5, 0.5, 0.48) is None
    text = sentences(cells(), rows_of(CI, "full"))
    private, level, control, poisoned = text.splitlines()
    assert "stops membership inference (4 % left" in private
    assert "overshoots on membership inference" in level
    assert "weakens extraction (50 % left" in level
    assert "leaves membership inference (100 % left" in control
    assert "Utility 0.10" in private
    assert "AUC 0.60 [0.58, 0.62] to 0.80 [0.78, 0.82]" in poisoned


def test_table_and_figure_hold_every_row() -> None:
    """One line per row; verdicts of models trained otherwise stand in parentheses; the figure has three panels with bars."""
    rows = rows_of(CI, "full")
    text = table(cells(), rows)
    assert "| DP, epsilon 8 |" in text
    assert "(NOT_FORGOTTEN 1/1)" in text
    assert "| none, poisoned base |" in text
    picture = draw(cells(), rows)
    assert picture.startswith("<svg")
    assert all(title in picture for title in ("membership", "extraction", "backdoor"))


def test_results_and_page(tmp_path: Path) -> None:
    """Files carry seeds, versions and failed checks; the page is filled between its marks, again and again, and only there."""
    results = results_of(Place(tmp_path, CI, "full"), "people", cells())
    path = results.write(tmp_path)
    content = read_json(tmp_path / "matrix_people_full.json")
    assert content["about"]["seeds"] == [0]
    assert "torch" in content["about"]["versions"]
    assert len(content["cells"]) == len(cells())
    assert "FAILS" not in path.read_text()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- matrix people full -->\nformer table\n<!-- end of matrix people full -->\nafter\n")
    for _ in range(2):
        assert update_page(page, results)
    filled = page.read_text()
    assert filled.startswith("before\n")
    assert filled.endswith("after\n")
    assert filled.count("| DP, epsilon 8 |") == 1
    assert "former table" not in filled
    assert not update_page(page, results_of(Place(tmp_path, CI, "lora"), "people", cells())), "no place for it"
    assert page.read_text() == filled


@pytest.mark.slow
def test_results_say_by_which_rule_their_verdicts_are(tmp_path: Path) -> None:
    """From the cells; committed results of before rule 2 say what that means, those of the next days that they do not say it."""
    results = results_of(Place(tmp_path, CI, "full"), "people", [cell.model_copy(update={"rule": 2}) for cell in cells()])
    assert results.rules() == "Verdicts by rule 2."
    assert "\n\nVerdicts by rule 2.\n\n" in results.write(tmp_path).read_text()
    mixed = Results(results.about, [make_cell("none"), *results.cells[1:]])
    assert mixed.rules() == f"Verdicts by rule 2. 1 of {len(mixed.cells)} results name no rule."
    old = Path(__file__).parents[2] / "benchmarks" / "results" / "matrix_people_full.json"
    assert "they were measured before audits asked in other ways" in Results.read([old]).write(tmp_path / "old").read_text()
    later = Results({**results.about, "created": "2026-11-26T20:00:00+00:00"}, cells())
    assert later.rules() == "The results name no rule."


@pytest.mark.slow
def test_a_table_that_the_page_has_no_place_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is published as a results page alone, and the command says what is missing; the page stays as it is."""
    page = tmp_path / "docs" / "matrix.md"
    page.parent.mkdir()
    page.write_text("nothing\n")
    results_of(Place(tmp_path, SMOLLM2, "lora"), "smollm2", [make_cell("none")]).write(tmp_path)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    given = ["--render", str(tmp_path / "matrix_smollm2_lora.json"), "--output", str(tmp_path / "again"), "--publish"]
    monkeypatch.setattr("sys.argv", ["matrix", *given])
    assert command.main() == 0
    said = capsys.readouterr().err
    assert "benchmarks/results/matrix_smollm2_lora.md alone" in said
    assert "<!-- matrix smollm2 lora -->" in said
    assert page.read_text() == "nothing\n"
    assert (tmp_path / "benchmarks" / "results" / "matrix_smollm2_lora.md").exists()


def test_page_has_a_place_for_every_matrix() -> None:
    """docs/matrix.md has marks for both data sets and both tunings."""
    text = (Path(__file__).parents[2] / "docs" / "matrix.md").read_text()
    for data in ("people", "tofu"):
        for tuning in ("full", "lora"):
            assert f"<!-- matrix {data} {tuning} -->" in text
            assert f"<!-- end of matrix {data} {tuning} -->" in text


def test_cells_survive_the_disk(tmp_path: Path) -> None:
    """What is saved is what is loaded; another version is refused by name."""
    save_cell(cells()[1], tmp_path)
    assert load_cell(tmp_path) == cells()[1]
    (tmp_path / "cell.json").write_text('{"row": "none"}')
    with pytest.raises(InputError, match="another version"):
        load_cell(tmp_path)


def test_settings() -> None:
    """Every setting has a matrix for both data sets; an unknown one is refused."""
    for name in SETTINGS:
        assert setting_for(name, "people").records_per_subject == 4
        assert setting_for(name, "tofu").records_per_subject == 20
    assert "lora" not in rows_of(CI, "lora")
    for name in PRETRAINED:
        rows = rows_of(setting_for(name, "smollm2"), "lora")
        assert {"none", "dp-8", "federated", "npo", "rollback", "sharded", "sisa", "exact", "control"} < rows.keys()
        assert not any(row.step == "poisoned" for row in rows.values()), "the base is not ours to poison"
        assert rows["sisa"].start == "sharded"
        assert setting_for(name, "smollm2").name == name
    with pytest.raises(InputError, match="no setting called large for smollm2"):
        setting_for("large", "smollm2")
    with pytest.raises(InputError, match="no setting called huge"):
        setting_for("huge", "people")


@pytest.mark.slow
def test_results_are_rendered_from_their_files_alone(tmp_path: Path) -> None:
    """Read and written again, all three files are the same; files of several seeds make one table; other files are refused."""
    one, two, place = tmp_path / "one", tmp_path / "two", Place(tmp_path, CI, "full")
    results_of(place, "people", cells(), workers=4, missing={"federated": "Flower is not here"}).write(one)
    Results.read([one / "matrix_people_full.json"]).write(two)
    files = sorted(path.name for path in one.iterdir())
    assert len(files) == 3
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    text = (one / "matrix_people_full.md").read_text()
    assert "4 models made side by side" in text
    assert "Not run: federated (Flower is not here)." in text

    results_of(place, "people", [make_cell("none", 1)]).write(two)
    both = Results.read([folder / "matrix_people_full.json" for folder in (one, two)])
    assert (both.about["seeds"], len(both.cells)) == ([0, 1], len(cells()) + 1)
    assert both.about["missing"] == {"federated": "Flower is not here"}
    results_of(place, "people", [make_cell("none", 1), make_cell("federated", 1)]).write(two)
    assert "missing" not in Results.read([folder / "matrix_people_full.json" for folder in (one, two)]).about, "one file has it"
    content = read_json(two / "matrix_people_full.json")
    content["about"]["training"]["epochs"] += 1
    write_json(two / "matrix_people_full.json", content)
    with pytest.raises(InputError, match="another matrix"):
        Results.read([folder / "matrix_people_full.json" for folder in (one, two)])
    content = read_json(one / "matrix_people_full.json")
    content["cells"] = [cell for cell in content["cells"] if cell["row"] != "none"]
    write_json(two / "matrix_people_full.json", content)
    with pytest.raises(InputError, match="no untouched model"):
        Results.read([two / "matrix_people_full.json"])
    results_of(place, "tofu", cells()).write(two)
    with pytest.raises(InputError, match="another matrix"):
        Results.read([one / "matrix_people_full.json", two / "matrix_tofu_full.json"])
    for broken in ("{}", "[]", '{"about": {"data": "people", "tuning": "full", "setting": "ci"}, "cells": [{}]}'):
        (two / "broken.json").write_text(broken)
        with pytest.raises(InputError, match="no results of the matrix"):
            Results.read([two / "broken.json"])


def test_what_was_not_made_is_named_with_its_reason(tmp_path: Path) -> None:
    """A row that failed, one whose start failed, one without time, and a seed that was not begun; what another file has goes."""
    place, rows = Place(tmp_path, CI, "full"), rows_of(CI, "full")
    chosen = [rows[name] for name in ("none", "dp-8", "federated", "client-deleted", "exact")]
    for row, seed in (("none", 0), ("none", 1), ("dp-8", 0), ("exact", 1)):
        place.cell(row, seed).mkdir(parents=True)
        write_manifest(place.cell(row, seed), CELL, {})
    reasons = {
        "auditing DP, epsilon 8, seed 1": "OSError in io.py, line 3:\n no space",
        f"{rows['federated'].label}, seed 1": "KeyError",
    }
    lacking = unfinished(place, chosen, [0, 1, 2], reasons)
    assert lacking == {
        "federated": {"0": TIME_UP, "1": "KeyError"},
        "client-deleted": {"0": TIME_UP, "1": f"{rows['federated'].label}, seed 1: KeyError"},
        "exact": {"0": TIME_UP},
        "dp-8": {"1": "OSError in io.py, line 3: no space"},
        "none": {"2": TIME_UP},
    }
    made = [make_cell("none"), make_cell("none", 1), make_cell("dp-8"), make_cell("exact", 1)]
    path = results_of(place, "people", made, lacking=lacking).write(tmp_path / "one")
    assert f"{rows['federated'].label}, seed 0 ({TIME_UP}); {rows['federated'].label}, seed 1 (KeyError); " in path.read_text()
    assert f"everything, seed 2 ({TIME_UP})." in path.read_text()
    blamed = "scoring reference 1: KeyError"
    assert unfinished(place, chosen, [2], {"scoring reference 1": "KeyError"}) == {"none": {"2": blamed}}
    results_of(place, "people", [make_cell("none", 2), make_cell("exact")]).write(tmp_path / "two")
    merged = Results.read([tmp_path / name / "matrix_people_full.json" for name in ("one", "two")])
    assert merged.about["unfinished"] == {name: lacking[name] for name in ("federated", "client-deleted", "dp-8")}


def test_committed_results_are_still_read() -> None:
    """Those of earlier versions, without the later columns, give the checks that are written in them."""
    committed = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("matrix_*.json"))
    assert len(committed) >= 4
    for path in committed:
        assert [check.passed for check in Results.read([path]).checks] == [entry["passed"] for entry in read_json(path)["checks"]]


def test_an_exact_rollback_stands_for_the_retraining_that_a_run_lacks() -> None:
    """Sentences compare with it, and the check examines it, where the row of retraining was not run."""
    found, rows = [make_cell("none"), make_cell("npo"), make_cell("rollback", auc=0.55)], rows_of(SMOLLM2, "lora")
    assert "no defence 1.00, rollback 0.55" in sentences(found, rows)
    assert "unlearning: rollback" not in sentences(found, rows), "it would be compared with itself"
    assert "no defence 1.00, retraining 0.50" in sentences(found[:2], rows)
    passed = [check.passed for check in run_checks(found) if check.name.startswith("exact deletion")]
    assert passed == [False], "the cell says NOT_FORGOTTEN"


def test_a_time_that_cannot_be_compared_is_left_out() -> None:
    """A dash in the table, and no sentence about it, also where only the untouched model has none."""
    rows = rows_of(SMOLLM2, "lora")
    timed = [make_cell("none"), make_cell("npo")]
    assert "1.0 x the time" in sentences(timed, rows)
    for untimed in (["npo"], ["none"], ["none", "npo"]):
        found = [make_cell(row, **({"seconds": None} if row in untimed else {})) for row in ("none", "npo")]
        assert "x the time" not in sentences(found, rows)
        assert table(found, rows).count("| - | 5 |") == len(untimed)


def test_columns_of_a_pretrained_base() -> None:
    """Its text in general and the tokens taken have columns, and the base alone a sentence; what was not measured has a dash."""
    measured = {"general": {"novel": value(0.97)}, "tokens": 0.4, "base_utility": value(0.05)}
    found, rows = [make_cell("none", **measured), make_cell("npo"), make_cell("exact", **measured)], rows_of(SMOLLM2, "lora")
    header, _, none, npo, _ = ([cell.strip() for cell in line.split("|")] for line in table(found, rows).splitlines())
    places = header.index("novel text"), header.index("tokens")
    assert [none[place] for place in places] == ["0.97 [0.95, 0.99]", "0.40"]
    assert [npo[place] for place in places] == ["-", "-"]
    assert "**The base model** before fine-tuning has utility 0.05" in sentences(found, rows)
    assert "novel text" not in table(cells(), rows_of(CI, "full"))
