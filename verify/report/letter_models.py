"""What a letter says about the models: what was replaced, what repeating the computation showed, and what tests showed.

Plain sentences without numbers of statistics. What contradicts a deletion is said whether or not it was signed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from verify.certificate.check import Claimed
from verify.certificate.reexecution import ReexecutionClaim
from verify.report.letter_words import Words
from verify.schema.deletion_record import DeletionRecord, ReplacedModel, RequestFacts
from verify.schema.parts import VerdictWord
from verify.schema.reexecution import PASSING, Kind

RETRAINED: Mapping[Kind, str] = {"own schedule": "own", "derived schedule": "derived", "shards": "shards"}
"""Names of the sentences on what was done, by the kind of deletion that was executed again."""


def models_of(request: RequestFacts, record: DeletionRecord) -> tuple[ReplacedModel, ...]:
    """Return the replaced models that had learned from a person's records; all where the record does not tell persons apart."""
    return tuple(model for model in record.models if model.requests is None or request.id in model.requests)


def about_models(
    models: Sequence[ReplacedModel], record: DeletionRecord, certificate: Claimed | None, words: Words
) -> tuple[str, ...]:
    """Say what was done to some models and what checks showed: repeated computations, then tests, each with what it leaves open.

    A model is replaced and judged for all requests from whose records it had learned, so what is said is about all of these.

    Args:
        models: the models that had learned from the person's records, at least one.
        record: the deletion record, which may be about further models.
        certificate: what the deletion's certificate says.
        words: the sentences of the letter's language.
    """
    repeated = _repeated(models, _about(models, record, certificate), _near_left(models, record), words)
    rebuilt = all(model.basis != "audit" for model in models) and repeated in ([], [words.say("not_repeated")])
    said = [words.say("rebuilt")] if rebuilt else []
    found = [_found(model, model.verdict, words) for model in models if model.verdict is not None]
    tested = _of_several(found, len(models), words)
    limit = [words.say("limit")] if said or tested else []
    others = len(_sharing(models, record)) - 1
    together = [words.counted("together", others)] if others else []
    return tuple(dict.fromkeys([*together, _replaced(models, record, words), *said, *repeated, *tested, *limit]))


def _about(models: Sequence[ReplacedModel], record: DeletionRecord, certificate: Claimed | None) -> Claimed | None:
    """Return a certificate without what it says of the record's other models."""
    if certificate is None:
        return None
    other = {model.after for model in record.models} - {model.after for model in models}
    claims = {weights: claim for weights, claim in certificate.reexecutions.items() if weights not in other}
    return replace(certificate, reexecutions=claims)


def _sharing(models: Sequence[ReplacedModel], record: DeletionRecord) -> list[RequestFacts]:
    """Return the requests for which some models were replaced."""
    known = None if any(model.requests is None for model in models) else {name for model in models for name in model.requests or ()}
    return [one for one in record.requests if one.outcome == "deleted" and (known is None or one.id in known)]


def _near_left(models: Sequence[ReplacedModel], record: DeletionRecord) -> int:
    """Return how many near-duplicates each of these persons' letters counts as left in the training data, together."""
    return sum(one.near_left or 0 for one in _sharing(models, record))


def _replaced(models: Sequence[ReplacedModel], record: DeletionRecord, words: Words) -> str:
    """Say that models were replaced and, where the operator states it, that the old ones are out of service."""
    said = words.counted("replaced", len(models))
    if {model.before for model in models} <= set(record.retired):
        said += f" {words.counted('retired', len(models))}"
    return said


def _repeated(models: Sequence[ReplacedModel], certificate: Claimed | None, near_left: int, words: Words) -> list[str]:
    """Say of which models the computation was repeated, with what outcome, and what that leaves open.

    Near-duplicates that the persons' letters count are not said again; of others nobody knows whose record they are near to.
    """
    named = {model.after: model.reexecution for model in models if model.reexecution is not None}
    signed = {} if certificate is None else dict(certificate.reexecutions)
    if "NOT_REBUILT" in {*(one.word for one in named.values()), *(claim.word for claim in signed.values())}:
        return [words.say("not_rebuilt")]
    claims = [signed[weights] for weights, one in named.items() if weights in signed and signed[weights].proof == one.proof]
    rebuilt = [claim for claim in claims if claim.word in PASSING]
    if not rebuilt or certificate is None:
        return [words.say("not_repeated")] if claims else []
    by = "countersigned" if _two_keys(certificate) else "own"
    said = [f"{words.say(f'retrained.{RETRAINED[claim.kind]}')} {_checked(claim, by, words)}" for claim in rebuilt]
    near = [words.say("near")] if any(claim.near > near_left for claim in rebuilt) else []
    return [*_of_several(said, len(models), words), *near, words.say("repeated_limit")]


def _of_several(said: Sequence[str], total: int, words: Words) -> list[str]:
    """Return what is said of some models, each sentence once; one that does not hold for all says for how many it does."""
    counts = Counter(said)
    return [
        one if count == total else words.say("of_several", count=count, total=total, sentence=one) for one, count in counts.items()
    ]


def _two_keys(certificate: Claimed) -> bool:
    """Return whether both signed, as was checked with keys, and no key as operator and as auditor.

    Who holds the keys, and whether their holders are independent, no file can show.
    """
    if not certificate.verified:
        return False
    keys = {role: {signer.key for signer in certificate.signers if signer.role == role} for role in ("operator", "auditor")}
    return bool(keys["operator"]) and keys["operator"].isdisjoint(keys["auditor"])


def _checked(claim: ReexecutionClaim, by: str, words: Words) -> str:
    """Say what repeating the computation showed.

    Where states or parts of the training were not computed again, a record that was false from the start would not be noticed.
    """
    whole, near = claim.executed == claim.segments, claim.word == "WITHIN_NOISE"
    if whole:
        said = [words.say(f"{'nearly' if near else 'repeated'}.{by}")]
    else:
        counts = {"executed": claim.executed, "segments": claim.segments}
        chosen = words.say("chosen.given" if claim.draw.given else "chosen.random")
        said = [words.say(f"{'nearly_sampled' if near else 'sampled'}.{by}", chosen=chosen, **counts)]
    said += [words.say("nearly_means")] if near else []
    said += [] if whole else [words.say("other_parts")]
    if claim.unchanged:
        said.append(words.say("by_our_record"))
    elif whole and not near:
        said.append(words.say("no_part"))
    return " ".join(said)


def _found(model: ReplacedModel, verdict: VerdictWord, words: Words) -> str:
    """Return what the test of one model says; it names only those models or parts of it that it was compared with."""
    result = words.say(f"result.{verdict}")
    if verdict == "NOT_TESTABLE":
        return result
    table = "level table" in model.tested_by
    if "asked otherwise" in model.tested_by:
        return f"{words.say('compared.table_otherwise' if table else 'compared.otherwise')} {result}"
    if verdict != "EQUIVALENT_WITHIN" and not table and "retrained references" not in model.tested_by:
        alone = "compared.siblings" if "shard siblings" in model.tested_by else "compared.alone"
        return f"{words.say(alone)} {result}"
    only = f" {words.say('exact_only')}" if verdict == "EQUIVALENT_WITHIN" else ""
    return f"{words.say('compared.table' if table else 'compared.exact')} {result}{only}"
