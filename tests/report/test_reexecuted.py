"""Report and letter on a re-execution: what was done again, in words for the person who asked, and only where it was signed."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from audits import evidence_of
from deletions import NO_AUDIT, executed_record, model_of, of_other_weights, proof_about, record_of, request_of, within_noise
from report_reading import Page
from score_tables import simulated_table

from verify import InputError
from verify.certificate.check import Claimed, Signer
from verify.certificate.reexecution import ReexecutionClaim
from verify.report.deletion import render
from verify.report.letter import write_letter
from verify.report.letter_words import load_words
from verify.report.reexecuted import REBUILT as REBUILT_ON_THE_PAGE
from verify.report.reexecuted import REBUILT_BY_THE_LOG, in_plain_words_of
from verify.report.rendering import PLAIN
from verify.schema.deletion_record import DeletionRecord
from verify.schema.evidence import Evidence
from verify.schema.reexecution import Finding, Reexecution

SENT = date(2026, 12, 1)
SAYS = load_words("en").texts
FAILED = {
    "word": "NOT_REBUILT",
    "executed": (),
    "tokens": 0,
    "findings": (Finding(kind="segment", what="Steps 11 to 20 of . do not lead to the recorded state."),),
}


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """A certified audit."""
    return evidence_of(simulated_table())


def recorded(proof: Reexecution, folder: Path, evidence: Evidence, **changes: Any) -> DeletionRecord:
    """A deletion record that names a proof; without an audit unless the changes say otherwise."""
    return executed_record(evidence, proof, folder, **(NO_AUDIT | changes))


def signed(proof: Reexecution, record: DeletionRecord, *, keys: tuple[str, str] = ("1", "2")) -> Claimed:
    """What a certificate with this proof says, signed by operator and auditor and checked with their keys."""
    named = record.models[0].reexecution
    claim = ReexecutionClaim.of(proof, proof.digest if named is None else named.proof)
    signers = tuple(Signer(role, key * 64) for role, key in zip(("operator", "auditor"), keys, strict=True))
    return Claimed(signers, (), {proof.model: claim}, verified=True)


def first_page(page: str) -> str:
    return Page(page.split("</style>")[1].split('<h2 class="page">')[0]).text


def letter(record: DeletionRecord, certificate: Claimed | None) -> str:
    """What the letter says was done, on one line; page and mail say the same."""
    found = write_letter(record.requests[0], record, sent=SENT, certificate=certificate)
    text = " ".join(found.text.split()).split("LANGUAGE MODELS ")[1].split(" WHAT WE COULD NOT DELETE")[0]
    page = " ".join(Page(found.html.replace("</p>", " </p>")).text.split())
    assert text in page
    return text


def test_page_one_says_what_was_executed_again(evidence: Evidence, tmp_path: Path) -> None:
    """One sentence for the people who asked, the outcome beside no statistical word, the cost, and what it leaves out."""
    proof = proof_about(evidence)
    record = recorded(proof, tmp_path, evidence)
    page = render(record, [], certificate="certificate.json", proofs=[proof])
    first = first_page(page)
    for expected in (
        REBUILT_BY_THE_LOG,
        "4 states of the training, taken from the commitment of 2026-11-02, which by the training's log none of these records had "
        "reached, were not executed again",
        "REBUILT_WITHOUT(all of 3)",
        "Executed again in 2 s, 0.17 of the tokens of a training.",
        "The training's commitment is dated 2026-11-02 by the clock of whoever wrote it",
        "check certificate.json --reexecution PROOF.json --key KEY.pub",
    ):
        assert expected in first, expected
    whole = Page(page).text
    assert proof.claim in whole
    assert "what the base model had learned from these people is not covered" in whole
    whole_training = proof_about(evidence, unchanged=0)
    assert REBUILT_ON_THE_PAGE in first_page(render(recorded(whole_training, tmp_path, evidence), [], proofs=[whole_training]))
    assert "went into service on the basis of" in whole
    assert all(value in whole.replace("\n", "") for value in (proof.base, str(proof.root), "torch 2.13.0", "threads 2"))
    assert not [word for word in PLAIN if word in page.replace("EQUIVALENT_WITHIN, .verdict", "").split("</style>")[1]]


@pytest.mark.slow
def test_audit_and_re_execution_stand_in_two_frames(evidence: Evidence, tmp_path: Path) -> None:
    """Neither is mixed into the other's word; whichever accuses comes first, else the re-execution."""
    kept = evidence_of(simulated_table(kept=0.2))
    for audit, changes, order in (
        (evidence, {}, ["REBUILT_WITHOUT", "EQUIVALENT_WITHIN"]),
        (kept, {}, ["NOT_FORGOTTEN", "REBUILT_WITHOUT"]),
        (evidence, FAILED, ["NOT_REBUILT", "EQUIVALENT_WITHIN"]),
        (kept, FAILED, ["NOT_REBUILT", "NOT_FORGOTTEN"]),
    ):
        proof = proof_about(audit, **changes)
        tested = {name: getattr(model_of(audit), name) for name in NO_AUDIT}
        page = render(recorded(proof, tmp_path, audit, **tested), [audit], proofs=[proof])
        frames = [value for name, value in Page(page).attributes if name == "class" and str(value).startswith("verdict ")]
        assert frames == [f"verdict {order[0]}", f"verdict {order[1]} second"]
        assert f"Deletion report: {'; '.join(order)}" in page


