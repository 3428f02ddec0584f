"""What an auditor's statement claims: the verdict, what was asked, and whether the two contradict each other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from verify.certificate.attachments import Finding
from verify.io.documents import Frozen, invalid_field
from verify.schema.attack_results import AttackResult
from verify.schema.channels import MEAN_LOSS, ChannelResult, channels_asked, contradiction, verdict_phrase
from verify.schema.deletion_record import RequestFacts
from verify.schema.inputs import AuditedModel, AuditedSet
from verify.schema.judged_by import TABLE_RULES, ControlsAccount, LevelTableUsed, Look, looks_in_words, table_rule_in_words
from verify.schema.moments import read_time
from verify.schema.near_duplicates import left_in_words
from verify.schema.parts import Gate, Test
from verify.schema.settings import Settings

RESULTS = {"EQUIVALENT_WITHIN": "PASSED", "NOT_FORGOTTEN": "FAILED", "INCONCLUSIVE": "WARNED", "NOT_TESTABLE": "WARNED"}
"""The in-toto test-result predicate has three results only; the verdict itself is in the annotations, and it is what counts."""
WHAT, JUDGED_BY = "what was asked", "judged by"
SECOND_RULE = ("channels", "subjects", "asked")

Part = TypeVar("Part", bound=Frozen)


def claimed_phrase(found: Mapping[str, Any]) -> str:
    """Format the auditor's verdict with its parameters, from the annotations that the auditor signed.

    Raises:
        KeyError, TypeError, IndexError, ValueError: the annotations lack what this version expects.
    """
    settings = found["evidence"]["settings"]
    sizes = [entry["records"] for entry in found["evidence"]["sets"] if entry["role"] == "forget"]
    channels = _channels(found["evidence"]) if _rule(found) > 1 else None
    numbers = settings["margin"], settings["alpha"], found["records_accused"], sizes[0]
    subjects = found["evidence"].get("subjects", 0)
    return verdict_phrase(str(found["verdict"]), *numbers, channels, subjects, by_table=_rule(found) in TABLE_RULES)


def claim_finding(predicate: Mapping[str, Any]) -> Finding:
    """Check that an auditor's verdict follows from the channels, tests and validity checks beside it, and say what was asked.

    Args:
        predicate: predicate of the auditor's statement, whose signature was verified.

    Raises:
        KeyError, TypeError, IndexError: it lacks what this version expects.
    """
    found = predicate["annotations"]
    word, evidence = str(found["verdict"]), found["evidence"]
    if evidence["verdict"] != word or predicate["result"] != RESULTS.get(word):
        return Finding(WHAT, False, f"the statement says {word} and {predicate['result']}, its evidence {evidence['verdict']}")
    if invalid := _invalid(evidence):
        return Finding(WHAT, False, invalid)
    if _rule(found) == 1:
        later = [name for name in SECOND_RULE if evidence.get(name) or found.get(name)]
        if later:
            return Finding(WHAT, False, f"a verdict by rule 1 has no {later[0]}")
        return Finding(WHAT, True, f"{MEAN_LOSS} (rule 1, which asks in no other way)")
    try:
        channels, tests, gates = _channels(evidence), _parts(evidence, "tests", Test), _parts(evidence, "gates", Gate)
    except ValidationError as error:
        place, reason = invalid_field(error, ChannelResult, Test, Gate)
        return Finding(WHAT, False, f"the signed evidence is not valid: {place or 'an entry'}: {reason}")
    asked = list(channels_asked(channels))
    if found["asked"] != asked:
        return Finding(
            WHAT, False, f"the statement says {', '.join(map(str, found['asked']))}; its channels say {', '.join(asked)}"
        )
    count = found["records_accused"] + evidence["subjects"]
    tiers = evidence["tiers"], evidence["accused_by"]
    by_table = _rule(found) in TABLE_RULES
    references = None if by_table else sum(entry["role"] == "reference" for entry in evidence["models"])
    if wrong := contradiction(evidence["verdict"], channels, *tiers, count, tests, gates, references):
        return Finding(WHAT, False, f"the verdict contradicts its evidence: {wrong}")
    return Finding(WHAT, True, MEAN_LOSS if len(asked) == 1 else ", ".join(asked))


def _invalid(evidence: Mapping[str, Any]) -> str | None:
    """Return what no audit writes into its evidence, of the parts that the verdict's phrase and the attacks' claims rest on."""
    try:
        Settings.model_validate_json(json.dumps(evidence["settings"]))
        for name, kind in (("models", AuditedModel), ("sets", AuditedSet), ("attacks", AttackResult)):
            _parts(evidence, name, kind)
    except ValidationError as error:
        place, reason = invalid_field(error, Settings, AuditedModel, AuditedSet, AttackResult)
        return f"the signed evidence is not valid: {place or 'an entry'}: {reason}"
    return None


def _rule(found: Mapping[str, Any]) -> int:
    return int(found["evidence"]["settings"].get("rule", 1))


def _channels(evidence: Mapping[str, Any]) -> tuple[ChannelResult, ...]:
    return _parts(evidence, "channels", ChannelResult)


def _parts(evidence: Mapping[str, Any], name: str, kind: type[Part]) -> tuple[Part, ...]:
    # Through JSON: the schema is strict, and only there accepts lists for tuples.
    return tuple(kind.model_validate_json(json.dumps(entry)) for entry in evidence[name])


def judge_findings(predicate: Mapping[str, Any], requests: Sequence[RequestFacts]) -> Iterator[Finding]:
    """State what judged, where a level table did, and the audits of these weights and controls; check the table's age.

    A table that was made once it was known who asks can be made to fit the answer.

    Args:
        predicate: predicate of the auditor's statement, whose signature was verified.
        requests: those that the operator's statement is about; empty without it.

    Raises:
        KeyError, TypeError: the evidence lacks what this version expects.
        ValueError: its level table, its list of earlier audits or its account of the controls is not valid.
    """
    evidence, rule = predicate["annotations"]["evidence"], _rule(predicate["annotations"])
    if (rule in TABLE_RULES) != (evidence.get("level_table") is not None):
        yield Finding(JUDGED_BY, False, "a verdict by rule 3 or 4, and no other, names the level table that it rests on")
    elif evidence.get("level_table") is not None:
        used = LevelTableUsed.model_validate_json(json.dumps(evidence["level_table"]))
        before = next((entry["weights"] for entry in evidence["models"] if entry["role"] == "original"), None)
        wrong = _not_this_table(used, str(before), requests)
        age = "" if not requests else ", before the request"
        said = f"{used.what}, made on {used.created[:10]}{age}, by {table_rule_in_words(rule)}; no retrained references"
        said += f"; SHA-256 of its header {used.digest[:16]}"
        yield Finding(JUDGED_BY, wrong is None, wrong or said)
    if evidence.get("looks"):
        looks = tuple(Look.model_validate_json(json.dumps(entry)) for entry in evidence["looks"])
        yield Finding("audits of these weights", True, looks_in_words(looks))
    if evidence.get("account"):
        account, settings = ControlsAccount.model_validate_json(json.dumps(evidence["account"])), evidence["settings"]
        wrong = account.wrong(float(settings["alpha"]), settings.get("expected_audits"))
        yield Finding("audits against these controls", wrong is None, wrong or account.said(float(settings["alpha"])))
    elif evidence["settings"].get("expected_audits") and any(entry["role"] == "holdout" for entry in evidence["sets"]):
        said = "the settings plan for several audits against the same controls, and the evidence does not say which this is"
        yield Finding("audits against these controls", False, said)
    left = evidence.get("near_duplicates")
    if left and left["records"]:
        by_table = evidence.get("level_table") is not None
        yield Finding("near-duplicates that stay", True, left_in_words(**left, by_table=by_table))


def _not_this_table(used: LevelTableUsed, before: str, requests: Sequence[RequestFacts]) -> str | None:
    """Return why a level table cannot judge this deletion, or None."""
    if (used.original != before) != used.descended:
        return f"the level table belongs to the weights {used.original[:16]}, before deletion they were {before[:16]}"
    made = read_time(used.created)
    if made is None:
        return "the level table bears no date"
    if wrong := _impossible(used, made):
        return f"the level table contradicts itself: {wrong}"
    counted = [one for one in requests if one.outcome in ("deleted", "open")]
    if late := sum(not one.is_after(made) for one in counted):
        return (
            f"the level table was made at {used.created}, which is not before {late} of {len(counted)} requests: a table made once "
            "it is known who asks can be made to fit the answer"
        )
    return None


def _impossible(used: LevelTableUsed, made: datetime) -> str | None:
    """Return what no level table can be, or None."""
    destroyed = read_time(used.destroyed)
    if destroyed is None:
        return "nothing says when its models were destroyed"
    if (destroyed.tzinfo is None) != (made.tzinfo is None) or destroyed > made:
        return f"its models were destroyed at {used.destroyed}, after it was made"
    if used.judging > used.models or used.references > used.judging:
        return f"{used.judging} of its {used.models} models judged, and {used.references} of those never saw a person"
    if used.rows > used.rows_signed or used.controls > (used.controls_signed or used.controls):
        return "it has more rows or controls than when it was signed"
    return None


def adapter_finding(predicate: Mapping[str, Any]) -> Finding | None:
    """State what an adapter's certificate covers, and what still holds without the adapter; None for a model without one.

    Args:
        predicate: predicate of the auditor's statement, whose signature was verified.
    """
    found = predicate["annotations"]["evidence"].get("without_adapter")
    return None if found is None else Finding("adapter", True, str(found["reason"]))
