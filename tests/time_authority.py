"""A time-stamping authority of the test's own: `openssl ts` behind a web server on the loopback."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

CONFIG = """
[ req ]
distinguished_name = name
prompt = no
[ name ]
CN = unused
[ root ]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[ stamps ]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[ authority ]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
ess_cert_id_alg = sha256
"""


def openssl(folder: Path, *words: str) -> bytes:
    """Run openssl in a folder; what it prints."""
    return subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True).stdout


def make_authority(folder: Path) -> Path:
    """A root and an authority in a folder; the root's certificate is `root.pem`. Skips without openssl or the library."""
    if shutil.which("openssl") is None:
        pytest.skip("the authority of these tests is `openssl ts`, which is not installed")
    pytest.importorskip("rfc3161_client", reason="time stamps are an extra (pip install 'unlearn-verify[timestamps]')")
    folder.mkdir(parents=True)
    (folder / "conf").write_text(CONFIG)
    (folder / "serial").write_text("01\n")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "conf")
    openssl(folder, "req", "-x509", *new, "-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=Root", "-extensions", "root")
    openssl(folder, "req", *new, "-keyout", "key", "-out", "csr", "-subj", "/CN=Time of Day")
    by_root = ("-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-extfile", "conf", "-extensions", "stamps")
    openssl(folder, "x509", "-req", "-in", "csr", "-out", "pem", *by_root)
    return folder


def answered(folder: Path, query: bytes) -> bytes:
    """The authority's answer to a query."""
    (folder / "query").write_bytes(query)
    signing = ("-inkey", "key", "-signer", "pem", "-config", "conf", "-section", "authority")
    openssl(folder, "ts", "-reply", "-queryfile", "query", *signing, "-out", "reply")
    return (folder / "reply").read_bytes()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The authority's URL, while it answers there."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/timestamp-query"
            reply = answered(folder, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
