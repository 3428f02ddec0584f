"""Transparency log: an entry that a log of the test's own made is checked offline; everything else is named for what it is."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from certificates import broken, check
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import verify.cli.main
from verify.certificate.transparency import _root, check_bundle, log_envelope
from verify.errors import InputError, IntegrityError, RunError


def leaf(content: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + content).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(count: int) -> int:
    """The largest power of two below a number."""
    return 1 << (count - 1).bit_length() - 1


def tree(leaves: list[bytes]) -> bytes:
    """The root by its recursive definition (RFC 6962, 2.1)."""
    return leaves[0] if len(leaves) == 1 else node(tree(leaves[: split(len(leaves))]), tree(leaves[split(len(leaves)) :]))


def proof(index: int, leaves: list[bytes]) -> list[bytes]:
    """The inclusion proof by its recursive definition (RFC 6962, 2.1.1)."""
    if len(leaves) == 1:
        return []
    half = split(len(leaves))
    if index < half:
        return [*proof(index, leaves[:half]), tree(leaves[half:])]
    return [*proof(index - half, leaves[half:]), tree(leaves[:half])]


def test_inclusion_proofs_against_the_definition() -> None:
    """Every leaf of every tree of up to nine leaves leads to its root, and with no other index, size or length."""
    for size in range(1, 10):
        leaves = [leaf(bytes([number])) for number in range(size)]
        for index in range(size):
            path = proof(index, leaves)
            assert _root(leaves[index], index, size, path) == tree(leaves)
            assert _root(leaves[index], index, size, [*path, path[-1] if path else leaves[0]]) is None
            assert not path or _root(leaves[index], index, size, path[:-1]) != tree(leaves)
            others = [other for other in range(size) if other != index]
            assert all(_root(leaves[index], other, size, path) != tree(leaves) for other in others)
    assert _root(leaf(b"a"), 1, 1, []) is None


class Log:
    """A log with Rekor's interface and five earlier entries."""

    def __init__(self, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        public = self.key.public_key()
        form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        self.id = hashlib.sha256(public.public_bytes(*form)).hexdigest()
        self.pem = folder / "log.pub"
        self.pem.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))

    def signed(self, content: bytes) -> bytes:
        return self.key.sign(content, ec.ECDSA(hashes.SHA256()))

    def enter(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """What the log answers."""
        given = proposed["spec"]["proposedContent"]
        envelope = json.loads(given["envelope"])
        payload = hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest()
        signatures = [{"signature": one["sig"], "verifier": given["verifiers"][0]} for one in envelope["signatures"]]
        spec = {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(given["envelope"].encode()).hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": payload},
            "signatures": signatures,
        }
        body = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        leaves = [leaf(bytes([number])) for number in range(5)] + [leaf(body)]
        root, encoded = tree(leaves), base64.b64encode(body).decode()
        note = f"log.test - 1\n6\n{base64.b64encode(root).decode()}\n"
        line = f"\u2014 log.test {base64.b64encode(b'hint' + self.signed(note.encode())).decode()}\n"
        promised = {"body": encoded, "integratedTime": 1795740000, "logID": self.id, "logIndex": 5}
        promise = base64.b64encode(self.signed(rfc8785.dumps(promised))).decode()
        included = {"hashes": [one.hex() for one in proof(5, leaves)], "logIndex": 5, "rootHash": root.hex(), "treeSize": 6}
        included["checkpoint"] = f"{note}\n{line}"
        return promised | {"verification": {"signedEntryTimestamp": promise, "inclusionProof": included}}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@pytest.fixture
def url(log: Log) -> Iterator[str]:
    """Where the log answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/api/v1/log/entries"
            entry = log.enter(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = json.dumps({"24296fb24b8ad77a": entry}).encode()
            self.send_response(201)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def place(*steps: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one value of a bundle."""

    def change(bundle: dict[str, Any]) -> None:
        inner: Any = bundle
        for step in steps[:-1]:
            inner = inner[step]
        inner[steps[-1]] = to(inner[steps[-1]]) if callable(to) else to

    return change


ENTRY = ("verificationMaterial", "tlogEntries", 0)
OTHER = base64.b64encode(b"x" * 32).decode()


def of_another(bundle: dict[str, Any]) -> None:
    """The entry of a statement with another payload, signed by the log."""
    bundle["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"] = base64.b64encode(
        rfc8785.dumps({"kind": "dsse", "spec": {"payloadHash": {"algorithm": "sha256", "value": "0" * 64}, "signatures": []}})
    ).decode()


CHANGES = [
    (place("mediaType", to="application/json"), "about no statement"),
    (place("dsseEnvelope", "payload", to="e30="), "about no statement"),
    (of_another, "about another statement"),
    (place(*ENTRY, "inclusionProof", "logIndex", to="4"), "not in the tree"),
    (place(*ENTRY, "inclusionProof", "rootHash", to=OTHER), "not in the tree"),
    (place(*ENTRY, "inclusionProof", "hashes", to=[]), "not in the tree"),
    (place(*ENTRY, "inclusionProof", "checkpoint", "envelope", to=lambda text: text.replace("\n6\n", "\n7\n")), "another tree"),
    (place(*ENTRY, "inclusionProof", "checkpoint", "envelope", to="log.test"), "another tree"),
    (
        place(*ENTRY, "inclusionProof", "checkpoint", "envelope", to=lambda text: text.replace("log.test -", "log.best -")),
        "not signed",
    ),
    (place(*ENTRY, "integratedTime", to="1795740001"), "the time of the log entry"),
    (place(*ENTRY, "logIndex", to="6"), "the time of the log entry"),
    (place("verificationMaterial", "tlogEntries", to=[]), "not a bundle"),
    (place(*ENTRY, "inclusionProof", to={}), "not a bundle"),
    (place(*ENTRY, "inclusionProof", "rootHash", to="!"), "not a bundle"),
]


def test_an_entry_is_checked_offline(house: dict[str, Path], log: Log, url: str, tmp_path: Path) -> None:
    """From the shell: entered, kept, read by Sigstore's own models, and checked with the certificate; each change is named."""
    path, words = tmp_path / "entry.json", ["--url", url, "--key", f"{house['key']}.pub", "--output"]
    assert verify.cli.main.main(["log-entry", str(house["certificate.json"]), *words, str(path), "--statement", "2"]) == 0
    assert verify.cli.main.main(["log-entry", str(house["certificate.json"]), *words, str(path)]) == 2
    assert verify.cli.main.main(["log-entry", str(house["certificate.json"]), *words, str(tmp_path / "n"), "--statement", "3"]) == 2
    checked = check(house, bundle=path, log_key=log.pem)
    assert checked.holds, broken(checked)
    assert "entry 5 of the log, of 2026-11-27T" in checked.findings[-1].detail
    with pytest.raises(InputError, match="--log-key"):
        check(house, bundle=path)
    (tmp_path / "other").mkdir()
    assert "not signed with the log's key" in broken(check(house, bundle=path, log_key=Log(tmp_path / "other").pem))
    whole = path.read_text()
    for change, said in CHANGES:
        bundle = json.loads(whole)
        change(bundle)
        path.write_text(json.dumps(bundle))
        assert said in broken(check(house, bundle=path, log_key=log.pem)), said
    for cut in range(0, len(whole), len(whole) // 40):
        path.write_text(whole[:cut])
        with pytest.raises(IntegrityError, match="not a bundle"):
            check_bundle(path, [], log.pem)
    with pytest.raises(InputError, match="not a public key of a transparency log"):
        check_bundle(path, [], house["certificate.json"])
    models = pytest.importorskip("sigstore_models.bundle.v1", reason="Sigstore's models are not installed")
    parsed = models.Bundle.from_json(whole)
    assert parsed.verification_material.tlog_entries[0].log_index == 5


def test_a_log_that_gives_no_entry(house: dict[str, Path]) -> None:
    """Nobody there, and a URL that is none: said, without a bundle."""
    (envelope, _) = json.loads(house["certificate.json"].read_text())["envelopes"]
    with pytest.raises(RunError, match="gave no entry"):
        log_envelope(envelope, "", "http://127.0.0.1:9/")
    with pytest.raises(InputError, match="is not a URL"):
        log_envelope(envelope, "", "file:///etc/passwd")
