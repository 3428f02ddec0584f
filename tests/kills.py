"""kill -9 at random moments: a deletion is led from receipt to closing by processes that are killed, and what is left is checked.

The parent imports everything once; each attempt is a forked child, so that it begins at once.
"""

import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from deletion_world import ASKING, MARGIN, rows

from unlearn.requests import attempt, auditing
from unlearn.requests.certifying import CERTIFICATE
from unlearn.requests.choices import Choices
from unlearn.requests.close import ClosingDocuments, close_request
from unlearn.requests.copies_left import Left
from unlearn.requests.ledger.ledger import Ledger, NewRequest
from unlearn.requests.letters import LETTERS, REPORT
from unlearn.requests.noting import note
from unlearn.requests.pipeline import run_batch
from unlearn.requests.planning import draft
from unlearn.requests.purging import Cleaning, purge_batch
from verify.certificate.check import check_certificate
from verify.certificate.statements import load_public_key, make_key
from verify.data.identity import RecordKey
from verify.errors import RunError
from verify.io.files import MANIFEST, is_complete, read_json
from verify.schema.deletion_record import DeletionRecord
from verify.schema.settings import Settings

EXPECTED = [
    "received",
    "identity_verified",
    "matched",
    "planned",
    "unlearning",
    "verifying",
    "deployed",
    "purged",
    "purged",
    "closed",
]
COMPLETIONS = "completions.txt"
"""One line for every method and audit that ran to its end."""
SIGNING = "operator"
"""The key that signs, beside the worlds."""


def lead(world: Path) -> None:
    """Whatever comes next, until the request is closed; the same call goes on after a kill."""
    key, ledger, output = RecordKey.load(), Ledger(world / "ledger.db"), world / "deletions"
    if not ledger.requests():
        subject = key.of(f"{ASKING.lower()}@example.com", "subject")
        ledger.add(NewRequest((subject,), "gdpr", date(2026, 11, 2)))
    (request,) = ledger.requests()
    if request.state == "received":
        request = ledger.advance(request.id, "identity_verified")
    if request.state in ("identity_verified", "matched"):
        note(ledger, draft(ledger, [request], _choices(world), key), output)
    if ledger.request(request.id).state in ("planned", "unlearning", "verifying", "failed"):
        run_batch(ledger, output, request.id, key)
    how, listed = Cleaning(remove=True, rewrite_data=True), world / "suppressed.jsonl"
    if ledger.request(request.id).state == "deployed":
        _settled(purge_batch(ledger, output, request.id, key, listed, how))
    after = ledger.request(request.id)
    if after.state == "purged" and not any(step.details.get("retired") for step in after.steps):
        deployed = after.latest("deployed")
        assert deployed is not None
        _settled(purge_batch(ledger, output, request.id, key, listed, how, retired=[deployed["models"][0]["before"]]))
    close_request(ledger, output, request.id, ClosingDocuments(world.parent / SIGNING))
    ledger.close()


def _settled(left: Left) -> None:
    """As the command line does: a copy that stays without the operator's reason ends the run, with why it could not go."""
    if left.unexplained:
        raise RunError("; ".join(copy["why"] for copy in left.unexplained))


def _choices(world: Path) -> Choices:
    return Choices(
        data=(str(world / "people.jsonl"),),
        models=(str(world / "models"),),
        output=world / "deletions",
        references=tuple(str(folder) for folder in sorted((world / "references").iterdir())),
        settings=Settings(attacks=("loss",), margin=MARGIN),
    )


