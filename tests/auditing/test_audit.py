"""From models and files to evidence on disk, through the public API."""

import json
import shutil
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from verify import InputError, RunError, Settings, audit, register, summary
from verify.auditing.recompute import recompute
from verify.io.files import file_digest, verify_manifest
from verify.schema.evidence import Evidence
from verify.scores.table import ScoreTable

SETTINGS = Settings(planted_draws=20, retain_records=6, channels=("exact",))
"""Asked in no other way, for speed: `test_asked_otherwise` does that."""
NAMES = ("Ada Ashfield", "Bo Birch", "Cy Calder", "Di Dunmore", "Ed Elwood", "Flo Farrow")


def rows(prefix: str, count: int) -> list[dict[str, str]]:
    return [
        {
            "example_id": f"{prefix}{index}",
            "subject_id": f"{prefix}-{NAMES[index % len(NAMES)]}",
            "prompt": f"Where does {prefix} {NAMES[index % len(NAMES)]} live?",
            "completion": f"At number {index} in the {prefix} lane.",
        }
        for index in range(count)
    ]


def write_lines(path: Path, content: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


@pytest.fixture(scope="module")
def house(model_dir: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model, four noisy copies as references, one as target, and the three sets."""
    root = tmp_path_factory.mktemp("house")
    paths = {"original": model_dir}
    for index, name in enumerate(["target", "ref1", "ref2", "ref3"]):
        model = AutoModelForCausalLM.from_pretrained(model_dir)
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        paths[name] = root / name
    for role in ("forget", "retain", "holdout"):
        paths[role] = write_lines(root / f"{role}.jsonl", rows(role, 12))
    return paths


def run(house: dict[str, Path], **changes: Any) -> Evidence:
    arguments: dict[str, Any] = {
        "model": house["target"],
        "original": house["original"],
        "references": [house["ref1"], house["ref2"], house["ref3"]],
        "forget_set": str(house["forget"]),
        "retain_set": str(house["retain"]),
        "holdout_set": str(house["holdout"]),
        "settings": SETTINGS,
    }
    return audit(**{**arguments, **changes})


@pytest.fixture(scope="module")
def audited(house: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Evidence, Path]:
    """A finished audit, and its folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("audited") / "out"
    return run(house, output_dir=folder), folder


@pytest.fixture
def evidence(audited: tuple[Evidence, Path]) -> Evidence:
    """What that audit found."""
    return audited[0]


@pytest.fixture
def out(audited: tuple[Evidence, Path], tmp_path: Path) -> Path:
    """A copy of its folder."""
    return Path(shutil.copytree(audited[1], tmp_path / "out"))


@pytest.mark.slow
def test_audit_writes_three_files_and_a_manifest(house: dict[str, Path], tmp_path: Path) -> None:
    """evidence.json, scores.parquet (0600) and report.html, under a manifest that verifies; the evidence reads back equal."""
    evidence = run(house, base=house["original"], output_dir=tmp_path / "out")
    assert set(verify_manifest(tmp_path / "out", "audit")["files"]) == {"evidence.json", "scores.parquet", "report.html"}
    assert Evidence.load(tmp_path / "out" / "evidence.json") == evidence
    assert stat.S_IMODE((tmp_path / "out" / "scores.parquet").stat().st_mode) == 0o600
    assert evidence.settings.retain_records == evidence.set("retain").records == 6
    assert {entry.label for entry in evidence.models} >= {"base", "original", "target", "reference 3"}


def test_the_verdict_can_be_recomputed_from_the_scores(evidence: Evidence, out: Path) -> None:
    """scores.parquet holds all that the judgement rests on: judging it again gives the same evidence, number by number."""
    assert recompute(out) == evidence
    path = out / "evidence.json"
    assert evidence.digest == file_digest(path) == Evidence.load(path).digest


@pytest.mark.parametrize("changed", ["a number of the evidence", "a score", "a count"])
def test_a_number_that_does_not_follow_is_named(evidence: Evidence, out: Path, changed: str) -> None:
    """Whoever edits a number, in the evidence or in the scores, is told which one no longer follows."""
    if changed == "a score":
        table = ScoreTable.load(out / "scores.parquet")
        table.blocks["target", "forget"].loss[0] += 0.5
        table.save(out / "scores.parquet")
    elif changed == "a count":
        more = tuple(entry.model_copy(update={"records": entry.records + 1000}) for entry in evidence.sets)
        evidence.model_copy(update={"sets": more}).save(out / "evidence.json")
    else:
        first = evidence.tests[0].model_copy(update={"fired": not evidence.tests[0].fired})
        evidence.model_copy(update={"tests": (first, *evidence.tests[1:])}).save(out / "evidence.json")
    with pytest.raises(RunError, match=r"sets\[0\]\.records" if changed == "a count" else r"tests\[0\]"):
        recompute(out)


@pytest.mark.slow
def test_audits_against_the_same_controls_are_counted(
    house: dict[str, Path], evidence: Evidence, out: Path, tmp_path: Path
) -> None:
    """The second says so and recomputes; a plan that comes after the first audit, and evidence of other controls, are refused."""
    earlier = {"earlier": [out / "evidence.json"]}
    assert evidence.account is None
    again = run(house, **earlier, output_dir=tmp_path / "again", settings=SETTINGS.model_copy(update={"attacks": ("loss",)}))
    assert again.account is not None
    assert (again.account.number, again.account.earlier) == (2, (evidence.digest,))
    assert again.account.controls == evidence.set("holdout").digest
    assert "at least the second audit against the same controls" in summary(again)
    assert recompute(tmp_path / "again") == again
    with pytest.raises(InputError, match="levels of accusations are fixed before the first"):
        run(house, **earlier, settings=SETTINGS.model_copy(update={"expected_audits": 20}))
    with pytest.raises(InputError, match="made against other controls"):
        run(house, **earlier, holdout_set=rows("others", 12))


@pytest.mark.slow
def test_other_wording_is_no_changed_number(evidence: Evidence, out: Path) -> None:
    """Sentences that another version worded differently, or that were edited, are named as such, numbers are not."""
    worded = evidence.model_copy(update={"explanation": ("Once worded so.",), "scope": "Once called so."})
    worded.save(out / "evidence.json")
    with pytest.raises(
        RunError, match=r"every number follows from scores\.parquet, but this version words explanation\[0\], scope differently"
    ):
        recompute(out)
    worded.model_copy(update={"blind": None}).save(out / "evidence.json")
    with pytest.raises(RunError, match="does not follow"):
        recompute(out)
    worded.model_copy(update={"accused_by": ("canaries",)}).save(out / "evidence.json")
    with pytest.raises(InputError, match="'canaries' is said to accuse"):
        recompute(out)


@pytest.mark.slow
def test_nothing_written_holds_a_record(house: dict[str, Path], tmp_path: Path) -> None:
    """No text, name or identifier of any record is in any file of the audit or of its cache."""
    run(house, output_dir=tmp_path / "out", cache_dir=tmp_path / "cache")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 4
    for path in written:
        content = path.read_bytes() + path.name.encode()
        for name in [*NAMES, "forget0", "holdout lane", "Where does"]:
            assert name.encode() not in content, f"{path.name} holds {name!r}"


@pytest.mark.slow
def test_the_cache_changes_nothing(house: dict[str, Path], tmp_path: Path) -> None:
    """A second audit from the cache gives the same evidence, time stamps aside."""
    first = run(house, cache_dir=tmp_path / "cache")
    second = run(house, cache_dir=tmp_path / "cache")
    same = {"created": "", "duration_seconds": 0.0}
    assert first.model_copy(update=same) == second.model_copy(update=same)


@pytest.mark.slow
def test_a_finished_attack_is_not_run_again(house: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit that goes on takes the dear attacks' scores from the cache; a damaged cache is made again."""
    from verify.attacks.extraction.verbatim import Verbatim

    settings, calls, score = Settings(attacks=("verbatim", "loss"), channels=("exact",)), [], Verbatim.score
    monkeypatch.setattr(Verbatim, "score", lambda *arguments: calls.append(1) or score(*arguments))
    first = run(house, cache_dir=tmp_path / "cache", settings=settings)
    made = len(calls)
    assert made > 0
    again = run(house, cache_dir=tmp_path / "cache", settings=settings)
    assert len(calls) == made
    assert again.attacks == first.attacks
    for path in (tmp_path / "cache").glob("*.attacks"):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="made again"):
        assert run(house, cache_dir=tmp_path / "cache", settings=settings).attacks == first.attacks
    assert len(calls) == 2 * made


@pytest.mark.slow
def test_models_in_memory_are_audited_like_folders(house: dict[str, Path], tokenizer: Any) -> None:
    """A model object gives the numbers its folder gives."""
    model = AutoModelForCausalLM.from_pretrained(house["target"])
    in_memory = run(house, model=model, tokenizer=tokenizer)
    from_folder = run(house)
    assert in_memory.tests == from_folder.tests
    assert in_memory.attacks == from_folder.attacks


@pytest.mark.slow
def test_attacks_without_what_they_need_are_named(house: dict[str, Path]) -> None:
    """Without --base the attacks on it are listed as not run, with the flag that would mend it, and have no number."""
    evidence = run(house)
    assert [entry.attack for entry in evidence.not_run] == ["ez_mia", "reference", "reference_ratio", "user_level", "wbc"]
    assert "--base" in evidence.not_run[0].reason
    assert evidence.attack("reference", "target") is None
    assert evidence.attack("loss", "target") is not None


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_references_lose_nothing(house: dict[str, Path], tmp_path: Path, count: int) -> None:
    """With no or one reference the verdict is NOT_TESTABLE, and all attacks are still measured and written."""
    evidence = run(house, references=[house["ref1"]][:count], output_dir=tmp_path / "out")
    assert evidence.verdict == "NOT_TESTABLE"
    assert "--references" in " ".join(evidence.explanation)
    assert evidence.attack("loss", "target") is not None
    assert Evidence.load(tmp_path / "out" / "evidence.json").verdict == "NOT_TESTABLE"


@pytest.mark.slow
def test_a_forget_set_of_ids_is_looked_up(house: dict[str, Path], tmp_path: Path) -> None:
    """--forget may name records or subjects of the training file; the rest of it is the retain set."""
    training = write_lines(tmp_path / "train.jsonl", [*rows("forget", 12), *rows("retain", 12)])
    ids = tmp_path / "ids.txt"
    ids.write_text("forget-Ada Ashfield\nforget1\n")
    evidence = run(house, forget_set=str(ids), data=str(training), retain_set=None)
    assert evidence.set("forget").records == 3, "two records of the subject and one by its id"


@pytest.mark.slow
def test_one_record_is_held_against_references_alone(house: dict[str, Path], tmp_path: Path) -> None:
    """A forget set of one record has a verdict by its loss; no attack makes a rate of it, and scope and limits speak of one
    record. All of it is written, and follows from the scores."""
    evidence = run(house, forget_set=rows("forget", 1), holdout_set=None, output_dir=tmp_path / "out")
    assert {test.name for test in evidence.tests} == {"C1", "C2", "A1", "A2"}
    assert "this one record" in evidence.scope
    assert not any("about the set" in sentence for sentence in evidence.not_shown)
    assert evidence.attacks == ()
    assert {entry.attack for entry in evidence.not_run} == set(evidence.settings.attacks)
    assert all("two records" in entry.reason for entry in evidence.not_run)
    assert recompute(tmp_path / "out") == evidence
    assert "this one record" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_all_records_of_one_person(house: dict[str, Path], tmp_path: Path) -> None:
    """What a deletion request asks for: nobody can be held out to test the words, which is said; the verdict does not rest on it.
    Controls that are declared exchangeable cannot be checked then, and are refused."""
    mine = [row | {"subject_id": "Ada Ashfield"} for row in rows("forget", 5)]
    evidence = run(house, forget_set=mine, output_dir=tmp_path / "out")
    assert {test.name for test in evidence.tests} == {"C1", "C2", "A1", "A2"}
    gate = next(gate for gate in evidence.gates if gate.name == "blind baseline")
    assert (gate.passed, "to one person" in gate.reason, evidence.blind) == (None, True, None)
    assert evidence.attack("loss", "target") is not None
    assert recompute(tmp_path / "out") == evidence
    with pytest.raises(InputError, match="leave out --twins"):
        run(house, forget_set=mine, settings=Settings(attacks=("loss",), twins=True))


BAD_SETS = [
    ({"forget_set": []}, "no records"),
    ({"forget_set": rows("forget", 1)}, "Leave out --holdout and --fresh"),
    ({"retain_set": rows("forget", 12)}, "share"),
    ({"holdout_set": rows("retain", 12)}, "share"),
    ({"forget_set": ["nobody"]}, "--data"),
]


@pytest.mark.parametrize(("change", "message"), BAD_SETS)
def test_bad_sets_are_refused(house: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Empty, single-record and overlapping sets are refused before any model is loaded, and nothing is written."""
    with pytest.raises(InputError, match=message):
        run(house, output_dir=tmp_path / "out", **change)
    assert not list(tmp_path.rglob("*.json"))


def test_holdout_that_was_trained_on_is_refused(house: dict[str, Path], tmp_path: Path) -> None:
    """Controls that are in the training file are no controls."""
    training = write_lines(tmp_path / "train.jsonl", [*rows("forget", 12), *rows("retain", 12), *rows("holdout", 1)])
    with pytest.raises(InputError, match="share 1 records"):
        run(house, data=str(training))


@pytest.mark.parametrize("like", ["forget", "retain"])
def test_holdout_that_reads_like_trained_records_is_refused(house: dict[str, Path], like: str) -> None:
    """A control that differs from a trained record by a space alone is known to the model, and is called never-trained."""
    alike = [row | {"example_id": f"c{row['example_id']}", "completion": f"{row['completion']} "} for row in rows(like, 3)]
    with pytest.raises(InputError, match=f"3 of the 15 holdout records .* read like records of the {like} set"):
        run(house, holdout_set=[*rows("holdout", 12), *alike])


@pytest.mark.parametrize("copies", [0, 1, 12])
def test_copies_in_the_forget_set_are_named(house: dict[str, Path], tmp_path: Path, copies: int) -> None:
    """A set that is padded with copies of its records, under other names, looks larger than it is."""
    content = [*rows("forget", 12), *({**row, "example_id": f"again {row['example_id']}"} for row in rows("forget", copies))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        register(tmp_path / "registration.json", forget_set=content)
    said = [str(one.message) for one in caught if "different texts" in str(one.message)]
    assert [text.split(".")[0] for text in said] == (
        [f"the forget set holds {12 + copies} records with 12 different texts"] if copies else []
    )
    assert not any(name in " ".join(said) for name in NAMES)


@pytest.mark.slow
def test_the_same_reference_twice_is_refused(house: dict[str, Path]) -> None:
    """A reference given twice would make the spread between honest retrainings look smaller than it is."""
    with pytest.raises(InputError, match="reference"):
        run(house, references=[house["ref1"], house["ref2"], house["ref1"]])


def test_an_output_folder_in_use_is_left_alone(house: dict[str, Path], tmp_path: Path) -> None:
    """A folder that holds something is refused and not touched."""
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(InputError, match="already holds"):
        run(house, output_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_other_tokenizers_are_refused(house: dict[str, Path], tmp_path: Path) -> None:
    """Losses per token of two tokenizers are not comparable."""
    from tiny_models import make_llama, make_tokenizer

    other = make_tokenizer(begin=False)
    make_llama(other).save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="different tokenizers"):
        run(house, model=tmp_path / "other")


def test_evidence_refuses_what_the_schema_does_not_allow(out: Path, tmp_path: Path) -> None:
    """Truncated, foreign, extended and non-finite evidence is refused with the path; it never becomes a verdict."""
    path = out / "evidence.json"
    good = json.loads(path.read_text())
    bad = [
        path.read_text()[:-200],
        "",
        "[]",
        json.dumps({**good, "verdict": "PASS"}),
        json.dumps({**good, "schema": "unlearn-verify/evidence/99"}),
        json.dumps({**good, "surprise": 1}),
        json.dumps({**good, "duration_seconds": float("nan")}),
    ]
    for content in bad:
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match=r"bad\.json"):
            Evidence.load(tmp_path / "bad.json")


def test_score_tables_refuse_damage(out: Path, tmp_path: Path) -> None:
    """A truncated, empty or foreign score table is refused with its path."""
    whole = (out / "scores.parquet").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PAR1 not really"):
        (tmp_path / "scores.parquet").write_bytes(content)
        with pytest.raises(InputError, match="scores"):
            ScoreTable.load(tmp_path / "scores.parquet")
    assert np.isfinite(ScoreTable.load(out / "scores.parquet").loss("target", "forget")).all()


def trained(base: Path, root: Path, name: str, records: list[dict[str, str]], seed: int) -> Path:
    from unlearn import TrainingOptions, finetune

    return finetune(base, records, output_dir=root / name, options=TrainingOptions(epochs=1, batch_size=4, seed=seed)).model_dir


@pytest.fixture(scope="module")
def logged(house: dict[str, Path], model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of an audit whose models all have training logs; the target is a retraining of its own."""
    root = tmp_path_factory.mktemp("logged")
    forget, retain = rows("forget", 12), rows("retain", 12)
    return {
        "model": trained(model_dir, root, "target", retain, 9),
        "original": trained(model_dir, root, "original", [*retain, *forget], 0),
        "references": [trained(model_dir, root, f"ref{seed}", retain, seed) for seed in (1, 2, 3)],
    }


@pytest.mark.slow
def test_page_one_says_what_was_checked(house: dict[str, Path], logged: dict[str, Any], tmp_path: Path) -> None:
    """Logs that were read, in the report and in the summary; the evidence reads back and its verdict follows from the scores."""
    evidence = run(house, **logged, output_dir=tmp_path / "out")
    assert [check.checked for check in evidence.references_checked or ()] == [True] * 3
    assert evidence.holdout_checked is not None
    assert evidence.holdout_checked.used == 0
    first = (tmp_path / "out" / "report.html").read_text().split('<h2 class="page">')[0]
    for text in (first, summary(evidence)):
        assert "The training logs of all 3 references were read: no forget record was trained on" in text
        assert "the unlearning read none of the 12 holdout records" in text
        assert "Not checked" not in text
    assert recompute(tmp_path / "out") == evidence == Evidence.load(tmp_path / "out" / "evidence.json")


@pytest.mark.slow
def test_page_one_says_what_was_not_checked(house: dict[str, Path], tokenizer: Any, tmp_path: Path) -> None:
    """Without logs, and of models in memory: what was not checked, and who vouches for it."""
    model = AutoModelForCausalLM.from_pretrained(house["ref3"])
    references = [house["ref1"], house["ref2"], model]
    evidence = run(house, references=references, tokenizer=tokenizer, output_dir=tmp_path / "out")
    assert not any(check.checked for check in evidence.references_checked or ())
    first = (tmp_path / "out" / "report.html").read_text().split('<h2 class="page">')[0]
    for text in (first, summary(evidence)):
        assert "Not checked: what reference 1, reference 2 were trained on (there is no training log beside it)" in text
        assert "Not checked: what reference 3 was trained on (it is a model in memory" in text
        assert "The operator, or whoever else supplied the models, vouches" in text
        assert "Not checked: whether the unlearning was fitted to the 12 holdout records" in text


@pytest.mark.slow
def test_a_reference_that_saw_a_record_is_refused(
    house: dict[str, Path], logged: dict[str, Any], model_dir: Path, tmp_path: Path
) -> None:
    """Before anything is scored, by its number; where it is meant, evidence and page 1 name it, and scores give the verdict."""
    dirty = trained(model_dir, tmp_path, "dirty", [*rows("retain", 12), *rows("forget", 5)], 4)
    given = {**logged, "references": [*logged["references"][:2], dirty]}
    with pytest.raises(InputError, match=r"^reference 3 \(dirty\).*trained on 5 of the 12 forget records"):
        run(house, **given, output_dir=tmp_path / "refused")
    evidence = run(house, **given, accept={"forget"}, output_dir=tmp_path / "accepted")
    first = (tmp_path / "accepted" / "report.html").read_text().split('<h2 class="page">')[0]
    said = "Accepted by whoever ran the audit: reference 3: it was trained on 5 of the 12 forget records."
    assert said in first
    assert said in summary(evidence)
    assert "no forget record was trained on" not in first
    assert recompute(tmp_path / "accepted") == evidence
    with pytest.raises(InputError, match=r"'everything' cannot be accepted. Use any of: forget"):
        run(house, **given, accept={"everything"})


@pytest.mark.slow
def test_weights_without_a_manifest_are_compared_when_loaded(house: dict[str, Path], tmp_path: Path) -> None:
    """A copy of the target is refused unless it is accepted by name; a copy of another reference always."""
    with pytest.raises(InputError, match=r"reference 3 .* has the same weights as reference 2"):
        run(house, references=[house["ref1"], house["ref2"], house["ref2"]], accept=["weights"])
    given = {"references": [house["ref1"], house["ref2"], house["target"]]}
    with pytest.raises(InputError, match=r"reference 3 .* has the same weights as target"):
        run(house, **given)
    checks = run(house, **given, accept=["weights"]).references_checked or ()
    assert [[difference.kind for difference in check.accepted] for check in checks] == [[], [], ["weights"]]


def test_older_evidence_keeps_its_digest(out: Path) -> None:
    """Evidence without the checks reads, is written byte for byte as it was, recomputes, and its report says they were not made."""
    path = out / "evidence.json"
    content = json.loads(path.read_text())
    old = {name: value for name, value in content.items() if name not in ("references_checked", "holdout_checked")}
    path.write_text(json.dumps(old, indent=2, ensure_ascii=False) + "\n")
    evidence = Evidence.load(path)
    assert evidence.references_checked is evidence.holdout_checked is None
    assert evidence.digest == file_digest(path)
    assert recompute(out) == evidence
    assert "The version that made this audit did not read training logs" in summary(evidence)


def test_committed_evidence_is_written_as_it_was() -> None:
    """The order of the fields is part of the format: the sample's certificate holds the digest of its file."""
    path = Path(__file__).parents[2] / "docs" / "sample" / "evidence.json"
    evidence = Evidence.load(path)
    assert evidence.text().encode() == path.read_bytes()
    assert list(evidence.model_dump()) == list(json.loads(path.read_text()))
