"""Re-executions in certificates: certified as what they are, and every disagreement with proof, audit and record is named."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import broken, certified, check, proof_of, rewritten, says
from deletions import within_noise
from hypothesis import given, settings
from hypothesis import strategies as st

from verify import InputError
from verify.certificate.check import read_claims
from verify.certificate.reexecution import LISTS, ReexecutionClaim, contradictions, reexecution_statement
from verify.certificate.statements import auditor_statements
from verify.cli.main import main
from verify.io.files import file_digest
from verify.provenance.commitment import CommittedLog, TrainingCommitment
from verify.schema.deletion_record import DeletionRecord, ReexecutedModel
from verify.schema.reexecution import Finding, Reexecution

House = dict[str, Path]
SEGMENT = Finding(kind="segment", what="Steps 11 to 20 of . do not lead to the recorded state.")


def failed_of(house: House) -> Reexecution:
    """A re-execution whose second segment ended elsewhere."""
    honest = proof_of(house)
    bad = honest.executed[1].model_copy(update={"equal": False, "found": "f" * 64})
    return proof_of(house, word="NOT_REBUILT", executed=(honest.executed[0], bad), findings=(SEGMENT,), tokens=1000)


@pytest.fixture(scope="module")
def signed(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with an audit, a sampled re-execution and the deletion record that names both."""
    return certified(house, tmp_path_factory.mktemp("signed"), proof_of(house, 20, 6), about={})


@pytest.mark.parametrize("audit", [True, False], ids=["beside an audit", "alone"])
@pytest.mark.parametrize("about", [{}, None], ids=["recorded", "without a record"])
def test_a_re_execution_is_certified(house: House, tmp_path: Path, audit: bool, about: dict[str, Any] | None) -> None:
    """With an audit or without, proof, model and record hold; its word stands beside the verdict, and is none of the four."""
    path = certified(house, tmp_path, proof_of(house), audit=audit, about=about)
    checked = check(house, path, model=house["after"], reexecution=tmp_path / "proof.json")
    assert checked.holds, broken(checked)
    assert [claim.phrase for claim in checked.reexecutions.values()] == ["REBUILT_WITHOUT(all of 3)"]
    assert checked.verdict == ("NOT_TESTABLE" if audit else None)
    said = " ".join(f"{finding.what}: {finding.detail}" for finding in checked.findings)
    assert "training committed on 2026-11-02; 4 states are taken from the commitment of 2026-11-02" in said
    assert "nobody else vouches for the " + ("audit and the re-execution" if audit else "re-execution") in said
    assert "in service as an exact rebuild" not in said


def test_every_field_of_a_proof_is_signed_or_left_out_on_purpose(house: House) -> None:
    """Nothing that a proof states is lost: lists become counts, distances their extremes, the weights are the subject, and the
    duration is no one's claim."""
    elsewhere = {"schema_", "model", "seconds"}
    assert set(ReexecutionClaim.model_fields) - {"proof", "audit", "noise"} == set(Reexecution.model_fields) - elsewhere
    claim = ReexecutionClaim.of(proof_of(house, 20, 6), "0" * 64)
    assert (claim.executed, claim.near, LISTS) == (6, 0, ("near", "executed"))


