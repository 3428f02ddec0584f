"""Wording of a re-execution for a compliance report: what was executed again, what it means, and what it leaves out."""

from collections.abc import Iterator

from verify.schema.reexecution import PASSING, Kind, Reexecution

EXECUTED: dict[Kind, str] = {
    "derived schedule": "the committed training's schedule, with the forget records left out",
    "own schedule": "a training of its own, by the schedule that its options and seed give",
    "shards": "every stage of the sharded training that had held a forget record",
}
"""What was executed, by the kind of deletion."""

REBUILT = (
    "Every training step that could have read these records was executed again without them and gave exactly this model: for the "
    "people who asked, it is a model whose training never read these records."
)
REBUILT_BY_THE_LOG = (
    "Every training step that, by the training's log, could have read these records was executed again without them and gave "
    "exactly this model: for the people who asked, it is a model whose training, by that log, never read these records."
)
"""With states or stages that were not executed again, as no such record had reached them: that is what the log says of them."""
SAMPLED = (
    "{executed} of the {segments} parts of this model's training without these records, {drawn}, were executed again and gave "
    "exactly the recorded states: for the people who asked, {false} that had read these records would have been found with a "
    "probability of 95 %{unless}."
)
NEARLY_REBUILT = (
    "{parts} of this model's training without these records {were} executed again and gave nearly the recorded states: the "
    "difference is no larger than rounding explains, and one of these records in a single one of these training steps would have "
    "made a larger one. It is not the same to the last digit, so that a smaller trace cannot be excluded."
)
CONTRADICTED = "This model is not what its training gives without these records: a re-execution contradicts the deletion. {finding}"
UNCHECKED = "Whether these records had a part in this model could not be checked by executing its training again. {finding}"


def in_plain_words_of(proof: Reexecution) -> str:
    """Return the outcome of a re-execution, and what it means for the people who asked, for readers who do not know its words."""
    if proof.word == "WITHIN_NOISE":
        whole, one = len(proof.executed) == proof.segments, len(proof.executed) == 1
        parts = "Every part" if whole else f"{len(proof.executed)} of the {proof.segments} parts, {_drawn(proof)},"
        return NEARLY_REBUILT.format(parts=parts, were="was" if whole or one else "were")
    if proof.word != "REBUILT_WITHOUT":
        said = CONTRADICTED if proof.word == "NOT_REBUILT" else UNCHECKED
        return said.format(finding=proof.findings[0].what)
    if len(proof.executed) == proof.segments:
        return REBUILT_BY_THE_LOG if proof.unchanged else REBUILT
    least = proof.draw.false_found_95
    false = "a single part" if least == 1 else f"{least} parts"
    unless = ", if that nonce was secret" if proof.draw.given else ""
    return SAMPLED.format(executed=len(proof.executed), segments=proof.segments, drawn=_drawn(proof), false=false, unless=unless)


def _drawn(proof: Reexecution) -> str:
    """Say how a sample was chosen: a nonce that was given is no lot to those who did not give it."""
    return "chosen by a nonce that was given" if proof.draw.given else "drawn by lot"


def not_shown_by_execution(proof: Reexecution) -> Iterator[str]:
    """Yield what a re-execution leaves out, one plain sentence each, the weightiest first."""
    if proof.word not in PASSING:
        return
    if (noise := proof.noise) is not None:
        yield (
            f"The comparison was within rounding, not bit for bit: {noise.hidden:.1%} of the displacement by one of these records "
            "in one training step could hide in it, in a direction of the operator's choice. Such an outcome alone puts no model "
            "into service."
        )
    if rest := proof.segments - len(proof.executed):
        yield f"{rest} of {proof.segments} parts of the training were not executed again."
    if proof.unchanged:
        yield (
            f"{_as_committed(proof)}, which by the training's log none of these records had reached, were not executed again: that "
            "the log is true of them is the operator's word."
        )
    if proof.committed is None and proof.kind != "own schedule":
        yield (
            "No commitment to the training from before the request was given: an order of the records that was chosen afterwards "
            "would not be noticed."
        )
    if proof.committed is not None:
        yield (
            f"The training's commitment is dated {proof.committed[:10]} by the clock of whoever wrote it: confirm its root with "
            "whoever received it then."
        )
    if proof.near:
        stay = "1 training record that is" if len(proof.near) == 1 else f"{len(proof.near)} training records that are"
        yield f"By a person's judgement, {stay} nearly one of these records stayed in the training."
    yield "The re-execution is about the fine-tuning: what the base model had learned from these people is not covered."


def _as_committed(proof: Reexecution) -> str:
    """Name what was taken from the commitment, as the subject of a sentence."""
    date = "" if proof.committed is None else f", taken from the commitment of {proof.committed[:10]}"
    if proof.committed_steps:
        return f"Steps 1 to {proof.committed_steps} of the training{date}"
    return f"{proof.unchanged} {'stages' if proof.kind == 'shards' else 'states'} of the training{date}"


def rows_of(proof: Reexecution) -> list[tuple[str, str]]:
    """Return the facts of a re-execution for a table: what it was based on, what was executed, and on which software."""
    draw = proof.draw
    executed = f"{len(proof.executed)} of {proof.segments}"
    chosen = "which was given" if draw.given else "which was drawn at random"
    sample = "all" if draw.nonce is None else f"drawn by the nonce {draw.nonce}, {chosen}"
    finds = "" if draw.nonce is None else f"{draw.false_found_95} with 95 %, {draw.false_found_99} with 99 %"
    rows = [
        ("outcome", proof.phrase),
        ("executed", EXECUTED[proof.kind]),
        ("segments executed again", f"{executed} ({sample})"),
        ("false segments that would be found", finds),
        ("forget records left out", str(proof.forget)),
        ("training records shown", str(proof.records)),
        ("nearly a forget record", f"{len(proof.near)}{', accepted by a person' if proof.near and proof.near_accepted else ''}"),
        ("tokens", f"{proof.tokens}, {_share(proof)} of a whole training"),
        ("weights", proof.model),
        ("base", proof.base),
        ("root of the training's logs", proof.root or "no earlier log"),
        ("committed", proof.committed or "not before the request"),
        ("request that this is compared with", proof.requested or ""),
        ("taken from the commitment", f"{_as_committed(proof)}: not executed again" if proof.unchanged else ""),
        ("software, processor, threads", ", ".join(f"{name} {value}" for name, value in proof.environment.items())),
        *_measured(proof),
        *((f"finding: {one.kind}", one.what) for one in proof.findings),
    ]
    return [(name, value) for name, value in rows if value]


def _measured(proof: Reexecution) -> Iterator[tuple[str, str]]:
    """Yield the rows of a comparison within noise: distances, and the software and processor of the recorded training."""
    if (noise := proof.noise) is None:
        return
    yield "segments that ended on other bits", str(noise.apart)
    yield "largest distance from a recorded state", f"{noise.farthest:.2f} times the numerical noise"
    yield "one forget record in one microbatch", f"{noise.least:.0f} times the numerical noise, at the least"
    yield "what the tolerance can hide", f"{noise.hidden:.3g} of that displacement, in all segments together"
    yield "trained with", ", ".join(f"{name} {value}" for name, value in proof.trained_with.items())


def cost_of(proof: Reexecution) -> str:
    """State what the re-execution cost, as a part of a sentence."""
    return f"{_share(proof)} of the tokens of a training"


def _share(proof: Reexecution) -> str:
    return f"{proof.tokens / max(1, proof.training_tokens):.2f}"
