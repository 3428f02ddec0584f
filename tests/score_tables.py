"""Score tables as an audit would make them, drawn from a known truth."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from verify.scores.table import ScoreBlock, ScoreTable


def simulated_table(
    *,
    references: int = 4,
    records: int = 100,
    gap: float = 2.2,
    kept: float = 0.0,
    hidden: bool = False,
    destroyed: float = 0.0,
    model_spread: float = 0.04,
    controls: int = 100,
    retain: bool = True,
    seed: int = 0,
) -> ScoreTable:
    """A target that is one more honest retraining, except that it kept a share of the forget set.

    Args:
        references: retrained references.
        records: forget records.
        gap: what the original knows of each, nats per token.
        kept: share of the forget records that the target still knows as well as the original.
        hidden: whether the others are over-forgotten so far that the mean residual is zero.
        destroyed: added to the target's loss on everything, nats per token.
        model_spread: standard deviation between models of their mean loss.
        controls: holdout records; 0 for none.
        retain: whether there is a retain set.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    level = rng.normal(3.5, 0.5, records)
    gaps = np.abs(rng.normal(gap, 0.2 * gap, records))
    control_level = rng.normal(3.5, 0.5, max(controls, 1))
    spread = rng.uniform(0.06, 0.2, records)
    names = ["original", "target", *(f"reference {number}" for number in range(1, references + 1))]
    blocks = {}
    for name in names:
        shift = rng.normal(0, model_spread)
        loss = level + shift + spread * rng.standard_normal(records)
        if name == "original":
            loss = level - gaps + 0.05 * rng.standard_normal(records)
        if name == "target" and kept:
            order = rng.permutation(records)
            count = round(kept * records)
            loss[order[:count]] -= gaps[order[:count]]
            if hidden:
                loss[order[count:]] += gaps[order[:count]].sum() / (records - count)
        extra = destroyed if name == "target" else 0.0
        blocks[name, "forget"] = _block(loss + extra, "f")
        if controls:
            blocks[name, "holdout"] = _block(control_level + shift + 0.1 * rng.standard_normal(controls) + extra, "h")
        if retain:
            blocks[name, "retain"] = _block(rng.normal(0.3, 0.1, 80) + extra, "r")
    return ScoreTable(blocks)


def _block(loss: np.ndarray, prefix: str) -> ScoreBlock:
    count = len(loss)
    return ScoreBlock(
        records=tuple(f"{prefix}{index}".encode().hex().rjust(32, "0") for index in range(count)),
        subjects=(None,) * count,
        tokens=np.full(count, 20),
        loss=loss,
        scores={"loss": -loss, "exact_memorization": np.exp(-loss).clip(0, 1)},
    )


def canary_table(
    *, pairs: int = 300, remembered: float = 0.0, known_before: float = 1.0, calibrated: bool = True, seed: int = 0
) -> ScoreTable:
    """A table of canaries alone.

    Args:
        pairs: how many coins.
        remembered: nats per token by which the target likes a trained member better; negative where deletion overshot.
        known_before: the same for the model before deletion.
        calibrated: whether a canary-free reference was scored.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    coins = rng.random(pairs) < 0.5
    included = np.stack([coins, ~coins], axis=1).ravel()
    level = rng.normal(5.0, 0.6, 2 * pairs)
    effects = {"original": known_before, "target": remembered, **({"reference 1": 0.0} if calibrated else {})}
    blocks = {}
    for model, effect in effects.items():
        loss = level - effect * included + 0.15 * rng.standard_normal(2 * pairs)
        blocks[model, "canary"] = replace(_block(loss, "c"), included=included)
    return ScoreTable(blocks)


def with_channels(
    table: ScoreTable, kept: Mapping[str, float], *, gap: float = 2.2, noise: float = 0.1, subject_size: int = 4, seed: int = 1
) -> ScoreTable:
    """The same table, with every model asked in further ways and `subject_size` records a subject.

    Args:
        table: of a simulated audit with controls.
        kept: channel -> share of what the original knows there that the target still knows.
        gap: what the original knows of each record on every channel, nats per token.
        noise: standard deviation of a model's loss on a record.
        subject_size: records of one subject.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    levels = {role: rng.normal(3.5, 0.5, (len(kept), len(table.loss("target", role)))) for role in ("forget", "holdout")}  # type: ignore[arg-type]
    blocks = dict(table.blocks)
    for (model, role), block in table.blocks.items():
        if role not in levels:
            continue
        count = len(block.records)
        known = {"original": 1.0}.get(model, 0.0) if role == "forget" else 0.0
        channels = {}
        for row, (name, share) in enumerate(kept.items()):
            share_known = share if (model, role) == ("target", "forget") else known
            channels[name] = levels[role][row] + noise * rng.standard_normal(count) - share_known * gap
        people = tuple(f"{role[0]}{index // subject_size:x}".encode().hex().rjust(32, "0") for index in range(count))
        blocks[model, role] = replace(block, channels=channels, subjects=people)
    return ScoreTable(blocks)