def test_a_sample_is_drawn_again(house: House, tmp_path: Path, signed: Path) -> None:
    """Nonce and root draw the executed segments; the size of the sample gives what it finds, and the check says it."""
    checked = check(house, signed, reexecution=signed.parent / "proof.json")
    assert checked.holds, broken(checked)
    assert any("REBUILT_WITHOUT(6 of 20), a sample that finds 7 false segments with 95 %" in one.detail for one in checked.findings)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_a_sample_finds_is_computed_again(house: House, data: st.DataObject) -> None:
    """For every size of training and sample an honest proof holds, and one that promises more than its sample finds does not."""
    segments = data.draw(st.integers(1, 60))
    proof = proof_of(house, segments, data.draw(st.integers(1, segments)))
    assert not list(contradictions(proof))
    fewest = proof.draw.false_found_95
    assert fewest is not None
    for change in ({"false_found_95": fewest - 1}, {"false_found_95": fewest + 1}, {"found": (proof.draw.found or 0) / 2 + 0.01}):
        promising = proof.model_copy(update={"draw": proof.draw.model_copy(update=change)})
        assert list(contradictions(promising)), change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"word": "NOT_REBUILT"}, "the word is NOT_REBUILT, its findings give REBUILT_WITHOUT"),
        ({"word": "NOT_TESTABLE"}, "the word is NOT_TESTABLE"),
        ({"findings": [SEGMENT.model_dump()]}, "its findings give NOT_REBUILT"),
        ({"executed": 20}, "all segments were executed, and a nonce is named"),
        ({"executed": 21}, "21 segments were executed, and there are only 20"),
        ({"executed": 0}, "no segment was executed"),
        ({"executed": 7}, "the sample is said to find a false segment with"),
        ({"segments": 10**9}, "at most 100000 are checked"),
        ({"forget": 3}, "it left out 3 forget records"),
        ({"forget_digest": "9" * 64}, "the audit is about 4"),
        ({"tokenizer": "9" * 64}, "it was made with the tokenizer 9999"),
        ({"audit": "9" * 64}, "it was signed beside the audit 9999"),
        ({"proof": "9" * 64}, "the audit was signed beside the proof"),
        ({"root": "9" * 64}, "with root "),
        ({"committed": None}, "with committed 2026-11-02T08:00:00+00:00, the auditor signed None"),
        ({"kind": "shards"}, "with kind derived schedule, the auditor signed shards"),
        ({"forget": 81, "forget_digest": "9" * 64}, "the re-execution left out 81 forget records, the operator reports 80"),
    ],
)
def test_a_statement_that_contradicts_itself_or_others(
    house: House, tmp_path: Path, signed: Path, change: dict[str, Any], said: str
) -> None:
    """Any edited number, word or digest of a statement that is then signed again by the right key is named."""

    def edit(statements: list[Any]) -> None:
        statements[2]["predicate"] |= change

    assert said in broken(check(house, rewritten(house, tmp_path / "edited.json", edit, signed)))


def test_a_changed_nonce_is_named(house: House, tmp_path: Path, signed: Path) -> None:
    """Another nonce draws other segments: with the proof edited alike and signed again, the draw does not give them."""
    proof = Reexecution.load(signed.parent / "proof.json")
    other = proof.model_copy(update={"draw": proof.draw.model_copy(update={"nonce": "another coin"})})
    other.save(tmp_path / "proof.json")
    assert "not the proof that was certified: draw differs" in broken(check(house, signed, reexecution=tmp_path / "proof.json"))

    def edit(statements: list[Any]) -> None:
        statements[2]["predicate"]["draw"]["nonce"] = "another coin"
        statements[2]["predicate"]["proof"] = file_digest(tmp_path / "proof.json")

    forged = rewritten(house, tmp_path / "edited.json", edit, signed)
    found = broken(check(house, forged, reexecution=tmp_path / "proof.json"))
    assert "its segments are not those that nonce and root draw" in found
    with pytest.raises(InputError, match="not those that nonce and root draw"):
        reexecution_statement(tmp_path / "proof.json")  # nor is it signed


def edited_segment(proof: dict[str, Any]) -> None:
    proof["executed"][1] |= {"expected": "1" * 64, "found": "1" * 64}


def other_counts(proof: dict[str, Any]) -> None:
    proof["records"] = 21


def other_model(proof: dict[str, Any]) -> None:
    proof["model"] = "7" * 64


def other_base(proof: dict[str, Any]) -> None:
    proof["base"] = "7" * 64


