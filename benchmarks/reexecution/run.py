"""Honest and dishonest runs, one by one: each is made, handed to the auditor, and its outcome noted."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.reexecution import edits, lies
from benchmarks.reexecution.worlds import Setting, World, build, threads
from verify.errors import InputError
from verify.models.loading import load_model
from verify.schema.reexecution import Reexecution

Forge = Callable[[World, Path, random.Random], dict[str, Any]]

KINDS: dict[str, Forge] = {
    "one bit of a kept state's weights": edits.checkpoint_bit,
    "one bit of a kept state's optimizer moments": edits.optimizer_bit,
    "one bit of the final weights": edits.weights_bit,
    "two kept states swapped": edits.states_swapped,
    "a log line dropped": edits.line_dropped,
    "a microbatch added to the log": edits.line_added,
    "log lines reordered": edits.lines_reordered,
    "rate, seed or state edited in the log": edits.line_edited,
    "forget record under a retained record's hash": lies.forget_record_renamed,
    "the same in a fresh training": lies.retrained_on_it,
    "retained record shown with an altered character": edits.other_records,
    "retained record trained on with an altered character": lies.altered_record,
    "near-duplicate of the forget record stays": lies.near_duplicate,
    "training goes on after the log's end": lies.trained_on,
    "another base": lies.another_base,
    "another tokenizer or template": edits.other_tokenizer,
    "another configuration or adapter scale": edits.other_configuration,
    "schedule invented afterwards, no commitment": lies.invented_afterwards,
    "schedule invented afterwards, younger commitment": lies.committed_afterwards,
    "log of another training": lies.other_training,
    "another commitment, or one from the future": edits.another_commitment,
    "forget record under the hash with the most similar gradient": lies.imitated_gradient,
    "a nonce chosen by the operator": lies.operators_nonce,
    "a state of another run": edits.segments_of_another_run,
    "a proof for another model": edits.original,
    "the original as its own deletion": edits.original,
    "the deletion of another record": lies.another_deletion,
    "a stage of shards left, edited, scaled or swapped": edits.stage,
}
"""Forgeries of somebody who does not know, while training, whose records will be asked for."""
IN_SHARDS = "a stage of shards left, edited, scaled or swapped"
OF_ANOTHER = "a proof for another model"
PREPARED: dict[str, Forge] = {"a schedule that hides the record, committed to before the request": lies.committed_before}
"""Forgeries that were prepared in training, for this record or for any."""
POOL = 8
"""Rollbacks that forgeries start from; half as many models in shards."""


@dataclass(frozen=True)
class Result:
    """Outcome of one run.

    Attributes:
        number: of the run.
        kind: what was forged; for honest runs the deletion.
        traits: how it was trained.
        word: the outcome, or "refused" where nothing was executed because a file could not be read as what it should be.
        said: kinds of the findings, in order; the sentence of a refusal.
        executed, segments: segments that were executed, and that there were.
        seconds: of making and judging it.
    """

    number: int
    kind: str
    traits: list[str]
    word: str
    said: list[str]
    executed: int
    segments: int
    seconds: float

    @property
    def accepted(self) -> bool:
        """Whether the auditor took it for an honest deletion."""
        return self.word == "REBUILT_WITHOUT"


def honest(number: int, output: Path) -> Result:
    """Make and judge an honest deletion with settings drawn at random."""
    began, draw = time.monotonic(), random.Random(f"honest {number}")
    setting = Setting.drawn(draw, ("rollback", "two deletions in a row", "retrain", "sisa"))
    with new_folder(output) as folder:
        world = build(setting, folder, output, draw)
        traits = [*setting.traits(), *_thinned(world, draw)]
        # The auditor's own number of threads must not matter.
        with threads(3 - setting.threads):
            return _result(number, setting.method, traits, lambda: world.judge(from_base=draw.random() < 0.3), began)


def _thinned(world: World, draw: random.Random) -> list[str]:
    """Remove none, some or all of the kept states."""
    kept = sorted(world.after.glob("checkpoint-*"))
    share = draw.choice((0.0, 0.0, 0.5, 1.0))
    gone = [folder for folder in kept if draw.random() < share]
    for folder in gone:
        shutil.rmtree(folder)
    if gone:
        edits.reseal(world.after)
    return ["states removed"] if gone else []


def dishonest(number: int, output: Path, pools: tuple[list[World], list[World]]) -> Result:
    """Forge a deletion of a kind drawn at random, and judge it."""
    draw = random.Random(f"dishonest {number}")
    kind = draw.choice(list(KINDS))
    world = draw.choice(pools[kind == IN_SHARDS])
    return _forged(number, (kind, KINDS[kind]), world, output, draw)


def prepared(number: int, output: Path, pools: tuple[list[World], list[World]], from_base: bool) -> Result:
    """Forge a deletion of a kind that was prepared in training, and judge it."""
    draw = random.Random(f"prepared {number}")
    kind = draw.choice(list(PREPARED))
    return _forged(number, (kind, PREPARED[kind]), draw.choice(pools[0]), output, draw, from_base=from_base)


def _forged(number: int, forgery: tuple[str, Forge], world: World, output: Path, draw: random.Random, **changed: Any) -> Result:
    began, (kind, forge) = time.monotonic(), forgery
    with new_folder(output) as folder:
        mine = world.copied(folder)
        given = forge(mine, folder, draw) | changed
        edits.reseal(mine.after)  # whoever edits a log also rewrites the manifest that would give it away
        if kind == OF_ANOTHER:
            return _result(number, kind, world.setting.traits(), lambda: _of_another(world, given), began)
        return _result(number, kind, world.setting.traits(), lambda: mine.judge(**given), began)


def _of_another(world: World, given: dict[str, Any]) -> Reexecution:
    """Take the proof of the honest deletion for the model that was handed in, as `certify` does: by the digest of its weights.

    Raises:
        InputError: it is the proof of other weights.
    """
    proof = world.judge()
    if proof.model != load_model(given["model"]).digest:
        raise InputError("the proof is about another model")
    return proof


def _result(number: int, kind: str, traits: list[str], judge: Callable[[], Reexecution], began: float) -> Result:
    try:
        proof = judge()
    except InputError as error:
        return Result(number, kind, traits, "refused", [str(error)], 0, 0, time.monotonic() - began)
    said = [finding.kind for finding in proof.findings]
    return Result(number, kind, traits, proof.word, said, len(proof.executed), proof.segments, time.monotonic() - began)


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A new folder that is removed afterwards."""
    path = output / "run"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def pools(output: Path) -> tuple[list[World], list[World]]:
    """Return the honest deletions that forgeries start from: rollbacks, and models in shards."""
    return list(_pool(output, "rollback", POOL)), list(_pool(output, "sisa", POOL // 2))


def _pool(output: Path, method: Any, count: int) -> Iterator[World]:
    for number in range(count):
        folder, draw = output / f"{method}-{number}", random.Random(f"{method} {number}")
        world = World.read(folder)
        if world is None:
            shutil.rmtree(folder, ignore_errors=True)
            world = build(_for_forgeries(Setting.drawn(draw, (method,))), folder, output, draw, late=method == "rollback")
            world.save(folder)
        yield world


def _for_forgeries(setting: Setting) -> Setting:
    """Return a setting with one pass, a state after every step and a commitment."""
    states = 0 if setting.method == "sisa" else 1
    options = replace(setting.options, epochs=1, batch_size=2, gradient_accumulation=1, save_steps=states, overflow="refuse")
    return replace(setting, options=options, long=False, gone=1, committed=True)
