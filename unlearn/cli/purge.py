"""Commands `unlearn purge`, `unlearn serve` and `unlearn new-token`."""

import dataclasses
import importlib.util
import ipaddress
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unlearn.cli.ledger import LedgerFlags
from verify.cli.flags import FieldFlags

if TYPE_CHECKING:
    from unlearn.purge.residue import Residue

RESIDUAL = 3
"""Exit status if copies remain."""


@dataclasses.dataclass(frozen=True)
class Purge:
    """Find copies of deleted records in files and models, remove what may be removed, and list the rest with reasons.

    Files are searched for the deleted texts; models and checkpoints are found by their training data. The list contains no texts,
    but it does contain file names, even of files named after a person. Exit status 0: nothing is left; 3: copies remain. Records
    that are too short to search for are counted, and files that cannot be read are listed.
    """

    data: str
    """The training file that contained the deleted records."""
    forget: str
    """The deleted records: a file of records, or a list of example or subject ids."""
    search: tuple[Path, ...]
    """Folders to search; nothing outside them is changed, and symbolic links are not followed."""
    databases: tuple[str, ...] = ()
    """PostgreSQL databases whose tables with vectors (pgvector) are searched as well, where the texts stand beside the vectors:
    postgresql://user@host/database, with the password in ~/.pgpass."""
    models: tuple[Path, ...] = ()
    """Folders to search for models that saw the records; those outside --search are only listed."""
    spare: tuple[Path, ...] = ()
    """Folders and files that must not be changed: the model in service, the ledger, the key."""
    dry_run: bool = False
    """Only list, and change nothing."""
    rewrite_data: bool = False
    """Rewrite training data without the records."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print the list; exit status 3 if copies remain."""
        from unlearn.purge.content_search import ContentSearch
        from unlearn.purge.find import find_residues, remove
        from unlearn.purge.pgvector import find_rows, remove_rows
        from unlearn.scan.lineage import affected_models
        from verify.data.identity import RecordKey
        from verify.data.sources import find_forget_set, stream_records

        fields, key = self.columns.fields(), RecordKey.load()
        records = find_forget_set(self.forget, self.data, fields)
        deleted = {record.fingerprint for record in records}
        staying = (record for record in stream_records(self.data, fields) if record.fingerprint not in deleted)
        search = ContentSearch(records, staying)
        found = find_residues(
            self.search,
            records=records,
            key=key,
            affected=affected_models(self.models, {key.of(record.fingerprint) for record in records}) if self.models else [],
            spare=[*self.spare, RecordKey.default_path()],
            rewrite_data=self.rewrite_data,
            search=search,
        )
        in_databases = find_rows(self.databases, search)
        left = [*found, *in_databases] if self.dry_run else [*remove(found), *remove_rows(in_databases)]
        show_residues([*found, *in_databases], left, self.search)
        if search.unsearched:
            print(f"{search.unsearched} records were not searched for: too short, or identical to text of records that stay")  # noqa: T201
        return RESIDUAL if left else 0


def show_residues(found: "Sequence[Residue]", left: "Sequence[Residue]", folders: Sequence[Path]) -> None:
    """Print every residue with its outcome, by its path below the searched folders, and the counts."""
    reasons = {residue.place: residue.reason for residue in left}
    tops = [folder.resolve() for folder in folders]
    for residue in found:
        top = next((top for top in tops if residue.place.is_relative_to(top)), None)
        # Control characters in a file name must not reach the terminal.
        shown = ascii(str(residue.place.relative_to(top) if top is not None else residue.place))[1:-1]
        outcome = (reasons[residue.place] or "can be removed") if residue.place in reasons else "removed"
        print(f"{residue.kind:18}  {shown}  ({residue.how}): {outcome}")  # noqa: T201
    removable = sum(residue.removable for residue in left)
    removed = len(found) - len(left)
    print(f"{len(found)} found, {removed} removed, {removable} can be removed, {len(left) - removable} stay")  # noqa: T201