def other_word(proof: dict[str, Any]) -> None:
    proof |= {"word": "NOT_REBUILT", "findings": [SEGMENT.model_dump()]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edited_segment, "not the proof that was certified: what it lists of segments or records differs"),
        (other_counts, "not the proof that was certified: records differs"),
        (other_model, "it is about the weights 7777777777777777, which are not the certified ones"),
        (other_base, "not the proof that was certified: base differs"),
        (other_word, "not the proof that was certified: word, findings differs"),
    ],
)
def test_a_proof_swapped_after_signing(
    house: House, tmp_path: Path, signed: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    """Another proof beside the certificate is named with what differs, be it one digest of one segment."""
    content = json.loads((signed.parent / "proof.json").read_text())
    change(content)
    (tmp_path / "proof.json").write_text(json.dumps(content))
    assert said in broken(check(house, signed, reexecution=tmp_path / "proof.json"))


def test_a_certificate_without_one_has_no_proof(house: House, signed: Path) -> None:
    """A proof given with an older certificate does not verify, and a commitment neither."""
    found = broken(check(house, reexecution=signed.parent / "proof.json"))
    assert "the certificate has no valid statement on a re-execution" in found


def of_another_run(proof: Reexecution) -> dict[str, Any]:
    last = proof.executed[-1].model_copy(update={"expected": "d" * 64, "found": "d" * 64})
    return {"executed": (*proof.executed[:-1], last)}


def with_a_gap(proof: Reexecution) -> dict[str, Any]:
    moved = proof.executed[1].model_copy(update={"start": 11, "ran_from": 11})
    return {"executed": (proof.executed[0], moved, proof.executed[2])}


def reordered(proof: Reexecution) -> dict[str, Any]:
    return {"executed": proof.executed[::-1]}


def unequal_digests(proof: Reexecution) -> dict[str, Any]:
    return {"executed": (proof.executed[0].model_copy(update={"found": "d" * 64}), *proof.executed[1:])}


def unnumbered(proof: Reexecution) -> dict[str, Any]:
    return {"executed": tuple(one.model_copy(update={"index": None}) for one in proof.executed)}


def other_tokens(_: Reexecution) -> dict[str, Any]:
    return {"tokens": 1499}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_another_run, "its last segment ends on the weights dddddddddddddddd, not on those of the model"),
        (with_a_gap, "that end at steps 10 and 20 do not follow each other"),
        (reordered, "not those that nonce and root draw"),
        (unequal_digests, "the segment from step 0 to 10 of . contradicts itself"),
        (unnumbered, "bear no numbers"),
        (other_tokens, "1500 tokens, not 1499"),
    ],
)
def test_a_proof_that_contradicts_itself_is_not_signed(
    house: House, tmp_path: Path, change: Callable[[Reexecution], dict[str, Any]], said: str
) -> None:
    """Segments of another run, gaps, another order, other sums: refused before anything is signed."""
    honest = proof_of(house)
    honest.model_copy(update=change(honest)).save(tmp_path / "proof.json")
    with pytest.raises(InputError, match=said):
        reexecution_statement(tmp_path / "proof.json")


def test_a_failed_re_execution_is_certified_as_what_it_is(house: House, tmp_path: Path) -> None:
    """NOT_REBUILT is signed, holds as a statement, and never as a rebuild: no basis puts the model into service."""
    alone = check(house, certified(house, tmp_path / "alone", failed_of(house), audit=False))
    assert alone.holds, broken(alone)
    assert [claim.phrase for claim in alone.reexecutions.values()] == ["NOT_REBUILT"]
    assert any("Steps 11 to 20 of . do not lead to the recorded state" in finding.detail for finding in alone.findings)
    for basis in ("re-execution", "exact rebuild", "audit"):
        path = certified(house, tmp_path / basis, failed_of(house), about={"basis": basis})
        assert "contradicts the deletion: NOT_REBUILT" in broken(check(house, path)), basis


