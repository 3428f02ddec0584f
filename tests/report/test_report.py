"""The report: one file, no script, every number beside its interval, nothing from outside obeyed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from audits import BLIND, evidence_of
from report_reading import Page
from score_tables import canary_table, simulated_table

from verify.cli.main import main
from verify.errors import InputError
from verify.io.escaping import visible
from verify.judging.protocol import Aside
from verify.report.channel_words import channels_in_a_cell
from verify.report.html import render, render_comparison
from verify.report.rendering import in_plain_words, said_by
from verify.report.text import comparison, summary
from verify.schema.channels import ChannelResult
from verify.schema.evidence import Evidence
from verify.schema.inputs import Registered
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable

TWINS = Settings(planted_draws=40, twins=True)
TRUTHS: dict[str, dict[str, Any]] = {
    "EQUIVALENT_WITHIN": {},
    "NOT_FORGOTTEN": {"kept": 0.2},
    "INCONCLUSIVE": {"references": 8, "retain": False},
    "NOT_TESTABLE": {"destroyed": 3.0},
}


@pytest.fixture(scope="module")
def audits() -> dict[str, Evidence]:
    """One audit of each verdict."""
    found = {word: evidence_of(simulated_table(**truth)) for word, truth in TRUTHS.items()}
    assert {word: evidence.verdict for word, evidence in found.items()} == {word: word for word in TRUTHS}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("word", TRUTHS)
def test_page_one(audits: dict[str, Evidence], word: str) -> None:
    """The plain sentence, the word, the scope, why, and everything that is not shown stand before the first figure."""
    evidence = audits[word]
    first = Page(render(evidence).split('<h2 class="page">')[0]).text
    for sentence in (in_plain_words(evidence), evidence.verdict_phrase, evidence.scope, *evidence.explanation, *evidence.not_shown):
        assert sentence in first
    assert "Not pre-registered" in first
    assert "proved" not in first.lower()
    if evidence.next_step:
        assert evidence.next_step in first


@pytest.mark.slow
def test_a_registered_audit_names_its_registration(audits: dict[str, Evidence]) -> None:
    """With a registration page 1 shows its digest instead of the warning."""
    named = Registered(digest="d" * 64, created="2026-11-20T09:00:00+00:00")
    page = render(audits["EQUIVALENT_WITHIN"].model_copy(update={"registration": named}))
    assert "d" * 64 in page
    assert "Not pre-registered" not in page


@pytest.mark.slow
@pytest.mark.parametrize("word", TRUTHS)
def test_one_file_without_script(audits: dict[str, Evidence], word: str) -> None:
    """No script, no event handler, no address outside the file, a strict policy, and small enough to mail."""
    page = render(audits[word])
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert not [
        value for name, value in parsed.attributes if name in ("src", "href") and value and not value.startswith(("#", "data:"))
    ]
    assert "default-src 'none'" in page
    assert not re.search(r"url\((?!['\"]?(#|data:))", page)
    assert len(page.encode()) < 1_000_000


@pytest.mark.slow
def test_every_number_has_its_interval(audits: dict[str, Evidence]) -> None:
    """Every attack's mean, AUC and rates appear with their intervals; figures' numbers are in tables."""
    evidence = audits["NOT_FORGOTTEN"]
    text = Page(render(evidence)).text
    for entry in evidence.attacks:
        for value in (entry.mean, entry.auc, *(rate.tpr for rate in entry.tpr)):
            assert value is not None
            assert f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]" in text
    for row in evidence.utility:
        assert f"{row.ratio.value:.3f} [{row.ratio.low:.3f}, {row.ratio.high:.3f}]" in text
    residuals = evidence.figures.residuals
    assert residuals is not None
    assert f"{residuals.residual[0]:.3f}" in text
    assert render(evidence).count("<svg") >= 3


@pytest.mark.slow
def test_other_claims_are_on_it() -> None:
    """Canaries are reported with both exact p-values, the bound, its half, and the commitment."""
    table = simulated_table()
    both = ScoreTable({**table.blocks, **canary_table(remembered=1.0).blocks})
    evidence = evidence_of(both, aside=Aside(BLIND, commitment="e" * 64))
    assert evidence.process is not None
    assert evidence.verdict == "NOT_FORGOTTEN"
    text = Page(render(evidence)).text
    for expected in (
        evidence.process.reason,
        "e" * 64,
        f"{evidence.process.epsilon:.3f}",
        f"{evidence.process.against_retraining:.3f}",
    ):
        assert expected in text


HOSTILE = "<script>alert(1)</script>{{ 7*7 }}\u202eevil\x1b[31m'\"&</td>" + "x" * 300


@pytest.mark.slow
def test_hostile_names_are_inert() -> None:
    """Markup, templates, direction changes and escapes in a model's name are shown, not obeyed."""
    page = render(evidence_of(simulated_table(), name=HOSTILE))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7*7 }}" in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "&lt;U+202E&gt;" in page
    assert visible("a\u202eb\n") == "a<U+202E>b<U+000A>"


@pytest.mark.slow
def test_the_same_evidence_gives_the_same_bytes(audits: dict[str, Evidence], tmp_path: Path) -> None:
    """Rendering twice, and after a round trip through the file, gives the same page."""
    evidence = audits["NOT_FORGOTTEN"]
    evidence.save(tmp_path / "evidence.json")
    assert render(evidence) == render(evidence) == render(Evidence.load(tmp_path / "evidence.json"))
    assert "NaN" not in (tmp_path / "evidence.json").read_text()
    assert json.loads((tmp_path / "evidence.json").read_text())["schema"] == "unlearn-verify/evidence/1"


