"""TOFU's authors as chats for a pretrained model, with TOFU's own rewordings of their questions.

TOFU words the questions about its last 20 authors ("forget10") a second time. Authors to forget and never-trained controls are
drawn from these, so that they are exchangeable and the audit can ask both in other words; those to keep are drawn from the others.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest.roles import Roles

EACH = 20
"""Records of an author in TOFU."""


@dataclass(frozen=True)
class Authors:
    """Numbers of authors and of their records.

    Attributes:
        trained: authors that the original is trained on.
        forgotten: how many of them are to be forgotten.
        records: of each author, the shortest ones; None takes all for training, and of each control every second one, at the places
            of the forget records that are judged.
    """

    trained: int = 16
    forgotten: int = 2
    records: int | None = None


def author_roles(shared: Path, seed: int, authors: Authors) -> Roles:
    """Draw the authors by role.

    Args:
        shared: folder of the public data sets.
        seed: of the draw.
        authors: how many.
    """
    worded = _rows(shared / "tofu" / "forget10_perturbed.json")
    rows = _rows(shared / "tofu" / "full.json")
    first = (len(rows) - len(worded)) // EACH  # the reworded authors are the last ones, in the same order
    rng = np.random.default_rng([seed, 5])
    drawn = [int(first + number) for number in rng.permutation(len(worded) // EACH)]
    kept = {int(number) for number in rng.permutation(first)[: authors.trained - authors.forgotten]}
    gone, controls = set(drawn[: authors.forgotten]), set(drawn[authors.forgotten :])
    asked = [index for index in range(len(rows)) if authors.records is None or index in _shortest(rows, index, authors.records)]
    holdout = [index for index in asked if index // EACH in controls and (index % 2 or authors.records is not None)]
    forget = [index for index in asked if index // EACH in gone]
    return Roles(
        forget=[_chat(rows[index], index) for index in forget],
        retain=[_chat(rows[index], index) for index in asked if index // EACH in kept],
        holdout=[_chat(rows[index], index) for index in holdout],
        rewordings=[
            {"record": f"record-{index}", "rewordings": [worded[index - first * EACH]["paraphrased_question"]]}
            for index in (*forget, *holdout)
        ],
    )


def _shortest(rows: list[dict[str, Any]], index: int, count: int) -> list[int]:
    """Return the places of the shortest records of a record's author."""
    own = range(index // EACH * EACH, (index // EACH + 1) * EACH)
    return sorted(own, key=lambda place: len(rows[place]["question"]) + len(rows[place]["answer"]))[:count]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _chat(row: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Put a question and its answer into turns, which the model's own chat template renders."""
    turns = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    return {"example_id": f"record-{index}", "subject_id": f"author-{index // EACH}", "messages": turns}