@pytest.mark.parametrize("sampled", [None, 6], ids=["all", "a sample"])
def test_an_outcome_within_noise_is_certified_as_that(house: House, tmp_path: Path, sampled: int | None) -> None:
    """Signed with its distances and what they can hide, never as a rebuild; alone it puts no model into service."""
    proof = within_noise(proof_of(house, 3 if sampled is None else 20, sampled))
    path = certified(house, tmp_path, proof, audit=False, about={"basis": "exact rebuild"})
    checked = check(house, path, reexecution=tmp_path / "proof.json")
    assert checked.holds, broken(checked)
    said = " ".join(finding.detail for finding in checked.findings)
    count = "all of 3" if sampled is None else "6 of 20"
    assert f"WITHIN_NOISE({count}); not bit for bit: {sampled or 3} segments ended at most 1.5 times as far" in said
    assert f"one forget record in one microbatch makes 100; in all segments together {0.12 if sampled is None else 0.8} of" in said
    assert "REBUILT_WITHOUT" not in said
    alone = check(house, certified(house, tmp_path / "alone", proof, audit=False, about={}))
    assert "executing its training again ended as WITHIN_NOISE" in broken(alone)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"word": "REBUILT_WITHOUT"}, "its findings give WITHIN_NOISE"),
        ({"word": "REBUILT_WITHOUT", "findings": []}, "the word is REBUILT_WITHOUT, and it states distances"),
        ({"noise": None}, "the word is WITHIN_NOISE, and it states no distances"),
        ({"noise": {"apart": 4, "farthest": 1.5, "least": 100.0, "hidden": 0.1}}, "4 segments ended on other bits, and only 3"),
        ({"noise": {"apart": 3, "farthest": 4.1, "least": 100.0, "hidden": 0.1}}, "distances of 4.1 times the noise"),
        ({"noise": {"apart": 3, "farthest": 1.5, "least": 8.0, "hidden": 0.1}}, "an effect of 8 times"),
        ({"noise": {"apart": 3, "farthest": 1.5, "least": 100.0, "hidden": 1.0}}, "a tolerance that hides 1"),
        ({"noise": {"apart": 3, "farthest": 1.5, "least": 101.0, "hidden": 0.12}}, "noise differs"),
        ({"trained_with": {}}, "trained_with differs"),
    ],
)
def test_a_statement_within_noise_that_contradicts_itself(house: House, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Distances that do not give the outcome, that are missing, or that are not those of the proof, are named."""
    path = certified(house, tmp_path, within_noise(proof_of(house)), audit=False)
    edited = rewritten(house, tmp_path / "edited.json", lambda found: found[1]["predicate"].update(change), path)
    assert said in broken(check(house, edited, reexecution=tmp_path / "proof.json"))


@pytest.mark.parametrize(
    ("proof", "about", "said"),
    [
        ({}, {}, None),
        ({"committed": None}, {}, "no commitment to its training from before the request was given"),
        ({"committed": None}, {"basis": "exact rebuild"}, None),
        ({"committed": None, "root": None, "kind": "own schedule"}, {}, None),
        ({"committed": "2026-11-03T10:00:00+00:00"}, {}, "which is not before the request"),
        ({"committed": "2026-11-03T09:29:59+00:00"}, {}, None),
        ({"committed": "0001-01-01T00:00:00+14:00"}, {}, "which is not before the request"),
        ({"committed": "9999-12-31T23:59:59-14:00"}, {}, "which is not before the request"),
        ({"committed": "soon"}, {}, "bears no date"),
        ({"word": "NOT_TESTABLE", "findings": (Finding(kind="near-duplicate", what="2 are near."),)}, {}, "ended as NOT_TESTABLE"),
        ({}, {"reexecution": None}, "of which the operator reports nothing"),
        ({}, {"basis": "audit"}, "only EQUIVALENT_WITHIN allows that"),
    ],
)
def test_what_a_model_goes_into_service_on(
    house: House, tmp_path: Path, proof: dict[str, Any], about: dict[str, Any], said: str | None
) -> None:
    """A re-execution puts a model into service where the order of the records was fixed before the request, and nowhere else."""
    text = broken(check(house, certified(house, tmp_path, proof_of(house, **proof), about=about)))
    assert (said in text) if said else text == ""


def test_an_audit_that_accuses_is_not_outweighed(house: House, tmp_path: Path) -> None:
    """A rebuild whose audit found traces, in records under other names say, does not go into service."""

    def accused(statements: list[Any]) -> None:
        model = statements[0]["predicate"]["runDetails"]["metadata"]["request"]["models"][0]
        model |= {"verdict": "NOT_FORGOTTEN", "verdict_phrase": "NOT_FORGOTTEN"}
        says(statements[1], "NOT_FORGOTTEN", model)

    path = certified(house, tmp_path, proof_of(house), about={})
    assert "on a re-execution, but its audit found NOT_FORGOTTEN" in broken(
        check(house, rewritten(house, tmp_path / "accused.json", accused, path))
    )


@pytest.mark.parametrize(("number", "said"), [(1, "beside the audit"), (2, "signed beside the audit, is missing")])
def test_a_statement_that_was_left_out_is_named(house: House, tmp_path: Path, number: int, said: str) -> None:
    """Of audit and re-execution neither can be taken out of a certificate, though no deletion record names them."""
    path = certified(house, tmp_path, proof_of(house))
    assert said in broken(check(house, rewritten(house, tmp_path / "short.json", lambda found: found.pop(number), path)))


def test_the_root_is_that_of_the_training_that_was_replaced(house: House, tmp_path: Path, signed: Path) -> None:
    """The operator's provenance names the root of the logs it started from; a proof of another run has another."""

    def rooted(root: str) -> Callable[[list[Any]], None]:
        def edit(statements: list[Any]) -> None:
            listed = statements[0]["predicate"]["buildDefinition"]["resolvedDependencies"]
            listed.append({"name": "training logs before deletion", "digest": {"sha256": root}})

        return edit

    assert check(house, rewritten(house, tmp_path / "same.json", rooted("c" * 64), signed)).holds
    other = broken(check(house, rewritten(house, tmp_path / "other.json", rooted("d" * 64), signed)))
    assert "has the root cccccccccccccccc, the operator started from one with dddddddddddddddd" in other


def test_the_commitment_is_the_one_it_was_based_on(house: House, tmp_path: Path, signed: Path) -> None:
    """Root and date of a commitment given beside the certificate are those of the re-execution, or it is said which are not."""
    log = CommittedLog(
        place=".",
        root="c" * 64,
        start_weights="b" * 64,
        final_weights="d" * 64,
        tokenizer="e" * 64,
        steps=9,
        records=24,
        states=3,
    )
    for created, root, said in (
        ("2026-11-02T08:00:00+00:00", "c" * 64, ""),
        ("2026-10-02T08:00:00+00:00", "c" * 64, "it was written at 2026-10-02"),
        ("2026-11-02T08:00:00+00:00", "d" * 64, "its root is dddddddddddddddd"),
    ):
        path = tmp_path / f"{root[0]}{created[:7]}.json"
        TrainingCommitment(created=created, logs=(log.model_copy(update={"root": root}),)).save(path)
        text = broken(check(house, signed, commitment=path))
        assert (said in text) if said else text == ""
    assert "no re-execution of the certificate was based on a commitment" in broken(check(house, commitment=path))


def test_audit_and_proof_of_different_models_are_not_signed_together(house: House, tmp_path: Path) -> None:
    """A proof about other weights or other forget records than the audit's is refused, and so is nothing at all."""
    for change, said in (({"model": "7" * 64}, "weights 7777"), ({"forget_digest": "7" * 64}, "forget records 7777")):
        proof_of(house, word="NOT_REBUILT", executed=(), tokens=0, findings=(SEGMENT,), **change).save(tmp_path / "proof.json")
        with pytest.raises(InputError, match=f"is about the {said}"):
            auditor_statements(house["audit"], proof=tmp_path / "proof.json")
    with pytest.raises(InputError, match="needs an audit or a re-execution"):
        auditor_statements()


def hostile(text: str) -> list[str]:
    """A proof cut short, emptied, with a name twice, of another kind, or with what a schema refuses."""
    twice = text.replace('"word":', '"word": "NOT_REBUILT", "word":', 1)
    nan = text.replace('"seconds": 1.5', '"seconds": NaN')
    return [
        "",
        "{",
        "[]",
        "null",
        "{}",
        text[: len(text) // 2],
        twice,
        nan,
        "[" * 5000,
        text.replace("threads", "Zebedee")[:-3] + ',"x":1}',
    ]


def test_hostile_proofs_give_clear_errors(house: House, tmp_path: Path, signed: Path) -> None:
    """Whatever stands in its place, a proof is refused with what to do, in checking as in signing."""
    for content in hostile((signed.parent / "proof.json").read_text()):
        (tmp_path / "proof.json").write_text(content)
        for refused in (
            lambda: check(house, signed, reexecution=tmp_path / "proof.json"),
            lambda: reexecution_statement(tmp_path / "proof.json"),
        ):
            with pytest.raises(InputError, match="reexecute") as caught:
                refused()
            assert "Zebedee" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        check(house, signed, reexecution=tmp_path / "none.json")


def test_claims_are_read_without_a_key(house: House, signed: Path) -> None:
    """For report and letter: who signed, and what a re-execution is said to have shown."""
    claims = read_claims(signed)
    assert [signer.role for signer in claims.signers] == ["operator", "auditor"]
    assert [claim.phrase for claim in claims.reexecutions.values()] == ["REBUILT_WITHOUT(6 of 20)"]


@pytest.mark.slow
def test_on_the_command_line_without_torch(house: House, tmp_path: Path, signed: Path, capsys: Any) -> None:
    """certify signs a proof alone, check compares it and loads neither torch nor numpy; a proof of another model is refused."""
    proof, key = signed.parent / "proof.json", f"{house['key']}.pub"
    files = ["--model", str(house["after"]), "--original", str(house["before"]), "--key", str(house["key"])]
    assert main(["certify", *files, "--output", str(tmp_path / "c.json"), "--reexecution", str(proof)]) == 0
    code = (
        "import sys; from verify.cli.main import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules); sys.exit(status)"
    )
    arguments = ["check", str(tmp_path / "c.json"), "--key", key, "--reexecution", str(proof), "--model", str(house["after"])]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "re-execution: REBUILT_WITHOUT(6 of 20)" in done.stdout
    assert "verdict:" not in done.stdout
    capsys.readouterr()
    other = ["--model", str(house["before"]), "--original", str(house["before"]), "--key", str(house["key"])]
    for arguments, said in (
        ([*other, "--reexecution", str(proof)], "Give the proof of this model"),
        ([*files, "--reexecution", str(proof), str(proof)], "is the second proof"),
        (files, "--audit names 0 and --model 1"),
    ):
        assert main(["certify", *arguments, "--output", str(tmp_path / "d.json")]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "d.json").exists()


def test_what_a_record_keeps_of_a_proof(house: House, signed: Path) -> None:
    """The record names the proof by its file's digest, with outcome, counts and commitment; without one it has no such field."""
    found = ReexecutedModel.of(signed.parent / "proof.json")
    assert (found.phrase, found.executed, found.segments) == ("REBUILT_WITHOUT(6 of 20)", 6, 20)
    assert found.proof == file_digest(signed.parent / "proof.json")
    assert "reexecution" not in json.loads(house["deletion"].read_text())["models"][0]


@pytest.mark.parametrize("path", ["docs/sample/deletion.json", "tests/old_evidence/signed/deletion.json"])
def test_records_of_earlier_versions_keep_their_bytes(path: str) -> None:
    """A record without a re-execution is written as it was read: certificates and ledgers hold its digest."""
    text = (Path(__file__).parents[2] / path).read_text()
    assert DeletionRecord.parse(text, path).text() == text


@pytest.mark.parametrize("lacking", ["verdict", "verdict_phrase", "audit_digest", None])
def test_a_record_names_an_audit_whole_or_not_at_all(house: House, lacking: str | None) -> None:
    """A verdict without its audit's digest is refused, and so is a model that neither audit nor re-execution examined."""
    content = json.loads(house["deletion"].read_text())
    for name in ("verdict", "verdict_phrase", "audit_digest", "tested_by") if lacking is None else (lacking,):
        del content["models"][0][name]
    with pytest.raises(InputError, match="neither an audit" if lacking is None else "belong together"):
        DeletionRecord.parse(json.dumps(content), "it")