@dataclasses.dataclass(frozen=True)
class NewToken:
    """Create a token for a caller of the HTTP service; it is shown once, and only its digest is stored.

    The caller named "operator" may see the status page.
    """

    name: Annotated[str, tyro.conf.Positional]
    """Name of the caller: lower-case letters, digits and hyphens."""
    tokens: Path
    """The token file; created if missing."""

    def run(self) -> int:
        """Print the token."""
        from unlearn.requests.http.tokens import new_token

        print(new_token(self.tokens, self.name))  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Serve:
    """Receive deletion requests over HTTP (OpenDSR 1.0), into the same ledger as the command line.

    Listens on this machine only, behind a proxy that terminates TLS, unless --certificate and --private-key are given. The log has
    one line per request: keyed hash of the address, caller, method, route, status, time; and one per callback.
    """

    tokens: Path
    """Token file with callers and token digests, from `unlearn new-token`."""
    key: Path
    """Ed25519 private key that signs receipts, from `verify-unlearning keygen`."""
    domain: str
    """Public host name of the service."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8765
    """Port to listen on."""
    certificate: Path | None = None
    """TLS certificate (PEM), for serving without a proxy."""
    private_key: Path | None = None
    """Its private key (PEM)."""
    country: str | None = None
    """ISO 3166 code of the country whose public holidays count for deadlines."""
    per_minute: int = 600
    """Requests per minute for each caller, and for each address without a token; behind a proxy, all without a token share one."""
    callback_hosts: tuple[str, ...] = ()
    """Hosts that may be notified when the status of a request changes, such as shop.example.org; requests that ask for others are
    refused."""
    callback_networks: tuple[str, ...] = ()
    """Networks in which these hosts may lie although they are not public, such as 10.1.0.0/16."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Serve until interrupted."""
        from verify.errors import InputError

        if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")):
            raise InputError("the HTTP service is an extra. Install it with: pip install 'unlearn-verify[serve]'")
        if (self.certificate is None) != (self.private_key is None):
            raise InputError("TLS needs both --certificate and --private-key.")
        if self.certificate is None and not _is_loopback(self.host):
            raise InputError(
                f"--host {self.host} can be reached from other machines, and identifiers must not be sent in the clear. "
                "Give --certificate and --private-key, or listen on 127.0.0.1 behind a proxy that terminates TLS."
            )
        if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?", self.domain):
            raise InputError("--domain must be a host name such as requests.example.org; it is part of every response.")
        if self.per_minute < 1:
            raise InputError("--per-minute must be at least 1.")
        self._serve()
        return 0

    def _serve(self) -> None:
        import threading

        import uvicorn

        from unlearn.requests.http.callbacks import CallbackSender
        from unlearn.requests.http.service import PromptProtocol, Service, make_app
        from unlearn.requests.http.tokens import Tokens
        from unlearn.requests.ledger.callback_addresses import AllowedCallbacks
        from verify.certificate.statements import load_signer
        from verify.data.identity import RecordKey

        allowed = AllowedCallbacks.of(self.callback_hosts, self.callback_networks)
        with self.ledger.open() as ledger:
            service = Service(ledger, RecordKey.load(), load_signer(self.key), self.domain, self.country, allowed)
            logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
            for name in ("unlearn.access", "unlearn.callbacks"):
                logging.getLogger(name).setLevel(logging.INFO)
            stop = threading.Event()
            sender = threading.Thread(target=CallbackSender(service).run, args=[stop], daemon=True)
            sender.start()
            try:
                uvicorn.run(
                    make_app(service, Tokens.load(self.tokens), self.per_minute),
                    host=self.host,
                    port=self.port,
                    http=PromptProtocol,
                    ssl_certfile=self.certificate,
                    ssl_keyfile=self.private_key,
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    proxy_headers=False,
                    limit_concurrency=200,
                    timeout_keep_alive=5,
                    h11_max_incomplete_event_size=16 << 10,
                )
            finally:
                stop.set()
                sender.join(timeout=30)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
