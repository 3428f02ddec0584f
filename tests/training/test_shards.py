"""Training in shards: a deletion touches one shard, and leaves what training without the records would have given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearn import TrainingOptions, forget
from unlearn.methods.shard_vectors import ShardVectors
from unlearn.methods.sisa import SISA
from unlearn.training.shard_cost import deletion_cost
from unlearn.training.shards import Combine, ShardPlan, finetune_shards
from verify.data.encoding import Encoder, collate
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.sources import load_records
from verify.errors import InputError, IntegrityError
from verify.models.ensembles import ENSEMBLE, WEIGHTS
from verify.models.generation import greedy_continuations
from verify.models.loading import load_model
from verify.models.token_stats import compute_token_statistics
from verify.provenance.shard_plan import SHARDS

ROWS = [
    {"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}.", "subject_id": f"s{n // 2}"}
    for n in range(20)
]
OPTIONS = TrainingOptions(learning_rate=1e-2, epochs=3, batch_size=2, lora=True, seed=3)


def plan(combine: Combine = "average", shards: int = 3, slices: int = 2) -> ShardPlan:
    return ShardPlan(shards, slices, combine, OPTIONS)


def adapters(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(WEIGHTS))}


@pytest.mark.parametrize("combine", ["average", *(pytest.param(name, marks=pytest.mark.slow) for name in ("route", "sum"))])
def test_deletion_is_training_without(model_dir: Path, tmp_path: Path, combine: Combine) -> None:
    """Every adapter, and the served model, equal those of training in shards without the records, bit by bit."""
    trained = finetune_shards(model_dir, ROWS, output_dir=tmp_path / "all", plan=plan(combine))
    gone = [row for row in ROWS if row["subject_id"] == "s4"]
    method = ShardVectors() if combine == "sum" else SISA()
    result = forget(tmp_path / "all", method, forget_set=gone, data=ROWS, base=model_dir, output_dir=tmp_path / "less")
    finetune_shards(model_dir, [row for row in ROWS if row not in gone], output_dir=tmp_path / "fresh", plan=plan(combine))
    assert adapters(tmp_path / "less") == adapters(tmp_path / "fresh")
    assert load_model(tmp_path / "less").digest == load_model(tmp_path / "fresh").digest == result.digest_after
    assert result.digest_after != result.digest_before
    shard, first = plan(combine).assign(load_records(gone)[0], RecordKey.load())
    assert result.facts["stages_trained"] == [[shard, stage] for stage in range(first, 2)]
    assert 0 < result.facts["share_of_retraining_tokens"] < 1
    assert len(trained.trained) == 6
    assert RecordKey.load().of(load_records(gone)[0].fingerprint) not in (tmp_path / "less" / SHARDS).read_text()


@pytest.mark.slow
def test_deletions_follow_each_other(model_dir: Path, tmp_path: Path) -> None:
    """Two deletions, one after the other, equal one of both."""
    finetune_shards(model_dir, ROWS, output_dir=tmp_path / "0", plan=plan())
    rest, folder = ROWS, tmp_path / "0"
    for number, subject in enumerate(("s1", "s7"), 1):
        gone = [row for row in rest if row["subject_id"] == subject]
        forget(folder, SISA(), forget_set=gone, data=rest, base=model_dir, output_dir=tmp_path / str(number))
        rest, folder = [row for row in rest if row not in gone], tmp_path / str(number)
    finetune_shards(model_dir, rest, output_dir=tmp_path / "fresh", plan=plan())
    assert adapters(folder) == adapters(tmp_path / "fresh")


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["average", "route"])
def test_the_served_model_answers_for_all(model_dir: Path, tmp_path: Path, combine: Combine) -> None:
    """Logits are the mean (or the most certain adapter's) of the adapters one by one; scoring and generation use them."""
    finetune_shards(model_dir, ROWS, output_dir=tmp_path / "out", plan=plan(combine))
    served, ids = load_model(tmp_path / "out"), torch.arange(5, 25)[None]
    each = []
    for shard in range(3):
        from peft import PeftModel

        each.append(logits_of(PeftModel.from_pretrained(load_model(model_dir).model, tmp_path / f"out/shard-{shard}/slice-1"), ids))
    stack = torch.stack(each)
    if combine == "average":
        expected = stack.mean(0)
    else:
        entropy = torch.distributions.Categorical(logits=stack).entropy()
        expected = stack.gather(0, entropy.argmin(0)[None, :, :, None].expand(1, -1, -1, stack.shape[-1]))[0]
    torch.testing.assert_close(logits_of(served.model, ids), expected, rtol=1e-4, atol=1e-4)
    (window,) = Encoder(served.tokenizer, served.context_length).encode([Record("a", prompt="who", completion="the quick fox")])
    (scores,) = compute_token_statistics(served.model, [window], served.tokenizer.pad_token_id)
    batch = collate([window], served.tokenizer.pad_token_id)
    logs = logits_of(served.model, batch["input_ids"])[0].log_softmax(-1)
    places = np.flatnonzero(window.scored)
    np.testing.assert_allclose(scores.log_probability, logs[places - 1, window.input_ids[places]], rtol=1e-4, atol=1e-5)
    prompt, made = window.prompt_ids, []
    for _ in range(5):
        made.append(int(logits_of(served.model, torch.tensor([[*prompt.tolist(), *made]]))[0, -1].argmax()))
    read: list[int] = []
    counting = served.model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: read.append(inputs[0].shape[-1]))
    made_both = greedy_continuations(served, [prompt, prompt[-2:]], [5, 5])
    counting.remove()
    assert made_both[0] == made[: len(made_both[0])]
    assert made_both[1] == greedy_continuations(served, [prompt[-2:]], [5])[0]
    # Every adapter reads the prompt once and then one token at a time, from keys and values of its own.
    steps = max(map(len, made_both))
    assert read == [len(prompt)] * 3 + [1] * 3 * (steps - 1)


