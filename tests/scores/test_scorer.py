"""What the scorer keeps of one model for the attacks that compare models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import make_llama, make_tokenizer

from verify import Settings
from verify.attacks import select_attacks
from verify.attacks.base import Observation
from verify.attacks.membership.lira import Lira
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import RunError
from verify.models.loading import load_model
from verify.scores.observe import measure
from verify.scores.scorer import Plan, Scorer

KEY = RecordKey(b"k" * 32)
TOKENIZER = make_tokenizer()
FORGET = [Record(f"f{number}", prompt="who", completion=f"the quick brown fox {number}", subject_id="Ada") for number in range(5)]
HOLDOUT = [Record(f"h{number}", prompt="q", completion=f"animals jump {number} times") for number in range(6)]
ROLES = ("base", "original", "target", "reference", "reference")


class LeastLikelyToken(Lira):
    """Compares each record's least likely token with the references', so it reads their tokens."""

    needs = frozenset({"one pass", "retrained references", "reference tokens"})

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """The lowest log-probability under the target minus the mean of those under the references."""
        lowest = [[entry.log_probability.min() for entry in one.statistics] for one in (target, *references)]
        return np.asarray(lowest[0] - np.mean(lowest[1:], axis=0), dtype=np.float64)


class Undeclared(LeastLikelyToken):
    """The same without saying that it reads tokens."""

    needs = Lira.needs


def scored(attacks: dict[str, Any]) -> Scorer:
    """Five tiny models scored and compared."""
    scorer = Scorer({"forget": FORGET, "holdout": HOLDOUT}, attacks, Settings(), TOKENIZER, None, KEY)
    for number, role in enumerate(ROLES):
        scorer.score(Plan(f"{role} {number}" if role == "reference" else role, role, make_llama(TOKENIZER, number)), lambda _: None)
    scorer.compare()
    return scorer


def test_attacks_that_wait_give_what_whole_observations_give() -> None:
    """The means that are kept give the scores of every attack that compares models, on both sets, to the last bit."""
    compare = {"reference model", "retrained references"}
    attacks = {name: attack for name, attack in select_attacks(["quick"]).items() if compare & attack.needs}
    scorer = scored(attacks)
    loaded = [load_model(make_llama(TOKENIZER, number), tokenizer=TOKENIZER) for number in range(len(ROLES))]
    whole = {}
    for role, records in (("forget", FORGET), ("holdout", HOLDOUT)):
        whole[role] = [measure(one, records, cache_dir=None, key=KEY) for one in loaded]
    for name, attack in attacks.items():
        seen = []
        for forget, controls in zip(whole["forget"], whole["holdout"], strict=True):
            seen.append(Observation(forget.records, forget.statistics, controls=controls))
        expected = attack.score(seen[2], seen[:1] if "reference model" in attack.needs else seen[3:])
        np.testing.assert_array_equal(scorer.blocks["target", "forget"].scores[name], expected)
        assert len(scorer.blocks["reference 3", "holdout"].scores.get(name, HOLDOUT)) == len(HOLDOUT)
    assert {"lira", "rmia", "ez_mia", "reference"} <= set(attacks)


@pytest.mark.slow
def test_only_means_wait_for_the_comparison() -> None:
    """Of a finished model no token is left, unless an attack declares that it reads them."""
    plain = scored(dict(select_attacks(["lira", "rmia", "reference", "loss"])))
    assert all(not one.table.columns for kept in plain.kept.values() for one in kept.values())
    assert all(not one.table.columns and one.loaded is None and not one.windows for one in plain.base.values())
    based = scored(dict(select_attacks(["lira", "ez_mia"])))
    assert all(not one.table.columns for kept in based.kept.values() for one in kept.values())
    assert all(isinstance(column, np.memmap) for column in based.base["holdout"].table.columns.values())
    deep = scored({"least": LeastLikelyToken()})
    assert all(not one.table.columns for one in deep.base.values())
    assert all(isinstance(column, np.memmap) for column in deep.kept["target"]["forget"].table.columns.values())
    models = [load_model(make_llama(TOKENIZER, number), tokenizer=TOKENIZER) for number in range(len(ROLES))]
    whole = [measure(one, HOLDOUT, cache_dir=None, key=KEY) for one in models]
    expected = LeastLikelyToken().score(whole[1], whole[3:])
    np.testing.assert_array_equal(deep.blocks["original", "holdout"].scores["least"], expected)


def test_an_attack_that_does_not_declare_tokens_is_told_to() -> None:
    """Instead of scores of something else, an error that names the need."""
    with pytest.raises(RunError, match="reference tokens"):
        scored({"least": Undeclared()})


def test_names_are_hashed_once_for_all_models(tmp_path: Path) -> None:
    """Every block of a set holds the same tuples of keyed hashes."""
    blocks = scored(dict(select_attacks(["loss"]))).blocks
    for role in ("forget", "holdout"):
        first = blocks["base", role]
        assert all(block.records is first.records for (_, other), block in blocks.items() if other == role)
    assert len(set(blocks["target", "forget"].subjects)) == 1
    assert set(blocks["target", "holdout"].subjects) == {None}
