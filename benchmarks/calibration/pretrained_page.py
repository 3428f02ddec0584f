"""The page of the real audits on a pretrained language model."""

from collections.abc import Callable, Sequence

from benchmarks.calibration.page import channel_residual, per_cent, wrapped
from benchmarks.calibration.pretrained import NAMES, PretrainedAudit
from benchmarks.channel_methods.world import Place
from verify.schema.channels import EXACT
from verify.statistics import clopper_pearson

WORDS = ("NOT_FORGOTTEN", "EQUIVALENT_WITHIN", "INCONCLUSIVE", "NOT_TESTABLE")


def pretrained_page(place: Place, audits: Sequence[PretrainedAudit], per_truth: int, machine: str) -> str:
    """Return the page.

    Args:
        place: the world.
        audits: those that are there, at least one.
        per_truth: how many of each kind were to be made.
        machine: where they were made, with what and how long a training took.
    """
    lines = [
        "# Calibration on a pretrained language model",
        "",
        wrapped(
            f"Made by `python -m benchmarks.calibration --world smollm2 --output DIR --per-truth {per_truth}`. {machine} The "
            "verdict's defaults: rho* = 0.10, alpha = 0.05. Rates in per cent with exact 95 % intervals."
        ),
        "",
        wrapped(_world(place, audits[0])),
        "",
        *_rates(audits, per_truth),
        "",
        wrapped(_certain(audits)),
        "",
        "## Each audit",
        "",
        wrapped(
            "Residual fraction by channel (1 untouched, 0 as retrained), contrasted with controls; a star: accused, a plus: "
            "certified, a question mark: not valid there, so that it can do neither."
        ),
        "",
        *_each(audits),
    ]
    return "\n".join(lines) + "\n"


def _world(place: Place, one: PretrainedAudit) -> str:
    """Describe people, trainings and what the audits ask."""
    sizes, options = place.sizes, place.options
    sets = {about.role: about.records for about in one.evidence.sets}
    exact = next(channel for channel in one.evidence.channels if channel.name == EXACT)
    return (
        f"SmolLM2-135M-Instruct is taught {sizes.trained} invented people by an adapter (rank {options.lora_rank}, "
        f"{options.epochs:g} passes, batches of {options.batch_size}, seed {place.seed}), as chats in its own template. "
        f"{sizes.forgotten} of them, {sets['forget']} records, are to be forgotten; {exact.controls} people, {sets['holdout']} "
        f"records, are the audits' controls. {sizes.references} references judge all models, and the audits ask by "
        f"{len(one.evidence.channels)} channels: {', '.join(channel.name for channel in one.evidence.channels)}. *Kept*: a fifth "
        "of the forget records, drawn at random, stayed in the retraining's data."
    )


def _rates(audits: Sequence[PretrainedAudit], per_truth: int) -> list[str]:
    """Return the table of rates: the present rule, and what other rules say of the same losses."""
    lines = [
        "| truth | audits | accused | certified | inconclusive | not testable | residual fraction | rule 1: accused / certified "
        "| forget quality | plain AUC |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for truth in NAMES:
        chosen = [one for one in audits if one.truth == truth]
        if not chosen:
            lines.append(f"| {truth} | 0 of {per_truth} made |" + " |" * 8)
            continue
        count = len(chosen)
        rates = " | ".join(per_cent(sum(one.evidence.verdict == word for one in chosen), count) for word in WORDS)
        residuals = [one.evidence.residual.value for one in chosen if one.evidence.residual is not None]
        first = " / ".join(str(sum(one.others.verdict == word for one in chosen)) for word in WORDS[:2])
        quality, area = (
            sum(flags) for flags in zip(*((one.others.forget_quality, one.others.plain_auc) for one in chosen), strict=True)
        )
        made = str(count) if count == per_truth else f"{count} of {per_truth}"
        lines.append(
            f"| {truth} | {made} | {rates} | {min(residuals):+.3f} .. {max(residuals):+.3f} | {first} | {quality} of {count} "
            f"| {area} of {count} |"
        )
    return lines


def _certain(audits: Sequence[PretrainedAudit]) -> str:
    """Say what the numbers of audits allow to say."""
    count = max(sum(one.truth == truth for one in audits) for truth in NAMES)
    none = clopper_pearson(0, count, 0.95)
    return (
        f"None of {count} is compatible with a rate of up to {100 * none.high:.0f} %, all of {count} with one from "
        f"{100 * (1 - none.high):.0f} % on. The audits share original, references, controls and forget set: they say how other "
        "trainings of the same people fare, not how other people do. *Forget quality* and *plain AUC*: how many the two-sample "
        "test on losses against one retrained model (p > 0.05), and an AUC's interval that contains one half, call forgotten."
    )


def _each(audits: Sequence[PretrainedAudit]) -> list[str]:
    """Return a table with a row for each audit."""
    channels = list(dict.fromkeys(channel.name for one in audits for channel in one.evidence.channels))
    columns: dict[str, Callable[[PretrainedAudit], str]] = {
        "truth": lambda one: one.truth,
        "verdict": lambda one: one.evidence.verdict,
        **{name: lambda one, name=name: _residual(one, name) for name in channels},  # type: ignore[misc]
        "records accused": lambda one: str(len(one.evidence.accused)),
        "utility": _utility,
    }
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    return [*lines, *("| " + " | ".join(read(one) for read in columns.values()) + " |" for one in audits)]


def _residual(one: PretrainedAudit, name: str) -> str:
    found = next((channel for channel in one.evidence.channels if channel.name == name), None)
    return "" if found is None else channel_residual(found) + ("" if found.valid else "?")


def _utility(one: PretrainedAudit) -> str:
    found = next((entry.ratio for entry in one.evidence.utility if entry.model == "target"), None)
    return "" if found is None else f"{found.value:.2f}"
