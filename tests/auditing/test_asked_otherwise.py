"""Audits that ask in other ways: what the evidence and the scores say of it, and the commitment to rewordings."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from verify import InputError, Settings, audit, register, summary
from verify.auditing import commitments
from verify.auditing.commitments import SALT, commit
from verify.auditing.recompute import recompute
from verify.auditing.registration import Registration
from verify.cli.main import main
from verify.data.rewordings import Rewordings
from verify.errors import RunError
from verify.schema.evidence import Evidence
from verify.scores import channels
from verify.scores.table import ScoreTable

SETTINGS = Settings(attacks=("loss",), planted_draws=20, retain_records=6)
TEMPLATES = """
templates:
  - prompt: 'Where does (?P<who>.+) live\\?'
    rewordings: ['The home of {who}?', 'At which number is {who} found?']
"""


def rows(prefix: str, count: int = 8) -> list[dict[str, str]]:
    return [
        {
            "example_id": f"{prefix}{n}",
            "subject_id": f"{prefix}-{n // 2}",
            "prompt": f"Where does {prefix} Quill{n} live?",
            "completion": f"At number {n}, {prefix} lane.",
        }
        for n in range(count)
    ]


SETS: dict[str, Any] = {"forget_set": rows("forget"), "retain_set": rows("retain"), "holdout_set": rows("holdout")}


@pytest.fixture(scope="module")
def models(model_dir: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model, two noisy copies as references and one as target."""
    root, paths = tmp_path_factory.mktemp("models"), []
    for index in range(3):
        model = AutoModelForCausalLM.from_pretrained(model_dir)
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(root / str(index))
        tokenizer.save_pretrained(root / str(index))
        paths.append(root / str(index))
    return {"model": paths[0], "original": model_dir, "references": paths[1:]}


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    path = tmp_path / "templates.yaml"
    path.write_text(TEMPLATES)
    return path


@pytest.mark.slow
def test_every_way_of_asking_is_in_the_scores_and_the_verdict_follows_from_them(
    models: dict[str, Any], templates: Path, tmp_path: Path
) -> None:
    """All standard channels, for every model, forget records and controls alike; none of the words is written anywhere."""
    said: list[tuple[str, float]] = []
    evidence = audit(
        **models,
        **SETS,
        base=models["original"],
        rewordings=templates,
        settings=SETTINGS,
        output_dir=tmp_path / "out",
        cache_dir=tmp_path / "cache",
        progress=lambda message, share: said.append((message, share)),
    )
    table = ScoreTable.load(tmp_path / "out" / "scores.parquet")
    assert table.channels() == (
        *("rewording 1", "rewording 2", "instruction", "few-shot", "no prompt", "layer 1", "int8", "int4", "relearned"),
    )
    for name in table.channels():
        for model in table.models():
            for role in ("forget", "holdout"):
                assert np.isfinite(table.channel(name, model, role)).all()
            assert name not in table.blocks[model, "retain"].channels
    assert evidence.channels_not_run == ()
    assert evidence.rewordings is not None
    assert (evidence.rewordings.source, evidence.rewordings.count, evidence.rewordings.committed) == ("templates", 2, False)
    assert evidence.settings.relearning_rate == 1e-4, "the original has no training log"
    sentence = "into other words in 2 ways, by the auditor&#39;s templates; the wordings were chosen after the unlearning"
    assert sentence in (tmp_path / "out" / "report.html").read_text()
    assert sentence.replace("&#39;", "'") in summary(evidence)
    assert recompute(tmp_path / "out") == evidence == Evidence.load(tmp_path / "out" / "evidence.json")
    assert [share for _, share in said] == sorted(share for _, share in said)
    assert len([message for message, _ in said if message == "scoring target"]) > 9
    for folder in ("out", "cache"):
        for path in (tmp_path / folder).iterdir():
            assert not any(word in path.read_bytes() for word in (b"The home of", b"Quill", b"At which number"))


@pytest.mark.slow
def test_the_cache_changes_nothing(models: dict[str, Any], templates: Path, tmp_path: Path) -> None:
    """The second audit takes all channels from the cache and gives the same evidence, time stamps aside."""
    common = {**models, **SETS, "rewordings": templates, "settings": SETTINGS, "cache_dir": tmp_path / "cache"}
    first, second = audit(**common), audit(**common)
    same = {"created": "", "duration_seconds": 0.0}
    assert first.model_copy(update=same) == second.model_copy(update=same)


