"""Make the sample documents: one invented person's deletion request, from receipt to certificate, by the command line alone.

`make sample` (one minute) writes them beside this file. Models, data, private keys and ledger stay in a temporary folder.
Weights, verdict and numbers depend on seeds; dates, request ids and signatures are those of the day.
"""

import json
import os
import re
import runpy
import shutil
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
ASKING = "Zebedee"
LIKE_THE_ORIGINAL = ("--learning-rate", "5e-3", "--epochs", "20", "--batch-size", "10")
REFERENCES = [f"references/r{seed}" for seed in (1, 2, 3, 4)]


def run(package: str, *arguments: str) -> str:
    """Run `python -m PACKAGE ARGUMENTS` in this process, so that torch is imported once; what it prints."""
    given, sys.argv = sys.argv, [package, *arguments]
    try:
        with redirect_stdout(StringIO()) as out:
            runpy.run_module(package, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise SystemExit(f"{package} {' '.join(arguments)} ended with {end.code}:\n{out.getvalue()}") from None
    finally:
        sys.argv = given
    return out.getvalue()


def prepare(folder: Path) -> None:
    """A model that learned from six people, and four references that learned from the other five."""
    from tiny_world import PEOPLE, make_base, records

    make_base(folder / "base")
    sets = {"people": records(PEOPLE), "others": records(tuple(name for name in PEOPLE if name != ASKING))}
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "subject.txt").write_text(f"{ASKING}@example.com\n")
    (folder / "record.key").write_text("5a" * 32)  # a fixed key, so that keyed hashes repeat; a real one is random and secret
    (folder / "record.key").chmod(0o600)
    run("unlearn", "train", "--model", "base", "--data", "people.jsonl", "--output", "models/original", *LIKE_THE_ORIGINAL)
    for seed, reference in enumerate(REFERENCES, 1):
        others = ("--data", "others.jsonl", "--output", reference, "--seed", str(seed))
        run("unlearn", "train", "--model", "base", *others, *LIKE_THE_ORIGINAL)


def delete() -> str:
    """The request, from receipt to certificate; returns what `check` says."""
    keys = ("--operator-key", "operator.key", "--auditor-key", "auditor.key")
    for name in ("operator.key", "auditor.key"):
        run("verify", "keygen", "--output", name)
    request = run("unlearn", "request", "add", "--identifiers", "subject.txt", "--regime", "gdpr").split()[-1]
    run("unlearn", "request", "approve", request)
    searched = ("--data", "people.jsonl", "--models", "models")
    run("unlearn", "request", "plan", *searched, "--references", *REFERENCES, "--margin", "0.2")
    run("unlearn", "request", "run", request, "--remove")
    cleaned = ("--retired", "models/original", "--remove", "--rewrite-data")
    closed = run("unlearn", "request", "close", request, *cleaned, *keys)
    command = re.search(r"verify-unlearning (check .*)", closed)
    assert command, f"close names no command that checks its certificate:\n{closed}"
    return run("verify", *command[1].split(), "--ledger", "ledger.db")


def publish(folder: Path, checked: str) -> None:
    """Copy what a stranger needs to check the certificate, and the pages that people read."""
    (certificate,) = folder.glob("deletions/*/certificate.json")
    batch = certificate.parent
    (letter,) = (batch / "letters").glob("*.html")
    (audit,) = batch.glob("model-0/audit-*/evidence.json")
    found = {name: batch / name for name in ("certificate.json", "deletion.json", "report.html")}
    found |= {name: folder / name for name in ("operator.key.pub", "auditor.key.pub")}
    found |= {"letter.html": letter, "letter.txt": letter.with_suffix(".txt"), "evidence.json": audit}
    for name, path in found.items():
        shutil.copyfile(path, HERE / name)
    (HERE / "check.txt").write_text(checked)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made, chdir(made):
        os.environ |= {"UNLEARN_LEDGER": "ledger.db", "UNLEARN_VERIFY_KEY_FILE": f"{made}/record.key", "OMP_NUM_THREADS": "1"}
        prepare(Path(made))
        publish(Path(made), delete())
    print((HERE / "check.txt").read_text())