def test_a_failed_re_execution_accuses(evidence: Evidence, tmp_path: Path) -> None:
    """The page says that the deletion is contradicted and by what, and nothing of a rebuild."""
    proof = proof_about(evidence, **FAILED)
    first = first_page(render(recorded(proof, tmp_path, evidence, basis="exact rebuild"), [], proofs=[proof]))
    assert "a re-execution contradicts the deletion. Steps 11 to 20 of . do not lead to the recorded state." in first
    assert "REBUILT_WITHOUT" not in first


@pytest.mark.slow
def test_a_sample_is_called_one(evidence: Evidence, tmp_path: Path) -> None:
    """Page and letter of a sampled re-execution say how much was executed, and that the rest was not; a given draw is no lot."""
    given = proof_about(evidence, 20, 6)
    for proof, drawn, chosen in (
        (given, "chosen by a nonce that was given", "chosen by means of a code supplied for this purpose"),
        (given.model_copy(update={"draw": given.draw.model_copy(update={"given": False})}), "drawn by lot", "chosen at random"),
    ):
        record = recorded(proof, tmp_path, evidence)
        page = first_page(render(record, [], proofs=[proof]))
        assert f"6 of the 20 parts of this model's training without these records, {drawn}" in page
        assert f"6 of the 20 parts of this computation, {chosen}, were repeated" in letter(record, signed(proof, record))
    proof = given
    record = recorded(proof, tmp_path, evidence)
    first = first_page(render(record, [], proofs=[proof]))
    assert "6 of the 20 parts of this model's training without these records, chosen by a nonce that was given" in first
    assert "7 parts that had read these records would have been found with a probability of 95 %, if that nonce was secret" in first
    drawn = in_plain_words_of(proof.model_copy(update={"draw": proof.draw.model_copy(update={"given": False})}))
    assert "6 of the 20 parts of this model's training without these records, drawn by lot, were executed again" in drawn
    assert drawn.endswith("would have been found with a probability of 95 %.")
    assert "14 of 20 parts of the training were not executed again" in first
    text = letter(record, signed(proof, record))
    assert "were repeated, as a second signature confirms" in text
    assert SAYS["other_parts"] in text
    assert SAYS["by_our_record"] in text
    assert "no part in the training" not in text, "a sample does not show it"


def test_what_was_taken_from_the_commitment_is_named(evidence: Evidence, tmp_path: Path) -> None:
    """By steps of a schedule, or by stages of shards, with the commitment's date and the request that it is older than."""
    for changes, said in (
        (
            {"committed_steps": 12, "requested": "2026-11-03T09:00:00+00:00"},
            "Steps 1 to 12 of the training, taken from the commitment",
        ),
        ({"kind": "shards"}, "4 stages of the training, taken from the commitment of 2026-11-02"),
    ):
        proof = proof_about(evidence, **changes)
        page = Page(render(recorded(proof, tmp_path, evidence), [], proofs=[proof])).text
        assert said in page
        assert "taken from the commitment of 2026-11-02, and were not executed again" in page, "the claim"
        assert ("request that this is compared with" in page) == (proof.requested is not None)


def test_an_outcome_within_noise_has_other_bits_somewhere(evidence: Evidence) -> None:
    """A file that says so of equal segments alone has no distances to print: it is refused where it is read."""
    proof = within_noise(proof_about(evidence))
    equal = [one.model_dump() | {"equal": True, "deviations": ()} for one in proof.executed]
    with pytest.raises(ValueError, match="none ended on other bits"):
        Reexecution.model_validate({**proof.model_dump(by_alias=True), "executed": equal}, strict=False)


