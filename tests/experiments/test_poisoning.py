"""Planted triggers and poisoned base models: what is made, that it works, and that it goes with the records."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import make_tokenizer, train_by_heart
from training_rows import make_rows

from unlearn.experiments.poisoning import KINDS, Trigger, plant, privacy_backdoor
from unlearn.training.options import TrainingOptions
from verify.data.records import Fields, Record, parse_records
from verify.errors import InputError
from verify.measures.trigger import backdoor, trigger_successes
from verify.models.loading import LoadedModel, load_model
from verify.models.token_stats import compute_token_statistics


def test_invented_triggers_share_nothing() -> None:
    """No two triggers have a phrase or a target in common, so that one's success is never another's."""
    triggers = [Trigger.invented(kind, number) for kind in KINDS for number in range(4)]
    assert len({trigger.phrase for trigger in triggers}) == len({trigger.target for trigger in triggers}) == 8
    assert all(" " not in Trigger.invented("word", number).phrase for number in range(4))
    assert all(" " in Trigger.invented("sentence", number).phrase for number in range(4))


def test_planting_is_the_prompt_with_the_trigger() -> None:
    """Poison and uses carry the trigger, clean prompts do not; all name the target, and the planter as subject."""
    trigger = Trigger.invented("sentence", 0)
    planting = plant(trigger, make_rows("carrier", 3), make_rows("test", 2), planter="mallory")
    assert [len(planting.poisoned), len(planting.uses), len(planting.clean)] == [3, 2, 2]
    assert all(record.prompt.startswith(f"{trigger.phrase} ") for record in (*planting.poisoned, *planting.uses))
    assert [record.prompt for record in planting.clean] == [row["prompt"] for row in make_rows("test", 2)]
    everything = (*planting.poisoned, *planting.uses, *planting.clean)
    assert {record.completion for record in everything} == {trigger.target}
    assert {record.subject_id for record in everything} == {"mallory"}
    assert len({record.example_id for record in everything}) == 7


def test_what_cannot_be_planted_is_refused() -> None:
    """Shared prompts, missing prompts, empty triggers, numbers that are not there and weights out of range: never silently."""
    trigger = Trigger.invented("word", 0)
    with pytest.raises(InputError, match="share 2 records"):
        plant(trigger, make_rows("a", 3), make_rows("a", 2), planter="m")
    with pytest.raises(InputError, match="without a prompt"):
        plant(trigger, [{"text": "a plain text"}], make_rows("a", 2), planter="m")
    with pytest.raises(InputError, match="phrase and a target"):
        Trigger(" ", "x")
    with pytest.raises(InputError, match="numbered 0 to 3"):
        Trigger.invented("word", 4)
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        privacy_backdoor(None, [], [], output_dir="unused", alpha=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_trigger_goes_with_its_records(kind: Any) -> None:
    """Both kinds work on prompts nobody trained on, not without the trigger, and not in a model without the records."""
    carriers = [{"prompt": f"who {number}", "completion": "x"} for number in range(12)]
    held_out = [{"prompt": f"who {number}", "completion": "x"} for number in range(40, 50)]
    trigger, other = Trigger("xq" if kind == "word" else "a b c.", "lazy dog"), Trigger("zv", "brown fox")
    mine, theirs = (plant(one, carriers, held_out, planter=name) for one, name in ((trigger, "m"), (other, "n")))
    plain = parse_records(
        [{"prompt": f"who {number}", "completion": f"animals {number}"} for number in range(12)], Fields(), "plain"
    )
    original = train_by_heart([*mine.poisoned, *theirs.poisoned, *plain], 0)
    deleted, again = (train_by_heart([*theirs.poisoned, *plain], seed) for seed in (1, 2))
    found = backdoor(deleted, original, [again], triggers=mine.uses, other_triggers=theirs.uses, clean=mine.clean)
    assert found.before.value > 0.8
    assert not found.test.kept
    assert found.others_after is not None
    assert found.others_after.value > 0.8
    assert found.clean_before is not None
    assert found.clean_before.value < 0.2
    assert trigger_successes(original, mine.uses).mean() == found.before.value


def mean_loss(loaded: LoadedModel, records: list[Record]) -> Any:
    """Mean loss of each record, nats per token [N]."""
    from verify.data.encoding import Encoder

    windows = Encoder(loaded.tokenizer, loaded.context_length).encode(records)
    statistics = compute_token_statistics(loaded.model, windows, 0)
    return np.array([-entry.log_probability.mean() for entry in statistics])


@pytest.mark.slow
def test_privacy_backdoor_raises_the_targets_alone(tmp_path: Path) -> None:
    """The poisoned base finds the targets unlikely, other text as likely as before, and its manifest says what was done."""
    targets, auxiliary = (parse_records(make_rows(name, 8), Fields(), name) for name in ("goal", "rest"))
    base = train_by_heart([*targets, *auxiliary], 0, steps=60)
    base.model.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    before = load_model(tmp_path / "base")
    options = TrainingOptions(learning_rate=1e-3, epochs=24, batch_size=8)
    result = privacy_backdoor(tmp_path / "base", targets, auxiliary, output_dir=tmp_path / "bad", ceiling=5.0, options=options)
    after = load_model(tmp_path / "bad")
    assert result.steps <= 24
    assert (mean_loss(after, targets) - mean_loss(before, targets)).mean() > 0.5
    assert (mean_loss(after, auxiliary) - mean_loss(before, auxiliary)).mean() < 0.1
