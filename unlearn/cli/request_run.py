"""Commands `unlearn request plan`, `run` and `close`: delete the records of approved requests."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from unlearn.cli.ledger import NOTHING_FOUND, LedgerFlags, today
from unlearn.cli.records import lines_of
from unlearn.requests.plan_inputs import PlanInputs
from verify.cli.console import progress_bar
from verify.cli.flags import FieldFlags, SettingsFlags

if TYPE_CHECKING:
    from unlearn.requests.ledger.ledger import Ledger


@dataclasses.dataclass(frozen=True)
class PlanCommand(PlanInputs):
    """Plan approved requests: affected models, records, methods, cost of deletion and proof, and what an audit can show.

    Everything that `run` needs is checked before anything is recorded.

    Cost: a few passes over the training files; the models in service, the base and the references are read once.
    """

    NEEDS: ClassVar[Mapping[str, str]] = {
        "accept_reference_differences": "--references or --accept-reference-differences configuration",
        "commitments": "--reexecution",
        "level_table_key": "no --references",
        "relearning_rate": "no --channels or --channels relearned",
    }

    ids: tuple[str, ...] = ()
    """Requests to plan; the default is all that are approved and not yet planned. Planned ones can be planned again until new
    weights are deployed."""
    confirm: str | None = None
    """File (or -) with proposed rows that a human confirmed as the person's (near-duplicates, similar identifiers, mentions):
    FILE:ROW or the start of a hash, one per line; ID:FILE:ROW if a row is proposed to several requests."""
    not_same: tuple[str, ...] = ()
    """Requests whose remaining similar identifiers and mentions a human rejected as other people. Recorded in the ledger."""
    leave_near_duplicates: bool = False
    """Leave near-duplicates that are not confirmed in the data: they do not belong to the requests."""
    dry_run: bool = False
    """Show the plan without recording it."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)
    audit: SettingsFlags = dataclasses.field(default_factory=SettingsFlags)
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Print the plan and, unless it is a dry run, record it; exit status 3 if requests or decisions are missing."""
        from unlearn.cli.request_text import proposed
        from unlearn.requests.ledger.search_tokens import advice
        from unlearn.requests.noting import note
        from unlearn.requests.planning import DEFAULT_STATES, draft
        from verify.data.identity import RecordKey
        from verify.errors import InputError

        if self.window < 0:
            raise InputError(f"--window must be 0 days or more, got {self.window}.")
        with self.ledger.open() as ledger:
            requests = [ledger.request(name) for name in dict.fromkeys(self.ids)]
            requests = requests or [request for request in ledger.requests() if request.state in DEFAULT_STATES]
            if not requests:
                print(  # noqa: T201
                    "nothing to plan. Approve a request with `unlearn request approve ID`, or name planned ones with --ids."
                )
                return NOTHING_FOUND
            if (said := advice(requests)) is not None:
                print(f"NOTE: {said}", file=sys.stderr)  # noqa: T201
            found = draft(ledger, requests, self._choices(), RecordKey.load(), lines_of(self.confirm), self.not_same)
            for line in proposed(found):
                print(line)  # noqa: T201
            if self.dry_run:
                return 0
            undecided = sum(len(entry.undecided) for entry in found.matched)
            asked = [entry.request for entry in found.matched if entry.candidates]
            if asked:
                print(  # noqa: T201
                    f"\n{', '.join(asked)}: rows that may be about the person under another spelling must be decided first. Review "
                    "them, confirm those that are with --confirm FILE, and reject the others with --not-same ID. Nothing was "
                    "recorded."
                )
                return NOTHING_FOUND
            if undecided and not self.leave_near_duplicates:
                print(  # noqa: T201
                    f"\n{undecided} near-duplicates must be decided first: confirm those that belong to the request with "
                    "--confirm FILE, and leave the others with --leave-near-duplicates. Nothing was recorded."
                )
                return NOTHING_FOUND
            note(ledger, found, self.output)
        for plan in found.plans:
            print(f"Next: unlearn request run {plan.requests[0]} --output {self.output}")  # noqa: T201
        return 0

    def _choices(self) -> Any:
        from unlearn.requests.choices import Choices

        given = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(PlanInputs)}
        return Choices(**given, settings=self.audit.settings(), fields=self.columns.fields())


@dataclasses.dataclass(frozen=True)
class Cleanup:
    """Treatment of remaining copies of deleted data."""

    NEEDS: ClassVar[Mapping[str, str]] = {"rewrite_data": "--remove"}

    suppression: Path = Path("deletions/suppressed.jsonl")
    """List of records and people that must not be trained on again; created if missing."""
    remove: bool = False
    """Remove the copies that may be removed instead of only listing them."""
    rewrite_data: bool = False
    """With --remove: rewrite copies of training data, and on closing the training files, without the deleted rows."""
    reasons: Path | None = None
    """JSON file with reasons for copies that stay: {"path as listed, or a folder above it": "reason"}."""

    def how(self) -> Any:
        """Return the flags as options of the cleanup."""
        from unlearn.requests.copies_left import read_reasons
        from unlearn.requests.purging import Cleaning
        from verify.io.files import read_json

        return Cleaning(self.remove, self.rewrite_data, None if self.reasons is None else read_reasons(read_json(self.reasons)))


@dataclasses.dataclass(frozen=True)
class RunCommand:
    """Run the plan of a request and its batch: register, unlearn, prove or audit, try the next method if needed, clean up.

    After a crash, run it again: it continues where it stopped. The old weights stay in service until you retire them.

    Cost: for every model, the method and its proof or audit as the plan says; each further method of the plan costs both again.
    """

    id: Annotated[str, tyro.conf.Positional]
    """Any request of the batch."""
    references: tuple[str, ...] = ()
    """References to add to the planned ones, for an audit that was inconclusive."""
    accept_exact_rebuild: bool = False
    """Accept an exact rebuild that could not be executed again and whose audit is inconclusive. Recorded as the operator's decision
    in the ledger, certificate and report. Refused if the audit says NOT_FORGOTTEN, or the re-execution NOT_REBUILT."""
    accept_near_duplicates: bool = False
    """A person looked at the training records that are nearly a record to remove, and they may stay."""
    output: Path = Path("deletions")
    """Folder of the batches."""
    cleanup: Cleanup = dataclasses.field(default_factory=Cleanup)
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Run the batch; exit status 0 if the deletion is verified and cleaned up, else 11."""
        from unlearn.cli.request_text import history
        from unlearn.requests.pipeline import run_batch
        from unlearn.requests.purging import purge_batch
        from verify.cli.flags import EXIT_STATUS
        from verify.data.identity import RecordKey

        how = self.cleanup.how()
        with self.ledger.open() as ledger:
            key = RecordKey.load()  # checked by `open`
            state = ledger.request(self.id).state
            if state not in ("deployed", "purged", "closed"):
                with progress_bar("loading"):
                    run_batch(
                        ledger,
                        self.output,
                        self.id,
                        key,
                        self.references,
                        print,
                        self.accept_exact_rebuild,
                        self.accept_near_duplicates,
                    )
            if ledger.request(self.id).state == "deployed":
                left = purge_batch(ledger, self.output, self.id, key, self.cleanup.suppression, how)
                _print_unexplained(left.unexplained)
            request = ledger.request(self.id)
        for line in history(request, today()):
            print(line)  # noqa: T201
        return 0 if request.state in ("purged", "closed") else EXIT_STATUS["INCONCLUSIVE"]


