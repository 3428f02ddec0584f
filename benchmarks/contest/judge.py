"""Verdict on an entry: the audit of half B by every channel that can be measured, and what is kept of it."""

from pathlib import Path
from typing import Any

from benchmarks.contest.data import SHORT_WORLD
from benchmarks.contest.place import Place
from benchmarks.contest.trials import ORIGINAL
from verify import Settings, audit, score_ahead
from verify.io.files import write_text
from verify.judging.verdict_text import beyond_references
from verify.schema.channels import ChannelResult
from verify.schema.evidence import Evidence
from verify.schema.settings import ChannelGroup

SHORT_CHANNELS: tuple[ChannelGroup, ...] = ("exact", "rewordings", "instruction", "no-prompt", "int4", "relearned")
"""Channels on `smollm2_short`; all elsewhere. Left out is what takes longest on two cores: the head over all words for each layer,
and texts that are four times as long; and `int8`, which on these models has been as the exact text."""


def score_model(place: Place, name: str) -> None:
    """Score a model that every audit compares with, once; the base and the original come first."""
    done = place.folder / "scored" / name
    with place.locked(f"score-{name}"):
        if done.exists():
            return
        if name != ORIGINAL:
            score_model(place, ORIGINAL)
        common = _common(place)
        score_ahead(str(place.model(name)), str(place.model(ORIGINAL)), references=place.references, **common)
        write_text(done, "")


def judged(place: Place, entry: str, target: Path) -> dict[str, Any]:
    """Audit an entry's model, and return what the contest keeps of the evidence, which is written to the working folder."""
    for name in (ORIGINAL, *place.reference_names()):
        score_model(place, name)
    references = [str(place.model(name)) for name in place.reference_names()]
    common, original = _common(place), str(place.model(ORIGINAL))
    evidence = audit(str(target), original, references=references, **common)
    evidence.save(place.folder / "audits" / f"{entry}.json")
    first = settings_for(place).model_copy(update={"rule": 1})  # the same scores, from the cache
    alone = audit(str(target), original, references=references, **{**common, "rewordings": None, "settings": first})
    return {**numbers(evidence), "alone": alone.verdict}


def settings_for(place: Place) -> Settings:
    """Return the settings of the audits: the channels, and the attacks on the pass that every record takes anyway."""
    channels = SHORT_CHANNELS if place.world == SHORT_WORLD else None
    return Settings(attacks=("quick",), seed=place.seed, overflow="split", channels=channels)


def _common(place: Place) -> dict[str, Any]:
    """Return what all audits of a contest are given."""
    rewordings = Path(place.data("rewordings"))
    return {
        "base": place.base,
        "forget_set": place.data("judged"),
        "retain_set": place.data("retain"),
        "holdout_set": place.data("holdout-audit"),
        "rewordings": str(rewordings) if rewordings.exists() else None,
        "settings": settings_for(place),
        "cache_dir": place.folder / "cache",
    }


def numbers(evidence: Evidence) -> dict[str, Any]:
    """Return the numbers of the tables from an audit's evidence."""
    attack = evidence.attack("loss", "target")
    utility = next(entry for entry in evidence.utility if entry.model == "target")
    directions = [entry.direction for entry in evidence.accused]
    residual, environment = evidence.residual, evidence.environment
    return {
        "verdict": evidence.verdict,
        "rule": evidence.settings.rule,
        "phrase": evidence.verdict_phrase,
        "why": list(evidence.explanation),
        "accused_by": list(evidence.accused_by),
        "failed_checks": [gate.name for gate in evidence.gates if not gate.passed],
        "residual": None if residual is None else [residual.value, residual.low, residual.high],
        "records": evidence.set("forget").records,
        "accused": {direction: directions.count(direction) for direction in sorted(set(directions))},
        "subjects_accused": len(evidence.subjects),
        "tests": {test.name: test.fired for test in evidence.tests},
        "channels": [_channel(one) for one in evidence.channels],
        "channels_not_run": {one.channel: one.reason for one in evidence.channels_not_run or ()},
        "seen": [name for family in ("membership", "extraction") for name in beyond_references(evidence.attacks, family)],
        "auc": None if attack is None or attack.auc is None else attack.auc.value,
        "utility": None if utility.ratio is None else utility.ratio.value,
        "references": sum(model.role == "reference" for model in evidence.models),
        "machine": f"{environment.device}, torch {environment.torch}, transformers {environment.transformers}",
    }


def _channel(found: ChannelResult) -> dict[str, Any]:
    residual = found.residual
    return {
        "name": found.name,
        "residual": None if residual is None else [residual.value, residual.low, residual.high],
        "gap": found.gap,
        "valid": found.valid,
        "certifiable": found.certifiable,
        "accused": found.accused,
        "certified": found.certified,
        "direction": found.direction,
    }
