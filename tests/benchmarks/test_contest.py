"""The contest is fair: every method gets as many settings, nobody is both tuned on and judged; the table says what was measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.contest import authors, data, probing
from benchmarks.contest.data import roles_of, write_world
from benchmarks.contest.deadline import Deadline
from benchmarks.contest.place import Place
from benchmarks.contest.run import entries, run_contest
from benchmarks.contest.settings import MAIN, approximate_methods, entries_of, settings_of
from benchmarks.contest.table import merged, summary, write_results
from benchmarks.contest.trials import chosen
from unlearn.methods import method_classes
from verify.errors import InputError


@pytest.mark.parametrize(("world", "count"), [("people", 6), ("smollm2", 3), ("smollm2_all", 3), ("smollm2_short", 1)])
def test_every_method_has_as_many_settings(world: Any, count: int) -> None:
    """All different and accepted by the method; those that are not trained search by themselves."""
    for name in approximate_methods():
        found = [setting.described for setting in settings_of(name, world)]
        trained = bool(method_classes()[name].defaults.get("epochs"))
        assert len(found) == (count if trained else 1)
        assert len({json.dumps(entry) for entry in found}) == len(found)
        for setting in settings_of(name, world):
            method_classes()[name](**setting.parameters)


def test_the_most_important_entries_come_first() -> None:
    """So that a contest that is cut off has the models to compare with, and the methods that were asked for most."""
    found = entries_of("smollm2", ["altpo", "wga", "ties", "rollback", "level"])
    assert found == ["untouched", "retrain", "level, untuned", "level", "wga", "rollback", "ties", "altpo"]
    assert set(MAIN) - set(approximate_methods()) == {"sisa", "rollback"}


def test_the_nearest_sound_setting_is_chosen() -> None:
    """The nearest to the references among those that keep the utility; without one, the one that keeps most; None if none works."""
    tried = [{"utility": 0.95, "gap": -0.5}, {"utility": 0.91, "gap": 0.2}, {"utility": 0.5, "gap": 0.0}, {"utility": None}]
    assert chosen(tried) == 1
    assert chosen(tried[2:]) == 0
    assert chosen(tried[3:]) is None


def test_nothing_begins_that_would_end_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the longest of its kind; a kind that was never measured may begin before the end, and anything without one."""
    now = [100.0]
    monkeypatch.setattr("benchmarks.contest.deadline.time.time", lambda: now[0])
    deadline = Deadline(130.0, tmp_path)
    for seconds in (20.0, 5.0):
        with deadline.measured("slow"):
            now[0] += seconds
    now[0] = 109.0
    assert deadline.allows("slow")
    now[0] = 111.0
    assert not deadline.allows("slow")
    assert deadline.allows("new")
    assert Deadline(None, tmp_path).allows("slow")
    now[0] = 131.0
    assert not deadline.allows("new")


@pytest.mark.slow
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


def channel(name: str, residual: float, *, accused: bool, valid: bool = True, gap: float = 3.0) -> dict[str, Any]:
    """What the contest keeps of one channel."""
    interval = [residual, residual - 0.2, residual + 0.2]
    return {"name": name, "residual": interval, "gap": gap, "valid": valid, "accused": accused}


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
        "channels": [
            channel("exact text", residual, accused=False),
            channel("layer 1", 0.3, accused=True),
            channel("layer 2", -0.6, accused=False),
            channel("int8", 9.0, valid=False, accused=False, gap=0.4),
            channel("int4", 0.5, valid=False, accused=False),
        ],
        "relearning": {"other records": 0.1},
        "probes": {"untreated: untreated": [residual, False], "quantization: int4": [0.2, True]},
        "share_of_retraining": 0.05,
        "references": 8,
        "machine": "a GPU",
        **changed,
    }


def test_the_table_says_what_was_measured(tmp_path: Path) -> None:
    """Means with their range over seeds, shares of records in both directions, and a method that diverged in words."""
    diverged = {"method": "npo", "verdict": "diverged", "setting": None, "tried": []}
    runs = {0: [entry("level", 0.02), diverged], 1: [entry("level", 0.06, verdict="EQUIVALENT_WITHIN", accused={}), diverged]}
    table = write_results(tmp_path, "people", runs)
    assert "a GPU; seeds 0, 1; 8 references; 40 records judged, as many others used for tuning." in table
    assert "used for tuning, split by record and not by subject." in write_results(tmp_path / "few", "smollm2", runs)
    level = next(line for line in table.splitlines() if line.startswith("| level"))
    assert "1 EQUIVALENT_WITHIN, 1 NOT_FORGOTTEN" in level
    assert "0.04 [0.02, 0.06]" in level
    assert "0.05 / 0.02" in level
    assert "| 1.0 of 3.0 |" in level
    assert "| 1.0 of 2.0 |" in level
    asked = next(line for line in table.splitlines()[::-1] if line.startswith("| level"))
    assert asked == "| level | 0.04 (0/2) | - | - | - | - | -0.15 [-0.60, 0.30] (2/4) | - | *0.50* | - |"
    assert "Seed 1: 5 channels measured, 3 of them valid (exact text, layer 1, layer 2). On 1 of the others" in table
    assert "more than retrainings; on 1 it knows enough" in table
    assert "| npo | 2 diverged | - |" in table
    assert (tmp_path / "contest_people.svg").read_text().startswith("<svg")
    assert json.loads((tmp_path / "contest_people.json").read_text())["1"][0]["residual"][0] == 0.06