def test_an_outcome_within_noise_is_no_rebuild(evidence: Evidence, tmp_path: Path) -> None:
    """Page and letter say how near, and that a smaller trace could hide; nothing is exactly the same, and nothing was rebuilt."""
    for segments, sampled, parts in (
        (3, None, "Every part of"),
        (20, 6, "6 of the 20 parts, chosen by a nonce that was given, of"),
    ):
        proof = within_noise(proof_about(evidence, segments, sampled))
        record = recorded(proof, tmp_path, evidence, basis="exact rebuild")
        page = render(record, [], proofs=[proof])
        first = first_page(page)
        assert f"{parts} this model's training without these records" in first
        assert "a smaller trace cannot be excluded" in first
        assert f"{proof.tolerated:.1%} of the displacement by one of these records" in first
        assert "compared within numerical noise" in first
        assert "torch 2.12.0" in Page(page).text
        text = letter(record, signed(proof, record))
        same = "arrived at nearly the same model." if sampled is None else "with nearly the same result each time."
        assert f"{same} The difference is no larger than rounding explains" in text
        assert "a smaller trace cannot be excluded" in text
        assert (SAYS["other_parts"] in text) is (sampled is not None)
        assert SAYS["by_our_record"] in text, "a state that was not computed again is the operator's word"
        assert "other equipment" not in first + text, "which a tolerance does not require"
        for claimed in ("exactly", "REBUILT_WITHOUT", "had no part"):
            assert claimed not in first + text


def test_within_noise_needs_a_segment_on_other_bits(evidence: Evidence) -> None:
    """A proof that claims distances and has none is refused when it is read, not when they are printed."""
    proof = proof_about(evidence)
    content = within_noise(proof).model_dump(by_alias=True)
    for executed in ([one.model_dump() for one in proof.executed], []):
        with pytest.raises(ValueError, match="it is not within noise: no segment"):
            Reexecution.model_validate({**content, "executed": executed}, strict=False)


@pytest.mark.slow
def test_several_models(evidence: Evidence, tmp_path: Path) -> None:
    """One executed again, one audited: page 1 has a row for each, and says of how many each frame speaks."""
    other = of_other_weights(evidence)
    proof = proof_about(evidence)
    one = recorded(proof, tmp_path, evidence).models[0]
    record = record_of(evidence, other, models=(one, model_of(other, name="search")), requests=(request_of("deleted"),))
    page = Page(render(record, [other], proofs=[proof])).text
    assert "1 of 2 models was executed again. Of it: every training step" in page
    assert "1 of 2 models was audited. Of it: on the exact text" in page
    assert f"{one.name}: The re-execution is about the fine-tuning" in page
    assert "search: " in page
    text = letter(record, signed(proof, record))
    assert "Of 1 of these 2 models we can say this: We went back" in text


def test_proof_and_record_must_belong_together(evidence: Evidence, tmp_path: Path) -> None:
    """A proof that the record names must be given, and no other."""
    proof = proof_about(evidence)
    record = recorded(proof, tmp_path, evidence)
    other = proof.model_copy(update={"records": 21})
    for facts, proofs, message in (
        (record, [], "Give its file with --reexecutions"),
        (record, [other], "this proof is REBUILT_WITHOUT"),
        (record, [proof.model_copy(update={"model": "7" * 64})], "did not make"),
        (record_of(evidence), [proof], "names none as the re-execution"),
    ):
        with pytest.raises(InputError, match=message):
            render(facts, [] if facts is record else [evidence], proofs=proofs)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("derived schedule", "We went back to a point in the model's training before these data had been used"),
        ("own schedule", "We trained a new model from the same starting model as before, without these data."),
        ("shards", "We trained every part of the model that had learned from these data again, without them."),
    ],
)
def test_the_letter_says_what_was_done_again(evidence: Evidence, tmp_path: Path, kind: Any, words: str) -> None:
    """In plain words, for each kind of deletion, with what is not covered; two keys are two signatures, not independence."""
    proof = proof_about(evidence, kind=kind, unchanged=0)
    record = recorded(proof, tmp_path, evidence)
    text = letter(record, signed(proof, record))
    assert words in text
    assert f"{SAYS['repeated.countersigned']} {SAYS['no_part']}" in text
    assert SAYS["repeated_limit"] in text
    assert SAYS["limit"] not in text, "no test was made, so none is qualified"
    kept = proof_about(evidence, kind=kind)
    rest = letter(recorded(kept, tmp_path, evidence), signed(kept, recorded(kept, tmp_path, evidence)))
    assert "had not been used in the rest of the training is what our own record" in rest
    assert "no part" not in rest, "a state that was not computed again is the operator's word"
    alone = letter(record, signed(proof, record, keys=("1", "1")))
    assert SAYS["repeated.own"] in alone
    assert SAYS["repeated.countersigned"] not in alone
    auditor = replace(signed(proof, record), signers=(Signer("auditor", "2" * 64),))
    assert SAYS["repeated.own"] in letter(record, auditor), "one signature is no second one"
    unchecked = letter(record, replace(signed(proof, record), verified=False))
    assert SAYS["repeated.own"] in unchecked, "anybody can add a signature that is not checked"
    assert SAYS["repeated.countersigned"] not in unchecked
    assert "independent" not in text + rest + alone
    for jargon in ("re-execution", "REBUILT", "segment", "bit for bit", "digest", "checkpoint"):
        assert jargon not in text


