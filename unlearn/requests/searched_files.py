"""Whether the searched files hold everything that the models were trained on, before a letter says that nothing was found."""

from collections.abc import Collection, Sequence

from unlearn.requests.batch_state import replaced_weights
from unlearn.requests.choices import Choices
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.search_tokens import advice
from unlearn.requests.matching import Matched
from unlearn.requests.models_in_service import model_roots
from unlearn.scan.lineage import hashes_of_records, logged_people, records_of_models
from verify.data.identity import RecordKey
from verify.data.sources import stream_records
from verify.errors import InputError


def require_searched(ledger: Ledger, matched: Sequence[Matched], choices: Choices, key: RecordKey) -> None:
    """Check, where a request would become `not_found`, that it was looked for in every way and in all that models were trained on.

    The wrong file, or one of two, would make "no record of you was found" untrue. Models that a verified deletion replaced are left
    out, and so are records that the ledger names: whom they are about is known.

    Raises:
        InputError: an earlier version recorded what is searched for in the request, or a model below the folders was trained on a
            record that is in none of the files.
    """
    unfound = [entry.request for entry in matched if not entry.removed and not entry.candidates]
    if not unfound:
        return
    if (said := advice([ledger.request(name) for name in unfound])) is not None:
        raise InputError(f"nothing was found, but not everything was looked for. {said}")
    replaced = replaced_weights(ledger.requests())
    trained = {folder: seen for folder, weights, seen in records_of_models(model_roots(choices)) if weights not in replaced}
    if not any(trained.values()):
        return
    known = {*hashes_of_records(choices.data, key, choices.fields), *_matched_before(ledger)}
    for folder, seen in trained.items():
        if missing := len(seen - known):
            raise InputError(
                f"{', '.join(unfound)}: nothing was found, but {folder} was trained on {missing} of {len(seen)} records that are "
                "in none of the files, and they may be this person's. Name all its training files with --data (and their columns), "
                "or leave a model that is not in service out of --models."
            )


def require_all_logged(ledger: Ledger, matched: Sequence[Matched], choices: Choices, key: RecordKey) -> None:
    """Check that the log of no model lists a record as a requested person's that the files do not have as theirs.

    Such a record was changed, given to another subject or taken out of the files after the training; no search of the files finds
    the models that know it. Models that a verified deletion replaced are left out, and so are records that the ledger names.

    Raises:
        InputError: a model below the folders has such a record.
    """
    before, replaced = frozenset(_matched_before(ledger)), replaced_weights(ledger.requests())
    for folder, weights, logged in logged_people(model_roots(choices)) if matched else ():
        if weights in replaced:
            continue
        by_person: dict[str, set[str]] = {}
        for name, people in logged.items():
            for person in people:
                by_person.setdefault(person, set()).add(name)
        for entry in matched:
            theirs = {name for spelled in entry.spelled for name in by_person.get(spelled, ())}
            known = {match.record for match in (*entry.removed, *entry.undecided, *entry.candidates)} | entry.rejected
            if (missing := len(theirs - known - before)) and _by_texts(choices, key, known) >= theirs - known - before:
                raise InputError(
                    f"{entry.request}: the log of {folder}, of an earlier version, lists {missing} of this person's records by "
                    "their texts alone. Whether their tool calls and other fields were the same is not shown, and this version "
                    "cannot repeat that training: train the model again without them, deploy it, and take this one out of --models."
                )
            if missing:
                count = f"{missing} {'record' if missing == 1 else 'records'}"
                raise InputError(
                    f"{entry.request}: by its log, {folder} was trained on {count} of this person that the files do not have under "
                    "their identifiers: changed since, taken out, or in another file. Name the files as they were trained on with "
                    "--data, or leave a model that is not in service out of --models."
                )


def _by_texts(choices: Choices, key: RecordKey, names: Collection[str]) -> set[str]:
    """Return the keyed hashes under which earlier versions listed records that have these."""
    records = (record for file in choices.data for record in stream_records(file, choices.fields))
    return {key.of(record.text_fingerprint) for record in records if key.of(record.fingerprint) in names}


def _matched_before(ledger: Ledger) -> Collection[str]:
    """Return keyed hashes of the records of all requests: deleted ones may have left the files."""
    facts = [request.latest("matched") or {"records": []} for request in ledger.requests()]
    return {str(entry["record"]) for found in facts for entry in found["records"]}