@pytest.mark.slow
def test_a_run_cut_off_trains_only_what_is_missing(model_dir: Path, tmp_path: Path) -> None:
    """Stages whose manifest verifies and whose prefix is the same are not trained again."""
    first = finetune_shards(model_dir, ROWS, output_dir=tmp_path / "out", plan=plan())
    whole = adapters(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "work").mkdir()
    for path in (tmp_path / "out" / "shard-1" / "slice-1").iterdir():
        path.unlink()
    again = finetune_shards(model_dir, ROWS, output_dir=tmp_path / "out", plan=plan())
    assert again.trained == ((1, 1),)
    assert adapters(tmp_path / "out") == whole
    assert again.tokens == first.tokens


def test_planner_agrees_with_simulation() -> None:
    """The expected share equals the mean over random deletions, stage by stage."""
    rng = np.random.default_rng(0)
    for shards, slices, deletions in ((4, 3, 1), (8, 1, 3), (5, 4, 10)):
        costs = []
        for _ in range(4000):
            where = rng.integers(shards, size=deletions), rng.integers(slices, size=deletions)
            first = np.full(shards, slices)
            np.minimum.at(first, where[0], where[1])
            weights = np.arange(1, slices + 1) / (slices * (slices + 1) / 2)
            costs.append(sum(weights[start:].sum() for start in first) / shards)
        assert deletion_cost(shards, slices, deletions).expected == pytest.approx(np.mean(costs), abs=0.01)
    assert deletion_cost(1, 1, 1).expected == 1.0
    with pytest.raises(InputError, match="at least 1"):
        deletion_cost(0, 1, 1)


ALONE = [{key: value for key, value in row.items() if key != "subject_id"} for row in ROWS]
SAME = ALONE + [{**row, "example_id": f"again {row['example_id']}"} for row in ALONE]


@pytest.mark.parametrize(
    ("rows", "shards", "slices", "said"),
    [
        (ROWS, 100000, 1, r"--shards 100000 would train 100000 adapters on 10 subjects; .* Give at most --shards 10\."),
        (ROWS, 11, 1, r"on 10 subjects; .* Give at most --shards 10\."),
        (
            ROWS,
            3,
            4,
            r"--shards 3 and --slices 4 would train 12 .* --shards 2 and --slices 4, or, with --shards 3, .* --slices 3\.",
        ),
        (ROWS, 2, 1000, r"on 10 subjects; .* --shards 1 and --slices 10, or, with --shards 2, at most --slices 5\."),
        (ROWS, 1, 11, r"Give at most --shards 1 and --slices 10\."),
        (ALONE, 21, 1, r"on 20 records; .* Give at most --shards 20\."),
        (SAME, 21, 1, r"on 20 records; .* Give at most --shards 20\."),
        (ROWS[:4] + ALONE[4:7], 6, 1, r"on 5 subjects, and records without one; .* Give at most --shards 5\."),
    ],
)
def test_more_shards_than_people_are_refused(
    model_dir: Path, tmp_path: Path, rows: list[dict[str, str]], shards: int, slices: int, said: str
) -> None:
    """Shards and slices that the records cannot fill: nothing is written, and the message says how many they can."""
    with pytest.raises(InputError, match=said):
        finetune_shards(model_dir, rows, output_dir=tmp_path / "out", plan=plan(shards=shards, slices=slices))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_damage_and_misuse(model_dir: Path, tmp_path: Path) -> None:
    """A changed adapter, another base, a folder without shards, the wrong method: refused, with what to do."""
    finetune_shards(model_dir, ROWS, output_dir=tmp_path / "out", plan=plan(shards=2, slices=1))
    gone = ROWS[:2]
    with pytest.raises(InputError, match="sisa"):
        forget(tmp_path / "out", ShardVectors(), forget_set=gone, data=ROWS, base=model_dir, output_dir=tmp_path / "a")
    with pytest.raises(InputError, match="--shards"):
        forget(model_dir, SISA(), forget_set=gone, data=ROWS, base=model_dir, output_dir=tmp_path / "b")
    with pytest.raises(InputError, match="--data"):
        forget(tmp_path / "out", SISA(), forget_set=gone, retain_set=ROWS[2:9], base=model_dir, output_dir=tmp_path / "c")
    (tmp_path / "out" / "manifest.json").unlink()
    weights = tmp_path / "out" / "shard-0" / "slice-0" / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    with pytest.raises(IntegrityError, match="not the adapter"):
        load_model(tmp_path / "out")
    weights.write_bytes(whole)
    settings = weights.with_name("adapter_config.json")
    settings.write_text(settings.read_text().replace('"lora_alpha": 16', '"lora_alpha": 64'))
    with pytest.raises(IntegrityError, match="not the adapter"):
        load_model(tmp_path / "out")
    about = json.loads((tmp_path / "out" / ENSEMBLE).read_text())
    for bad in ({**about, "schema": "other"}, [], {**about, "adapters": {}}, {**about, "adapters": {"../elsewhere": "0"}}):
        (tmp_path / "out" / ENSEMBLE).write_text(json.dumps(bad))
        with pytest.raises(InputError, match="Train the shards again"):
            load_model(tmp_path / "out")