def test_the_letter_claims_only_what_was_signed(evidence: Evidence, tmp_path: Path) -> None:
    """Without a certificate, or with one that carries another proof or none, no check is told; what accuses is told in any case."""
    proof = proof_about(evidence)
    record = recorded(proof, tmp_path, evidence)
    foreign = Claimed((), (), {proof.model: ReexecutionClaim.of(proof, "9" * 64)})
    for certificate in (None, Claimed((), (), {}), foreign):
        text = letter(record, certificate)
        assert SAYS["rebuilt"] in text
        assert "same model" not in text
        assert "repeated" not in text
    open_proof = proof_about(evidence, word="NOT_TESTABLE", findings=(Finding(kind="near-duplicate", what="2 are near."),))
    unsettled = recorded(open_proof, tmp_path, evidence, basis="exact rebuild")
    assert SAYS["not_repeated"] in letter(unsettled, signed(open_proof, unsettled))
    failed = proof_about(evidence, **FAILED)
    accused = recorded(failed, tmp_path, evidence, basis="exact rebuild")
    for certificate in (None, signed(failed, accused)):
        text = letter(accused, certificate)
        assert SAYS["not_rebuilt"] in text
        assert SAYS["rebuilt"] not in text


def test_a_letter_of_a_batch_speaks_of_all_records(evidence: Evidence, tmp_path: Path) -> None:
    """Where several requests were answered together, what was left out are the records of all of them."""
    proof = proof_about(evidence)
    record = recorded(proof, tmp_path, evidence)
    two = record.model_copy(update={"requests": (request_of("deleted"), request_of("deleted", 1))})
    text = letter(two, signed(proof, two))
    assert "before these data had been used" in text
    assert "about our language models, “these data” means the data of both requests." in text


def test_a_letter_of_a_batch_speaks_of_the_models_of_its_person(evidence: Evidence, tmp_path: Path) -> None:
    """Where two persons' data were in different models, neither letter tells of the other's model, nor of what a check of it found;
    where they share one, it is said for both."""
    proof, failed = proof_about(evidence), proof_about(of_other_weights(evidence), **FAILED)
    one = recorded(proof, tmp_path, evidence, name="chat").models[0]
    other = recorded(failed, tmp_path, of_other_weights(evidence), basis="exact rebuild", name="search").models[0]
    first, second = request_of("deleted", removed={}), request_of("deleted", 1, removed={})
    base = record_of(evidence, requests=(first, second))

    def said(*owners: tuple[str, ...]) -> list[str]:
        models = tuple(model.model_copy(update={"requests": own}) for model, own in zip((one, other), owners, strict=True))
        record = base.model_copy(update={"models": models})
        claims = {
            proof.model: ReexecutionClaim.of(proof, one.reexecution.proof if one.reexecution else ""),
            failed.model: ReexecutionClaim.of(failed, other.reexecution.proof if other.reexecution else ""),
        }
        certificate = Claimed((), (), claims, verified=True)
        letters = [write_letter(request, record, sent=SENT, certificate=certificate).text for request in (first, second)]
        return [" ".join(text.split()) for text in letters]

    mine, theirs = said((first.id,), (second.id,))
    assert "We replaced the language model that" in mine
    assert SAYS["repeated.own"] in mine
    assert SAYS["not_rebuilt"] not in mine
    assert SAYS["not_rebuilt"] in theirs
    assert "together with" not in mine + theirs
    mine, theirs = said((first.id, second.id), (second.id,))
    assert "We replaced the language model that" in mine
    assert SAYS["not_rebuilt"] not in mine
    assert "We replaced the 2 language models that" in theirs
    assert "together with another one" in mine
    assert "together with another one" in theirs


def test_near_duplicates_that_stay_are_said(evidence: Evidence, tmp_path: Path) -> None:
    """A person's judgement that similar records may stay is in the report's limits and in the letter."""
    near = ({"record": "a" * 32, "forget": "b" * 32, "similarity": 0.8},)
    proof = proof_about(evidence)
    proof = Reexecution.model_validate({**proof.model_dump(by_alias=True), "near": near, "near_accepted": True}, strict=False)
    record = recorded(proof, tmp_path, evidence)
    assert "1 training record that is nearly one of these records stayed" in first_page(render(record, [], proofs=[proof]))
    assert "worded nearly like one of the records concerned, stayed in the training" in letter(record, signed(proof, record))
    pair = (request_of("deleted", near_left=1), request_of("deleted", 1, near_left=0))
    known = record.model_copy(update={"requests": pair})
    for request, own in zip(pair, (True, False), strict=True):
        text = " ".join(write_letter(request, known, sent=SENT, certificate=signed(proof, known)).text.split())
        assert ("One other record that is worded nearly like one of yours" in text) is own
        assert "one of the records concerned" not in text, "whose record it is near to is known"