def _print_unexplained(copies: Sequence[Any]) -> None:
    from verify.io.escaping import visible

    for copy in copies:
        why = copy["why"] or "can be removed with --remove"
        print(visible(f"a copy without a reason: {copy['place']} ({copy['kind']}): {why}"))  # noqa: T201
    if copies:
        print(  # noqa: T201
            "Remove what may be removed with --remove (and --rewrite-data), the rest by hand, or give reasons with --reasons FILE."
        )


def _public(key: Path, whose: str) -> str:
    """Return the path of a key's public half, as a command names it, or a placeholder where the key is not a file."""
    return f"{key}.pub" if key.is_file() else f"{whose}.pub"


@dataclasses.dataclass(frozen=True)
class Close:
    """Close a request: retire the old models, check remaining copies, and write and sign the deletion record."""

    NEEDS: ClassVar[Mapping[str, str]] = {"auditor_key": "--operator-key"}

    id: Annotated[str, tyro.conf.Positional]
    """Any request of the batch, or a refused request."""
    retired: tuple[str, ...] = ()
    """Old weights that are now out of service: digests or folders."""
    operator_key: Path | None = None
    """The operator's private key, which signs what was done (create one with `verify-unlearning keygen`): a file, fd:N for an open
    descriptor, or "command:WORDS" for a command that prints it."""
    auditor_key: Path | None = None
    """The auditor's private key, which signs the audit, given in the same ways; the default is the operator's."""
    robustness: tuple[Path, ...] = ()
    """Results of `verify-unlearning probe` on the new weights, at most one file for each replaced model."""
    pdf: bool = True
    """Print the report to PDF as well; without Chromium only the HTML page is written, with a message."""
    templates: Path | None = None
    """Your folder of letter templates (`verify-unlearning letter-templates`); the default is $UNLEARN_VERIFY_LETTERS, else ours."""
    timestamp_url: str | None = None
    """A time-stamping authority (RFC 3161), for stamps on the certificate and on the ledger's head, which is noted in any case."""
    output: Path = Path("deletions")
    """Folder of the batches."""
    cleanup: Cleanup = dataclasses.field(default_factory=Cleanup)
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Clean up once more if the batch was deployed, close it, and print the paths of the documents."""
        from unlearn.cli.request_text import still_open
        from unlearn.requests.certifying import CERTIFICATE
        from unlearn.requests.close import ClosingDocuments, close_request, require_usable
        from unlearn.requests.purging import purge_batch
        from verify.data.identity import RecordKey
        from verify.errors import InputError

        how = self.cleanup.how()
        documents = ClosingDocuments(
            self.operator_key, self.auditor_key, self.robustness, self.pdf, self.templates, self.timestamp_url
        )
        with self.ledger.open() as ledger:
            require_usable(ledger, self.output, self.id, documents)
            if ledger.request(self.id).state in ("deployed", "purged"):
                left = purge_batch(ledger, self.output, self.id, RecordKey.load(), self.cleanup.suppression, how, self.retired)
                _print_unexplained(left.unexplained)
                if left.unexplained:
                    raise InputError(
                        f"{self.id} cannot be closed: {len(left.unexplained)} copies have no reason. See the list above."
                    )
            record, files = close_request(ledger, self.output, self.id, documents, print)
            closed = [ledger.request(entry.id) for entry in record.requests]
            for line in self._warnings(ledger, [entry.id for entry in record.requests]):
                print(line, file=sys.stderr)  # noqa: T201
        print(f"closed as {record.requests[0].outcome}: {', '.join(entry.id for entry in record.requests)}")  # noqa: T201
        for path in files:
            print(path)  # noqa: T201
        for line in (line for request in closed if request.outcome == "deleted" for line in still_open(request, today())):
            print(line)  # noqa: T201
        if self.operator_key is not None and (certificate := next((p for p in files if p.name == CERTIFICATE), None)):
            keys = f"--key {_public(self.operator_key, 'OPERATOR')}"
            if self.auditor_key is not None and self.auditor_key != self.operator_key:
                auditor = _public(self.auditor_key, "AUDITOR")
                keys = f"--operator-key {_public(self.operator_key, 'OPERATOR')} --auditor-key {auditor}"
            print(  # noqa: T201
                f"check it: verify-unlearning check {certificate} {keys} --deletion {files[0]} --ledger-head {record.ledger_head}"
            )
        return 0

    def _warnings(self, ledger: "Ledger", names: Sequence[str]) -> Iterator[str]:
        """Yield the files that still name the people who asked, and a warning about a key that lies beside the ledger."""
        from unlearn.requests.input_files import files_naming
        from verify.data.identity import RecordKey
        from verify.io.escaping import visible

        subjects = {subject for name in names for subject in ledger.request(name).subjects}
        if RecordKey.default_path().exists():
            for path in files_naming([Path(), self.output], subjects, RecordKey.load()):
                yield visible(f"NOTE: {path} still names a person who asked. Remove it, unless it must be kept.")
        beside = None if ledger.file is None else ledger.file.parent
        for key in (self.operator_key, self.auditor_key):
            if key is not None and key.is_file() and key.resolve().parent == beside:
                yield f"WARNING: {key} lies beside the ledger: whoever can alter one can sign for it. Keep the key elsewhere."