@pytest.mark.slow
def test_the_table_says_by_which_rule_the_verdicts_are(tmp_path: Path) -> None:
    """From the results; those that were committed before rules were named are written again, with what is known of them."""
    assert "\n\nVerdicts by rule 2.\n\n" in write_results(tmp_path, "people", {0: [entry("level", 0.02, rule=2)]})
    some = {0: [entry("level", 0.02, rule=2), entry("npo", 0.3), entry("ssd", 0.4)]}
    assert "Verdicts by rule 2. 2 of 3 results name no rule: they are of 27 November" in write_results(tmp_path, "people", some)
    committed = Path(__file__).parents[2] / "benchmarks" / "results" / "contest_people.json"
    old = write_results(tmp_path, *merged([committed]))
    assert "The results name no rule: they were measured before audits asked in other ways" in old
    assert "methods and audits shared them" in old


def test_the_table_says_what_is_missing(tmp_path: Path) -> None:
    """Refusals with their reason, entries without a verdict or probes by name; one seed shows the intervals of its channels."""
    found = entry("level", 0.02)
    del found["probes"]
    refused = {"method": "ties", "verdict": "refused", "setting": None, "tried": [{"refused": "ties needs weights. Merge first."}]}
    table = write_results(tmp_path, "smollm2", {0: [found, refused]})
    assert "\nRefused: ties needs weights.\n" in table
    missing = next(line for line in table.splitlines() if line.startswith("No verdict, as the run ended"))
    names = set(missing.rstrip(".").partition(": ")[2].split("; "))
    assert {"untouched", "retrain", "level, untuned", "sisa", "npo"} <= names
    assert not {"level", "ties", "rollback"} & names
    assert "\nNot probed, for the same reasons: level.\n" in table
    assert "| level | 0.02 ± 0.20 (0/1) | - | - | - | - | -0.15 [-0.60, 0.30] (1/2) | - | *0.50 ± 0.20* | - |" in table


def test_the_table_as_the_source_of_the_aim(tmp_path: Path) -> None:
    """Named beside the methods it is `level` untuned with its aim from a table; its pool is named, and no cost counts it."""
    assert entries_of("people", ["level, table"])[-1] == "level, table"
    assert [setting.parameters for setting in settings_of("level, table")] == [{"sources": ("table",)}]
    tried = [{"pool": {"models": 8, "retrainings": 4.24}}]
    table = write_results(tmp_path, "people", {0: [entry("level, table", 0.01, alone="INCONCLUSIVE", tried=tried)]}, "sources")
    assert "The pool of the level table: 8 models, 4.2 retrainings by tokens, spent once and before any request" in table
    assert "| level, table | 1 NOT_FORGOTTEN | 1 INCONCLUSIVE | 0.01 |" in table
    assert {path.name for path in tmp_path.iterdir()} == {f"contest_people_sources.{ending}" for ending in ("md", "json", "svg")}


def test_all_worlds_side_by_side(tmp_path: Path) -> None:
    """Verdicts in letters, the rule marked, mean residual and utility; a dash: not run; an empty folder says what to type."""
    write_results(tmp_path, "people", {0: [entry("level", 0.02)], 1: [entry("level", 0.06, verdict="EQUIVALENT_WITHIN")]})
    early = {name: value for name, value in entry("npo", 0.5).items() if name != "channels"}
    (tmp_path / "contest_knowundo.json").write_text(json.dumps({"0": [early, {"method": "flat", "verdict": "diverged"}]}))
    table = summary(tmp_path)
    assert "| method | people* (2) | knowundo (1) |" in table
    assert "With a star: judged on every channel (rule 2)" in table
    assert "| level | 1 E, 1 N; 0.04; 0.90 | - |" in table
    assert "| npo | - | 1 N; 0.50; 0.90 |" in table
    assert "| flat | - | 1 diverged |" in table
    assert (tmp_path / "contest.md").read_text() == table
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="--world people"):
        summary(tmp_path / "empty")