def test_summaries(audits: dict[str, Evidence]) -> None:
    """The terminal's table names the verdict, every attack, and the gates that did not pass."""
    for word, evidence in audits.items():
        text = summary(evidence)
        assert text.startswith(f"verdict: {word}")
        assert all(entry.attack in text for entry in evidence.attacks)
        for gate in evidence.gates:
            assert gate.passed or gate.reason in text


@pytest.mark.slow
def test_comparison(audits: dict[str, Evidence]) -> None:
    """Side by side: one row per method with its verdict and cost, under 500 kB, on the terminal and on the page."""
    alike = [evidence_of(simulated_table(**truth)) for truth in ({}, {"kept": 0.2}, {"destroyed": 3.0}, {"retain": False})]
    entries = [(f"method_{number}", evidence, None if number == 0 else 0.5) for number, evidence in enumerate(alike)]
    page, text = render_comparison(entries), comparison(entries)
    assert len(page.encode()) < 500_000
    for name, evidence, _ in entries:
        assert name in page
        assert evidence.verdict in text
    assert "0.50 x" in text
    unexamined = "Whether the model still works was not examined: no retain set was given (--retain FILE)."
    assert f"method_3: {unexamined}" in page, "what only some do not show names them"
    assert "Executed again" not in page
    assert "method_2 <code>NOT_REBUILT</code>." in render_comparison(entries, {"method_2": "NOT_REBUILT"})
    with pytest.raises(InputError, match="audit 2 has other retrained references"):
        render_comparison([("one", alike[0], None), ("other", audits["INCONCLUSIVE"], None)])
    moved = alike[1].sets[0].model_copy(update={"digest": "d" * 64})
    with pytest.raises(InputError, match="audit 2 has other forget records"):
        render_comparison([("one", alike[0], None), ("other", alike[1].model_copy(update={"sets": (moved,)}), None)])


def test_channels_in_a_cell_count_what_could_speak() -> None:
    """Accusing ones of those that can accuse, else certified ones of those that can certify; never "0/0 within"."""

    def counted(*channels: str) -> str:
        states = [
            dict(zip(("valid", "certifiable", "accused", "certified"), map("x".__eq__, one), strict=True)) for one in channels
        ]
        return channels_in_a_cell(Evidence.model_construct(channels=tuple(ChannelResult.model_construct(**one) for one in states)))

    assert counted("xxx-", "xx-x", "x---", "----") == "1/3 beyond"
    assert counted("xx-x", "xx--", "x---", "----") == "1/2 within"
    assert counted("x---", "x---", "----") == "0/2 beyond"
    assert counted() == "-"


def test_sentences_about_several_models_are_said_once() -> None:
    """What holds for all stands alone, what holds for some behind all their names; a model without an audit shares nothing."""
    said = [("a", ["all", "two"]), ("b", ["two", "all", "two"]), ("c", ["all", "own"])]
    assert list(said_by(said)) == ["all", "a, b: two", "c: own"]
    assert list(said_by([*said, ("d", [])])) == ["a, b, c: all", "a, b: two", "c: own"]
    assert not said_by([])


@pytest.mark.slow
def test_audits_in_folders_of_one_name_are_told_apart(audits: dict[str, Evidence], tmp_path: Path) -> None:
    """A sweep calls every audit's folder "audit": the folder above tells them apart, and no sentence is lost."""
    for name, truth in (("a", {}), ("b", {"retain": False})):
        (tmp_path / name / "audit").mkdir(parents=True)
        evidence_of(simulated_table(**truth)).save(tmp_path / name / "audit" / "evidence.json")  # type: ignore[arg-type]
    folders = [str(tmp_path / name / "audit") for name in "ab"]
    assert main(["compare", *folders, "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "b/audit: Whether the model still works was not examined" in page
    assert "a/audit: Whether" not in page


@pytest.mark.slow
def test_plain_words_say_what_was_tested() -> None:
    """Each accusation is put by what accuses; without references, or without a retain set, silence is no matter of size."""
    audits = {
        "that never saw them, by more than the margin": evidence_of(simulated_table(kept=0.2)),
        "requires models trained without": evidence_of(simulated_table(references=0), TWINS, Aside(BLIND, 0.5)),
        "whether the model still works was not examined": evidence_of(simulated_table(references=8, retain=False)),
        "than to similar ones that it never saw": evidence_of(simulated_table(references=0, kept=0.5), TWINS, Aside(BLIND, 0.5)),
    }
    for words, evidence in audits.items():
        assert words in in_plain_words(evidence), (words, evidence.verdict)
        assert in_plain_words(evidence) in render(evidence)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [{"retain": False}, {"destroyed": 3.0}, {"references": 2, "model_spread": 0.01}])
def test_no_margin_is_named_that_would_certify_where_a_check_forbids_it(truth: dict[str, Any]) -> None:
    """The tests alone would certify at some margin; the checks would not, and both forms of the report name them."""
    evidence = evidence_of(simulated_table(**({"references": 8} | truth)))  # type: ignore[arg-type]
    assert evidence.verdict != "EQUIVALENT_WITHIN"
    failed = next(gate.name for gate in evidence.gates if not gate.passed and gate.blocks != "nothing")
    for text in (summary(evidence), Page(render(evidence)).text):
        assert "smallest margin" not in text
        assert f"forbid a certificate, whatever the tests show: {failed}" in text
    certified = evidence_of(simulated_table(references=8))
    assert "The smallest margin at which the same tests would certify" in summary(certified)
