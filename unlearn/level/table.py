"""The never-trained level from a level table: what models that never saw a record made of it, measured before any request.

The table gives every record's mean loss under models of like training; how their level and slope differ from the original's is
measured on controls, which nobody was trained on:

    M_k = mean_c m_c(k) - mean_ck m_c(k)                   model effect, from the controls
    l_i = mean over the models k that never saw i of (m_i(k) - M_k)
    l*_i = a + b l_i,   (a, b) = least squares of the original's loss on l_c over the controls c

Only the method's half of models and controls is read; the auditor judges by the other one, or the audit would grade the method on
its own aim. How a record's mean is spread over its tokens follows from the base model (`unlearn.level.estimate`).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unlearn.level.estimate import Floats, Levels, base_of, estimate_levels, log_probabilities
from unlearn.training.method import Context
from verify.data.encoding import Encoded
from verify.data.identity import RecordKey
from verify.errors import InputError
from verify.provenance.level_table import FOLDER, LevelTable, ancestors_by_deletion
from verify.statistics.channels import EXACT_TEXT

FOR_A_SLOPE = 10
"""Fewest controls from which a slope is fitted; with fewer, only the level is (b = 1)."""
FEWEST = 2
"""Fewest controls."""


def table_level(
    context: Context, forget: Sequence[Encoded], controls: Sequence[Encoded], folder: str
) -> tuple[Levels, dict[str, Any]]:
    """Read the level of the forget set from a table; return it with what the manifest says of the table.

    Args:
        context: with a base, and the method's controls as the holdout set.
        forget, controls: windows.
        folder: of the table; "" takes the one in the model's folder.

    Raises:
        InputError: the table is another model's, has no row of a record or no half for the method, or the holdout records are not
            the method's controls.
    """
    place = Path(folder) if folder else Path(context.model_dir or ".") / FOLDER
    table, key = LevelTable.open(place), RecordKey.load()
    originals = (*ancestors_by_deletion(context.model_dir), context.loaded.digest)
    table.require_fits(originals, context.loaded.tokenizer_digest)
    models, held = table.models_of("method"), [key.of(record.fingerprint) for record in context.holdout]
    _require_own_controls(table, held)
    effect = _model_effect(table.losses(held, EXACT_TEXT, models))  # [M / 2]
    names = [key.of(record.fingerprint) for record in context.forget]
    own = np.nanmean(table.losses(names, EXACT_TEXT, models) - effect[:, None], axis=0)  # [K]
    theirs = _as_often(
        table.losses(held, EXACT_TEXT, models) - effect[:, None], table.design_seed, table.design.left_out // 2
    )  # [C]
    truth = -by_record(log_probabilities(context.loaded, controls, context.options), controls, len(held))
    slope = float(np.polyfit(theirs, truth, 1)[0]) if len(held) >= FOR_A_SLOPE else 1.0
    aim = truth.mean() + slope * (own - theirs.mean())
    rough = estimate_levels(context.loaded, [base_of(context, "--sources table")], forget, controls, context.options)
    correlation = float(np.corrcoef(theirs, truth)[0, 1]) if len(held) > FEWEST and theirs.std() and truth.std() else None
    facts = {"level_table": table.digest, "table_slope": slope}
    return dataclasses.replace(_moved(rough, forget, aim), control_correlation=correlation), facts


def _require_own_controls(table: LevelTable, held: Sequence[str]) -> None:
    """Require that the holdout records are the table's controls for the method."""
    own, others = set(table.controls("method")), set(table.controls("audit"))
    if theirs := len(others & set(held)):
        raise InputError(
            f"{theirs} of the {len(held)} holdout records are the audit's controls, which a method must not read. Give the "
            "method's: holdout-method.jsonl in the model's folder, with --holdout."
        )
    if len(held) < FEWEST or not own.issuperset(held):
        raise InputError(
            f"--sources table calibrates on the table's controls for the method, of which {len(own & set(held))} were given among "
            f"{len(held)} holdout records. Give holdout-method.jsonl in the model's folder, with --holdout."
        )


def _model_effect(losses: Floats) -> Floats:
    """Compute by how much each model's losses on controls lie above those of all [M]."""
    return np.asarray(losses.mean(axis=1) - losses.mean(), dtype=np.float64)


def _as_often(losses: Floats, seed: int, count: int) -> Floats:
    """Average each control [M, C] over as many models, drawn at random, as a record is left out of [C].

    All models of the pool never saw the controls; their mean over all would be less noisy than that of a record.
    """
    random = np.random.default_rng([seed, 2])
    return np.array([column[random.permutation(len(column))[:count]].mean() for column in losses.T])


def by_record(values: Floats, windows: Sequence[Encoded], records: int) -> Floats:
    """Average over the tokens of all windows of a record [K]."""
    of_token = np.repeat([window.record for window in windows], [int(window.scored.sum()) for window in windows])
    return np.asarray(np.bincount(of_token, values, records) / np.bincount(of_token, minlength=records), dtype=np.float64)


def _moved(levels: Levels, windows: Sequence[Encoded], aim: Floats) -> Levels:
    """Shift all tokens of each record by the same amount, so that its mean loss is the aim [K]."""
    by = aim + by_record(levels.tokens, windows, len(aim))  # nats by which the record's loss is to rise
    owners = np.array([window.record for window in windows])
    return levels.moved_to(levels.losses() + by[owners])