def test_results_of_several_machines_are_merged(tmp_path: Path) -> None:
    """By seed and method, the last file counting; results of two worlds do not make one table."""
    files = []
    for number, runs in enumerate(
        [{0: [entry("level", 0.5), entry("npo", 0.2)]}, {0: [entry("level", 0.1)], 1: [entry("npo", 0.3)]}]
    ):
        write_results(tmp_path / str(number), "smollm2", runs)
        files.append(tmp_path / str(number) / "contest_smollm2.json")
    world, runs = merged(files)
    assert world == "smollm2"
    found = {(seed, one["method"]): one["residual"][0] for seed, entries in runs.items() for one in entries}
    assert found == {(0, "level"): 0.1, (0, "npo"): 0.2, (1, "npo"): 0.3}
    write_results(tmp_path, "people", runs)
    with pytest.raises(InputError, match="of one world"):
        merged([*files, tmp_path / "contest_people.json"])


def authors_like_tofu(folder: Path, count: int, worded: int) -> None:
    """Write short questions about authors in the layout of TOFU."""
    lines = [
        {"question": f"who {author} {number}?", "answer": f"fox {(7 * author + 3 * number) % 50} dog"}
        for author in range(count)
        for number in range(authors.EACH)
    ]
    (folder / "tofu").mkdir(parents=True)
    again = [{**line, "paraphrased_question": f"say {line['question']}"} for line in lines[-worded * authors.EACH :]]
    for name, rows in (("full.json", lines), ("forget10_perturbed.json", again)):
        (folder / "tofu" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_short_world_has_the_shortest_records_and_tunes_nothing(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each author the same few; every forgotten one is judged, by rewordings too; no author has two roles."""
    monkeypatch.setenv("UNLEARN_SMOLLM2", str(model_dir))
    monkeypatch.setattr(authors, "EACH", 6)
    authors_like_tofu(tmp_path / "shared", 24, 14)
    write_world("smollm2_short", tmp_path / "shared", 0, tmp_path)
    names = ("train", "forget", "retain", "holdout", "judged", "tuning", "rewordings", "holdout-audit")
    rows = {name: [json.loads(line) for line in (tmp_path / "data" / f"{name}.jsonl").read_text().splitlines()] for name in names}
    assert {name: len(found) for name, found in rows.items()} == {
        **dict.fromkeys(("forget", "judged", "tuning"), 30),
        **dict.fromkeys(("retain", "rewordings"), 50),
        "train": 80,
        "holdout": 40,
        "holdout-audit": 20,
    }
    people = [{row["subject_id"] for row in rows[name]} for name in ("forget", "retain", "holdout")]
    assert not set.intersection(*people)
    assert [len(found) for found in people] == [6, 10, 8]
    longest = {
        row["question"]: row for row in map(json.loads, (tmp_path / "shared" / "tofu" / "full.json").read_text().splitlines())
    }
    for author in people[0]:
        own = {row["messages"][0]["content"] for row in rows["forget"] if row["subject_id"] == author}
        left = [row for question, row in longest.items() if question.split()[1] == author.split("-")[1] and question not in own]
        assert len(left) == 1
        size = len(left[0]["question"] + left[0]["answer"])
        assert all(len(question + longest[question]["answer"]) <= size for question in own)


@pytest.mark.slow
def test_a_contest_on_a_pretrained_model(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs without time. Then every entry gets verdict, channels and probes; its models go; the results make the tables."""
    monkeypatch.setenv("UNLEARN_SMOLLM2", str(model_dir))
    monkeypatch.setattr(authors, "EACH", 4)
    monkeypatch.setitem(cast("dict[str, Any]", data.AUTHORS), "smollm2", authors.Authors(trained=4))
    monkeypatch.setattr(probing, "LLM", ("quantization",))
    options = replace(data.LLM_OPTIONS["smollm2"], learning_rate=2e-2, epochs=10, bf16=False)
    monkeypatch.setitem(cast("dict[str, Any]", data.LLM_OPTIONS), "smollm2", options)
    authors_like_tofu(tmp_path / "shared", 14, 10)
    place = Place(tmp_path / "work" / "smollm2-0", "smollm2", 0, references=2)

    def run(seconds: float | None) -> list[str]:
        said: list[str] = []
        run_contest([place], tmp_path / "shared", ["gradient_ascent"], seconds=seconds, progress=lambda what, _: said.append(what))
        return said

    assert all(line.endswith("no time") for line in run(0.0))
    assert entries(place, ["gradient_ascent"]) == []
    said = run(None)
    assert not [line for line in said if "failed" in line]
    found = entries(place, ["gradient_ascent"])
    assert [one["method"] for one in found] == ["untouched", "retrain", "level, untuned", "gradient_ascent"]
    for one in found:
        assert {"exact text", "rewording 1", "few-shot", "layer 1", "int4", "relearned"} <= {own["name"] for own in one["channels"]}
        assert "quantization: int8" in one["probes"]
    assert found[0]["residual"][0] == pytest.approx(1.0)
    assert len(found[3]["tried"]) == 3
    assert not [path for path in (place.folder / "tried").iterdir() if path.is_dir()]
    assert "| gradient_ascent |" in write_results(tmp_path, "smollm2", {0: found})
    assert run(None) == []