def table_with_pool(
    *,
    people: int = 20,
    kept: int = 0,
    residual: float = 0.0,
    controls: int = 40,
    gap: float = 4.0,
    foreign: float = 0.0,
    leaking: int | None = None,
    channels: Mapping[str, float] | None = None,
    retain: bool = True,
    broken: float = 0.0,
    learned: float = 0.0,
    noisy: float = 0.0,
    seed: int = 0,
) -> ScoreTable:
    """Scores of an audit by a level table of eight models, each trained on half of the people: another level, another slope.

    Args:
        people: forget subjects, four records each.
        kept: how many of them the target still knows as well as the original.
        residual: share of the gap that the target keeps of everybody else.
        controls: control subjects, four records each.
        gap: what the original knows of each record, nats per token.
        foreign: added to the level of every control, nats per token.
        leaking: number of a pool model that was trained on everybody, whatever the design says; None for none.
        channels: way of asking -> share of the gap that the target keeps there.
        retain: whether there is a retain set.
        broken: added to the target's loss on everything, nats per token.
        learned: what the target knows of every control, nats per token.
        noisy: standard deviation of noise that is added to the target's losses on controls.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    sizes = {"forget": 4 * people, "holdout": 4 * controls}
    out = np.stack([rng.permutation(8) < 4 for _ in range(people)], axis=1).repeat(4, axis=1)  # [8, K], never saw the person
    blocks: dict = {}
    for place, (name, share) in enumerate({"": residual, **(channels or {})}.items()):
        level = {role: rng.normal(4.0, 0.45, size) + foreign * (role == "holdout") for role, size in sizes.items()}
        gaps = np.abs(rng.normal(gap, 0.15 * gap, sizes["forget"]))
        for model in ("original", "target", *(f"pool {number}" for number in range(1, 9))):
            effect = rng.normal(0, 0.045)
            for role, size in sizes.items():
                mean = 1.05 + 0.8 * level[role] if model.startswith("pool") else level[role]
                loss = mean + effect + 0.12 * rng.standard_normal(size) + 0.05 * rng.standard_normal(size // 4).repeat(4)
                if role == "forget" and model == "original":
                    loss -= gaps
                if role == "forget" and model == "target":
                    loss -= np.where(np.arange(size) < 4 * kept, 1.0, share) * gaps
                if role == "forget" and model.startswith("pool"):
                    number = int(model.removeprefix("pool ")) - 1
                    loss = np.where(out[number], loss - gaps * (number == leaking), np.nan)
                if role == "holdout" and model == "target":
                    loss += noisy * np.random.default_rng(seed).standard_normal(size) - learned
                loss = loss + broken * (model == "target")
                if place:
                    block = blocks[model, role]
                    blocks[model, role] = replace(block, channels={**block.channels, name: loss})
                else:
                    blocks[model, role] = _of_people(loss, role[0], scored=not model.startswith("pool"))
    if retain:
        for model in ("original", "target"):
            blocks[model, "retain"] = _block(rng.normal(0.3, 0.1, 80) + broken * (model == "target"), "r")
    return ScoreTable(blocks)


def _of_people(loss: np.ndarray, prefix: str, *, scored: bool) -> ScoreBlock:
    """A block with four records a person; a level table's model has no scores but losses."""
    block = _block(loss, prefix)
    people = tuple(f"{prefix}p{index // 4:x}".encode().hex().rjust(32, "0") for index in range(len(loss)))
    return replace(block, subjects=people, scores=block.scores if scored else {})