@pytest.mark.slow
def test_a_target_that_cannot_be_asked(models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that fails on the target alone stands in the way of a certificate, recomputed too; one that fails on a reference
    does not: nothing speaks for the target's having been made to fail."""
    honest = channels.across_subjects

    def failing(name: str) -> Callable[..., Any]:
        def across(loaded: Any, *given: Any, **named: Any) -> Any:
            if loaded.name == name:
                raise RunError("relearning diverged")
            return honest(loaded, *given, **named)

        return across

    asked = Settings(attacks=("loss",), planted_draws=20, channels=("no-prompt", "relearned"))
    monkeypatch.setattr(channels, "across_subjects", failing(Path(models["model"]).name))
    evidence = audit(**models, **SETS, settings=asked, output_dir=tmp_path / "out")
    assert [(entry.channel, entry.model) for entry in evidence.channels_not_run or ()] == [("relearned", "target")]
    gate = next(gate for gate in evidence.gates if gate.name == "asked in every way")
    assert (gate.passed, gate.blocks) == (False, "INCONCLUSIVE")
    assert "ways that worked on the model before unlearning: relearned" in gate.reason
    assert recompute(tmp_path / "out") == evidence
    monkeypatch.setattr(channels, "across_subjects", failing(Path(models["references"][0]).name))
    other = audit(**models, **SETS, settings=asked)
    assert [(entry.channel, entry.model) for entry in other.channels_not_run or ()] == [("relearned", "reference 1")]
    assert "asked in every way" not in [gate.name for gate in other.gates]


@pytest.mark.slow
def test_what_is_missing_is_named(models: dict[str, Any], tmp_path: Path) -> None:
    """Without rewordings that channel, without controls all; by choice nothing is missing, and the table is one of schema 1."""
    quick = {"attacks": ("loss",), "planted_draws": 20}
    without = audit(**models, **SETS, settings=Settings(**quick, channels=("rewordings", "no-prompt")))
    assert [entry.channel for entry in without.channels_not_run or ()] == ["rewordings"]
    assert "not asked: rewordings: needs the records in other words; give them with --rewordings FILE" in summary(without)
    alone = audit(**models, forget_set=SETS["forget_set"], settings=Settings(**quick))
    assert [entry.reason for entry in alone.channels_not_run or ()] == [
        "needs never-trained records to compare with; give them with --holdout FILE"
    ]
    exact = audit(**models, **SETS, settings=Settings(**quick, channels=("exact",)), output_dir=tmp_path / "out")
    assert exact.channels_not_run == ()
    assert exact.rewordings is None
    assert ScoreTable.load(tmp_path / "out" / "scores.parquet").channels() == ()
    assert recompute(tmp_path / "out") == exact


class TestACommitment:
    """A registration binds the auditor to rewordings, and tells nobody which."""

    def test_it_is_opened_by_the_file(self, models: dict[str, Any], templates: Path, tmp_path: Path) -> None:
        """The evidence says that they were committed to; nothing in the registration depends on the content alone."""
        path = tmp_path / "registration.json"
        settings = Settings(attacks=("loss",), planted_draws=20, channels=("rewordings",))
        registration = register(path, **SETS, settings=settings, rewordings=templates)
        salted = templates.with_name(templates.name + SALT)
        assert stat.S_IMODE(salted.stat().st_mode) == 0o600
        assert registration.rewordings == Registration.load(path).rewordings == commit(templates), "the salt is drawn once"
        assert "home" not in path.read_text()
        evidence = audit(**models, **SETS, registration=path, rewordings=templates)
        assert evidence.rewordings is not None
        assert evidence.rewordings.committed
        assert "committed to before the unlearning" in summary(evidence)
        salted.unlink()
        assert commit(templates) != registration.rewordings

    def test_nothing_else_opens_it(self, templates: Path, tmp_path: Path) -> None:
        """Other templates, another or no salt, rows, a model, or no rewordings: refused before any model is read."""
        path = tmp_path / "registration.json"
        register(path, **SETS, settings=SETTINGS, rewordings=templates)

        def audited(**changes: Any) -> None:
            audit("no/model/is/read", "no/model/is/read", **SETS, registration=path, **changes)

        for changes in ({}, {"rewordings": [{"record": "forget0", "rewordings": ["x"]}]}, {"rewording_model": "x"}):
            with pytest.raises(InputError, match="holds a commitment to rewordings"):
                audited(**changes)
        salted = templates.with_name(templates.name + SALT)
        salt = salted.read_text()
        for content in ("0" * 64, "0" * 63, "", "é"):
            salted.write_text(content, encoding="latin-1")
            with pytest.raises(InputError, match=r"does not hold the rewordings|is missing or damaged"):
                audited(rewordings=templates)
        salted.unlink()
        with pytest.raises(InputError, match="is missing or damaged"):
            audited(rewordings=templates)
        salted.write_text(salt)
        templates.write_text(TEMPLATES.replace("home", "house"))
        with pytest.raises(InputError, match="does not hold the rewordings that were registered"):
            audited(rewordings=templates)

    def test_a_file_that_the_audit_would_refuse_is_refused_when_registered(self, templates: Path, tmp_path: Path) -> None:
        """No registration and no salt are written."""
        templates.write_text(TEMPLATES.replace("Where does", "Who is"))
        with pytest.raises(InputError, match="have no rewording"):
            register(tmp_path / "r.json", **SETS, settings=SETTINGS, rewordings=templates)
        templates.write_text(TEMPLATES)
        with pytest.raises(InputError, match="--channels does not name them"):
            register(tmp_path / "r.json", **SETS, settings=Settings(channels=("exact",)), rewordings=templates)
        assert [path.name for path in tmp_path.iterdir()] == ["templates.yaml"]

    def test_a_registration_without_one_is_written_as_before(self, tmp_path: Path) -> None:
        """Neither the new settings nor the commitment is in the file, so its digest is that of earlier versions."""
        register(tmp_path / "r.json", **SETS, settings=SETTINGS)
        content = json.loads((tmp_path / "r.json").read_text())
        assert "rewordings" not in content
        assert not {"channels", "relearning_rate"} & content["settings"].keys()
        assert Registration.load(tmp_path / "r.json").rewordings is None


def test_a_model_may_word_them(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest is in the evidence; both sources at once are refused."""
    asked: list[Any] = []

    def reword(loaded: Any, records: Any, count: int, seed: int, progress: Any) -> Rewordings:
        asked.extend(records)
        return Rewordings.of_questions(records, [[f"a {n}", f"b {n}"] for n in range(len(records))], count, "0" * 64, loaded.digest)

    monkeypatch.setattr(commitments, "reword_by_model", reword)
    settings = Settings(attacks=("loss",), planted_draws=20, channels=("rewordings",))
    evidence = audit(**models, **SETS, rewording_model=models["original"], settings=settings)
    assert len(asked) == 16
    assert evidence.rewordings is not None
    original = next(model for model in evidence.models if model.role == "original")
    assert (evidence.rewordings.source, evidence.rewordings.model) == ("model", original.weights)
    with pytest.raises(InputError, match="two sources of the same"):
        audit(**models, **SETS, rewordings=[], rewording_model="x")


@pytest.mark.slow
def test_flags(models: dict[str, Any], templates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """register and audit with rewordings and chosen channels; an unknown channel is refused with the known ones."""
    words = []
    for role in ("forget", "retain", "holdout"):
        path = tmp_path / f"{role}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in SETS[f"{role}_set"]))
        words += [f"--{role}", str(path)]
    chosen = ["--channels", "rewordings", "no-prompt", "--attacks", "loss", "--rewordings", str(templates)]
    assert main(["register", "--output", str(tmp_path / "r.json"), *words, *chosen]) == 0
    folders = [str(models["model"]), "--original", str(models["original"]), "--output", str(tmp_path / "out")]
    given = ["--references", *map(str, models["references"]), "--registration", str(tmp_path / "r.json")]
    assert main(["audit", "--model", *folders, *words, *given, "--rewordings", str(templates)]) in (0, 10, 11, 12)
    assert "each asked in other ways too" in capsys.readouterr().err
    evidence = Evidence.load(tmp_path / "out" / "evidence.json")
    assert evidence.settings.channels == ("rewordings", "no-prompt")
    assert evidence.rewordings is not None
    assert evidence.rewordings.committed
    assert main(["register", "--output", str(tmp_path / "s.json"), *words, "--channels", "loudly"]) == 2
    assert "--channels must be one of 'exact', 'rewordings'" in capsys.readouterr().err