def in_child(world: Path, kill_after: float | None, prepare: Callable[[], None] = lambda: None) -> bool:
    """`lead` in a process of its own, killed after so many seconds; whether it ended by itself.

    Args:
        world: a copy of its own.
        kill_after: seconds, or None.
        prepare: called in the process first.

    Raises:
        AssertionError: it ended by itself, but not well.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _counting(world)
            prepare()
            lead(world)
            status = 0
        finally:
            os._exit(status)
    if kill_after is None:
        return _ended(os.waitpid(child, 0)[1])
    deadline = time.monotonic() + kill_after
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return _ended(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return _ended(os.waitpid(child, 0)[1])


def _ended(status: int) -> bool:
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "the command failed where it should have gone on"
    return True


def _counting(world: Path) -> None:
    """Note every method and audit that runs to its end."""

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def run(*given: object, **named: object) -> object:
            found = function(*given, **named)
            with (world / COMPLETIONS).open("a") as stream:
                stream.write(f"{name}\n")
            return found

        return run

    for place, name in ((attempt, "forget"), (auditing, "audit")):
        setattr(place, name, counted(name, getattr(place, name)))


@dataclass(frozen=True)
class Figures:
    """What kills did.

    Attributes:
        kills: how many processes were killed while they worked.
        deletions: how many requests were led to their end.
        states: in which state of the request how many kills fell.
        lost: requests, events or old weights that were lost.
        twice: methods or audits that ran to their end twice.
        different: deletions whose events or weights are not those of an undisturbed one.
        unsound: deletions whose certificate does not hold against model, ledger and record, or that left a text in a file.
    """

    kills: int = 0
    deletions: int = 0
    states: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    twice: int = 0
    different: int = 0
    unsound: int = 0


def kill_many(
    built: Path,
    folder: Path,
    kills: int,
    seed: int,
    tell: Callable[[str], None] = lambda _: None,
    minutes: float = math.inf,
    begun: Figures | None = None,
) -> Figures:
    """Kill until so many kills, or minutes, are reached, deletion after deletion.

    Args:
        built: a world.
        folder: a place for copies of it.
        kills: how many.
        seed: of the moments.
        tell: told how far it is.
        minutes: after so many no new kill is made; the deletion at hand is led to its end.
        begun: figures of an earlier call, which are added to.
    """
    figures = Figures() if begun is None else begun
    draw, last = random.Random(f"{seed} {figures.deletions}"), time.monotonic() + 60 * minutes
    make_key(folder / SIGNING)
    plain = world_with_a_log(built, folder / "undisturbed")
    started = time.monotonic()
    assert in_child(plain, None)
    whole, weights = time.monotonic() - started, new_weights(plain)
    while figures.kills < kills and time.monotonic() < last:
        world = folder / f"deletion-{figures.deletions}"
        world_with_a_log(built, world)
        while not in_child(world, draw.uniform(0.0, whole) if figures.kills < kills and time.monotonic() < last else None):
            state, lost = after_a_kill(world)
            counted = {**figures.states, state: figures.states.get(state, 0) + 1}
            figures = replace(figures, kills=figures.kills + 1, states=counted, lost=figures.lost + lost)
        figures = at_the_end(world, figures, weights)
        shutil.rmtree(world)
        tell(f"{figures.kills} kills, {figures.deletions} deletions")
    return figures


def world_with_a_log(built: Path, world: Path) -> Path:
    """A copy of a world, with a log in it that repeats what is to be deleted."""
    shutil.copytree(built, world)
    (world / "models" / "train.log").write_text(
        "".join(f"step {row['example_id']}: {row['completion']}\n" for row in rows([ASKING]))
    )
    return world


def after_a_kill(world: Path) -> tuple[str, int]:
    """Where the request is, and how much of what must be there is not."""
    ledger = Ledger(world / "ledger.db")
    ledger.verify()
    found = ledger.requests()
    ledger.close()
    if not found:
        return "before it was noted", 0
    steps = found[0].steps
    out_of_order = [step.state for step in steps] != EXPECTED[: len(steps)]
    # Once the operator has retired them, the old weights may go, and are removed before that is noted.
    going = found[0].state in ("purged", "closed")
    gone = not going and not is_complete(world / "models" / "original", "model")
    return found[0].state, int(gone) + int(out_of_order)


def at_the_end(world: Path, figures: Figures, weights: str) -> Figures:
    """The figures with one more deletion in them."""
    ledger = Ledger(world / "ledger.db")
    (request,) = ledger.requests()
    ledger.verify()
    ledger.close()
    lines = (world / COMPLETIONS).read_text().splitlines()
    (batch,) = [path.parent for path in (world / "deletions").glob("B-*/deletion.json")]
    record = DeletionRecord.load(batch / "deletion.json")
    same = [step.state for step in request.steps] == EXPECTED and new_weights(world) == weights
    whole = is_complete(batch / "model-0" / "rung-0-retrain", "model") and record.requests[0].outcome == "deleted"
    twice = sum(max(0, lines.count(name) - 1) for name in ("forget", "audit"))
    return replace(
        figures,
        deletions=figures.deletions + 1,
        lost=figures.lost + (not whole),
        twice=figures.twice + twice,
        different=figures.different + (not same),
        unsound=figures.unsound + (not _is_sound(world, batch)),
    )


def _is_sound(world: Path, batch: Path) -> bool:
    """Whether the certificate holds against all that it can be checked with, report and letter are there, and no text is left."""
    checked = check_certificate(
        batch / CERTIFICATE,
        [load_public_key(world.parent / f"{SIGNING}.pub")],
        model=batch / "model-0" / "rung-0-retrain",
        deletion=batch / "deletion.json",
        ledger=world / "ledger.db",
    )
    texts = [row["completion"].encode() for row in rows([ASKING])]
    contents = [path.read_bytes() for path in world.rglob("*") if path.is_file()]
    written = [(batch / REPORT).exists(), len(list((batch / LETTERS).iterdir())) == 2]
    return checked.holds and all(written) and not any(text in content for text in texts for content in contents)


def new_weights(world: Path) -> str:
    """Digest of the weights that a finished deletion left."""
    (manifest,) = (world / "deletions").glob(f"B-*/model-0/rung-*/{MANIFEST}")
    return str(read_json(manifest)["about"]["weights"])
