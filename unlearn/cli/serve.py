"""Commands `unlearn serve` and `unlearn new-token`."""

import dataclasses
import importlib.util
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from unlearn.cli.ledger import LedgerFlags
from verify.io.extras import missing


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

    NEEDS: ClassVar[Mapping[str, str]] = {
        "certificate": "--private-key",
        "private_key": "--certificate",
        "callback_networks": "--callback-hosts",
    }

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
        from unlearn.requests.ledger.callback_addresses import is_this_machine
        from verify.errors import InputError

        if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")):
            raise missing("the HTTP service", "serve")
        if self.certificate is None and not is_this_machine(self.host):
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
