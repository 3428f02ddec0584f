"""Load: 1,000 requests over HTTP, 10,000 in one ledger, a million records scanned; programs run as an operator runs them."""

import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bad_requests import good_request

from unlearn.requests.http.tokens import new_token
from unlearn.requests.ledger.ledger import Ledger, NewRequest
from verify.certificate.statements import make_key
from verify.errors import RunError
from verify.io.files import read_json

REQUESTS, SENT_TWICE = 1_000, 50
LONGEST_SERVICE = 200
"""Seconds after which the service ends by itself, whatever happens here."""
IN_ONE_LEDGER = 10_000
RECORDS, FILES = 1_000_000, 2
WORDS, WORDS_EACH = 20_000, 25
SOUGHT = 2


def http(output: Path, _: Mapping[str, Any], __: float) -> dict[str, Any]:
    """Send requests to the service on this machine, one after another on one connection; a few of them twice."""
    folder = output / f"http-{time.time_ns()}"
    folder.mkdir()
    make_key(folder / "receipts.key")
    token, port = new_token(folder / "tokens", "shop"), _free_port()
    words = ["serve", "--tokens", "tokens", "--key", "receipts.key", "--domain", "requests.example.org", "--port", str(port)]
    words += ["--per-minute", "1000000", "--ledger", "ledger.db"]
    with (folder / "log").open("w") as log:
        program = _measured(folder / "usage.json", LONGEST_SERVICE, "unlearn", words)
        service = subprocess.Popen(program, cwd=folder, stdout=log, stderr=log)
        try:
            taken = _send(_bodies(), port, token)
        finally:
            service.terminate()
            service.wait()
    noted = Ledger(folder / "ledger.db")
    events, requests = noted.verify(), noted.requests()
    noted.close()
    answers = [answer for answer, _ in taken]
    return {
        "answers": {str(answer): answers.count(answer) for answer in sorted(set(answers))},
        "requests": len(requests),
        "events": events,
        "milliseconds": _percentiles([seconds for _, seconds in taken]),
        "service": read_json(folder / "usage.json"),
        "done": True,
    }


def _bodies() -> list[bytes]:
    """Good requests of different people; the last ones repeat the first, byte for byte."""
    people = [{"identity_type": "email", "identity_value": f"p{number}@example.com"} for number in range(REQUESTS - SENT_TWICE)]
    identities = [[{**person, "identity_format": "raw"}] for person in people]
    bodies = [json.dumps(good_request(subject_identities=identity)).encode() for identity in identities]
    return [*bodies, *bodies[:SENT_TWICE]]


def _send(bodies: Sequence[bytes], port: int, token: str) -> list[tuple[int, float]]:
    """Send bodies; return the status of each answer and the seconds until it was there."""
    _wait_until_open(port)
    connection, taken = HTTPConnection("127.0.0.1", port, timeout=20), []
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    for body in bodies:
        started = time.perf_counter()
        connection.request("POST", "/v1/opengdpr_requests", body, headers)
        answer = connection.getresponse()
        answer.read()
        taken.append((answer.status, time.perf_counter() - started))
    connection.close()
    return taken


def ledger(output: Path, _: Mapping[str, Any], last: float) -> dict[str, Any]:
    """Note requests in one ledger, each by a write of its own; then read, verify and list them."""
    path = output / f"ledger-{time.time_ns()}.db"
    opened, started = Ledger(path), time.perf_counter()
    names = [opened.add(NewRequest((f"{number:032x}",), "gdpr", date(2026, 11, 2))) for number in range(IN_ONE_LEDGER)]
    noting = time.perf_counter() - started
    for name in names[::10]:
        opened.advance(name, "identity_verified")
    steps = {"note": noting}
    for what, run in (("read", opened.requests), ("verify", opened.verify)):
        started = time.perf_counter()
        run()
        steps[what] = time.perf_counter() - started
    events = opened.verify()
    opened.close()
    words = ["request", "list", "--ledger", str(path)]
    steps["list"], peak = _run(output / "usage.json", "unlearn", words, max(60.0, last - time.monotonic()))
    return {"requests": len(names), "events": events, "steps": steps, "list_peak": peak, "done": True}


def scan(output: Path, before: Mapping[str, Any], last: float) -> dict[str, Any]:
    """Scan a million records for two people, near-duplicates included: in two files, each by a run of its own."""
    runs = list(before.get("runs", ()))
    while len(runs) < FILES and (not runs or time.monotonic() + runs[-1]["seconds"] < last):
        number = len(runs)
        path, sought = output / f"rows-{number}.jsonl", output / "sought.txt"
        _write_records(path, RECORDS // FILES, number)
        sought.write_text("".join(f"person-{number * RECORDS + who}\n" for who in range(SOUGHT)))
        words = ["scan", "--data", str(path), "--subjects", str(sought)]
        seconds, peak = _run(output / "usage.json", "unlearn", words, max(60.0, last - time.monotonic()))
        runs.append({"seconds": seconds, "peak": peak, "bytes": path.stat().st_size})
        path.unlink()
        print(runs[-1], flush=True)
    return {"runs": runs, "done": len(runs) == FILES}


def _write_records(path: Path, count: int, seed: int) -> None:
    """Write records of random words, ten of every person."""
    draw = random.Random(seed)
    words = [f"w{number}" for number in range(WORDS)]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            text = " ".join(draw.choices(words, k=WORDS_EACH))
            stream.write(f'{{"example_id":"r{number}","subject_id":"person-{seed * RECORDS + number // 10}","text":"{text}"}}\n')


def _measured(usage: Path, seconds: float, package: str, words: Sequence[str]) -> list[str]:
    """Return the words that run a command for at most `seconds` and write what it used."""
    measuring = [sys.executable, str(Path(__file__).with_name("run_measured.py")), str(usage), str(seconds)]
    return [*measuring, sys.executable, "-m", package, *words]


def _run(usage: Path, package: str, words: Sequence[str], seconds: float) -> tuple[float, float]:
    """Run a command to its end; return the seconds that it took, and the peak of its memory in MiB.

    Raises:
        RunError: it failed, or took longer than it may.
    """
    started = time.perf_counter()
    status = subprocess.run(_measured(usage, seconds, package, words), stdout=subprocess.DEVNULL, check=False).returncode
    if status != 0:
        raise RunError(f"{package} {words[0]} ended with status {status}.")
    return time.perf_counter() - started, float(read_json(usage)["peak"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_open(port: int) -> None:
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RunError("the service did not open its port within a minute.")


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"median": 1000 * cuts[49], "p99": 1000 * cuts[98], "longest": 1000 * max(seconds)}
