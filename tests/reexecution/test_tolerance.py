"""Re-execution with a tolerance: what other hardware rounds otherwise passes, one forget record in one microbatch does not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import unlearn.methods.rollback as rollback_module
from unlearn import TrainingOptions, finetune, finetune_shards, forget
from unlearn.methods.rollback import Rollback
from unlearn.methods.sisa import SISA
from unlearn.training.shards import ShardPlan
from verify.data.encoding import collate
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.io.files import MANIFEST, read_json, write_manifest
from verify.models.loading import load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.reexecution.plans import Trust, plan_log
from verify.reexecution.records import Shown
from verify.reexecution.reexecute import reexecute
from verify.reexecution.tolerance import WEIGHTS, deviations
from verify.schema.reexecution import Reexecution
from verify.schema.tolerance import NOISE_FACTOR, Deviation, reading_of
from verify.training.reordering import Reordered
from verify.training.replay import replay

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(12)]
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=2, save_steps=6, lora=True, lora_dropout=0.1, seed=3)
GONE = ROWS[5:6]
ELSEWHERE = 77
"""Order of summation of the machine that trained and deleted."""


@dataclass(frozen=True)
class Elsewhere:
    """A model that was trained, and from which a record was deleted, on a machine that rounds otherwise."""

    base: Path
    before: Path
    after: Path

    def judge(self, **changed: Any) -> Reexecution:
        given = {"model": self.after, "base": self.base, "data": ROWS, "forget_set": GONE, "log": self.before, "tolerance": True}
        return reexecute(**{**given, **changed})


@pytest.fixture(scope="module")
def elsewhere(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    top = tmp_path_factory.mktemp("elsewhere")
    with Reordered(ELSEWHERE):
        before = finetune(model_dir, ROWS, output_dir=top / "before", options=OPTIONS).model_dir
        forget(before, Rollback(), forget_set=GONE, data=ROWS, base=model_dir, output_dir=top / "after")
    return Elsewhere(model_dir, before, top / "after")


@pytest.fixture
def copied(elsewhere: Elsewhere, tmp_path: Path) -> Elsewhere:
    shutil.copytree(elsewhere.after, tmp_path / "after")
    return replace(elsewhere, after=tmp_path / "after")


def edit_log(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Edit the entries of a log and the manifest with it, as an operator could."""
    path = folder / LOG_NAME
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    change(entries)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    write_manifest(folder, "model", read_json(folder / MANIFEST)["about"])


@pytest.fixture(scope="module")
def honest(elsewhere: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reexecution, Path]:
    """The proof of the honest deletion, and its file."""
    path = tmp_path_factory.mktemp("honest") / "proof.json"
    return elsewhere.judge(output=path), path


@pytest.mark.slow
def test_rounding_elsewhere_is_within_noise(elsewhere: Elsewhere, honest: tuple[Reexecution, Path]) -> None:
    """The honest deletion of another machine is accused without the tolerance, and within noise with it, in a word of its own."""
    assert elsewhere.judge(tolerance=False).word == "NOT_REBUILT"
    proof, path = honest
    assert proof.phrase == f"WITHIN_NOISE(all of {proof.segments})", proof.findings
    assert proof.segments == 2
    assert "not bit for bit" in proof.claim
    assert Reexecution.load(path) == proof
    for segment in proof.executed:
        assert segment.reading == "within noise"
        weights = segment.deviations[0]
        assert weights.part == WEIGHTS
        assert 0 < weights.distance <= weights.limit < weights.power / 2
        assert weights.clean <= weights.limit < weights.tainted
    assert [len(one.deviations) for one in proof.executed] == [3, 1], "weights and both moments; at the end only weights"
    assert 0 < proof.tolerated < 0.5


@pytest.mark.slow
def test_equal_bits_need_no_tolerance(model_dir: Path, tmp_path: Path) -> None:
    """On the same machine nothing is measured, and the word is that of bit equality."""
    before = finetune(model_dir, ROWS, output_dir=tmp_path / "before", options=replace(OPTIONS, epochs=1)).model_dir
    forget(before, Rollback(), forget_set=GONE, data=ROWS, base=model_dir, output_dir=tmp_path / "after")
    proof = Elsewhere(model_dir, before, tmp_path / "after").judge()
    assert proof.word == "REBUILT_WITHOUT", proof.findings
    assert not any(one.deviations for one in proof.executed)
    assert "deviations" not in proof.model_dump(mode="json")["executed"][0]


SHORT = replace(OPTIONS, epochs=1, save_steps=0)
"""One segment, from the base to the end."""
KINDS: dict[str, TrainingOptions] = {
    "all weights, Sophia": replace(SHORT, lora=False, lora_dropout=0.0, optimizer="sophia", learning_rate=3e-4),
    "bfloat16 autocast": replace(SHORT, bf16=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_other_trainings_are_measured(model_dir: Path, tmp_path: Path, kind: str) -> None:
    """Whatever rounds: an honest deletion from elsewhere is never accused, and passes where noise lies far enough below the effect
    of one record; else it is not testable, and the figures say so."""
    with Reordered(ELSEWHERE):
        before = finetune(model_dir, ROWS, output_dir=tmp_path / "before", options=KINDS[kind]).model_dir
        forget(before, Rollback(), forget_set=GONE, data=ROWS, base=model_dir, output_dir=tmp_path / "after")
    proof = Elsewhere(model_dir, before, tmp_path / "after").judge()
    (segment,) = proof.executed
    assert segment.deviations, "nothing rounded otherwise: the test shows nothing"
    assert proof.word == ("WITHIN_NOISE" if all(one.testable for one in segment.deviations) else "NOT_TESTABLE"), proof.claim


@pytest.mark.slow
def test_shards_are_measured(model_dir: Path, tmp_path: Path) -> None:
    """Of a sharded training every changed stage is measured by itself, from the recorded stage before it."""
    plan = ShardPlan(2, 2, "average", replace(SHORT, epochs=2))
    with Reordered(ELSEWHERE):
        before = finetune_shards(model_dir, ROWS, output_dir=tmp_path / "before", plan=plan).model_dir
        forget(before, SISA(), forget_set=GONE, data=ROWS, base=model_dir, output_dir=tmp_path / "after")
    TrainingCommitment.of(before).save(tmp_path / "commitment.json")
    dated = {"commitment": tmp_path / "commitment.json", "requested": datetime.now(UTC).isoformat()}
    proof = Elsewhere(model_dir, before, tmp_path / "after").judge(**dated)
    assert proof.word == "WITHIN_NOISE", proof.claim
    assert proof.unchanged > 0
    assert all(one.place.startswith("shard-") and one.deviations for one in proof.executed)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_workers_measure_the_same(elsewhere: Elsewhere, honest: tuple[Reexecution, Path], tmp_path: Path) -> None:
    """Side by side: the distances are those of a single process, byte for byte."""
    for name, rows in (("data", ROWS), ("gone", GONE)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"data": str(tmp_path / "data.jsonl"), "forget_set": str(tmp_path / "gone.jsonl")}
    apart, alone = elsewhere.judge(**files, workers=2), honest[0]
    assert apart.model_copy(update={"created": alone.created, "seconds": alone.seconds}).text() == alone.text()


@pytest.mark.slow
def test_another_number_of_threads_is_measured(model_dir: Path, tmp_path: Path) -> None:
    """A training with two threads, of which the log says one: sums in another order are no accusation."""
    before_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = finetune(model_dir, ROWS, output_dir=tmp_path / "before", options=SHORT).model_dir
        forget(before, Rollback(), forget_set=GONE, data=ROWS, base=model_dir, output_dir=tmp_path / "after")
    finally:
        torch.set_num_threads(before_threads)

    def change(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            if "threads" in entry:
                assert entry["threads"] == 2
                entry["threads"] = 1

    for folder in (before, tmp_path / "after"):
        edit_log(folder, change)
    proof = Elsewhere(model_dir, before, tmp_path / "after").judge()
    assert proof.word in ("REBUILT_WITHOUT", "WITHIN_NOISE"), proof.claim


@pytest.mark.slow
def test_other_software_is_measured_when_asked(copied: Elsewhere) -> None:
    """A log of another version of torch is not testable bit for bit; with a tolerance it is, and the proof names both versions."""
    edit_log(copied.after, lambda entries: entries[0]["execution"].update(torch="1.0"))
    assert copied.judge(tolerance=False).word == "NOT_TESTABLE"
    proof = copied.judge()
    assert proof.word == "WITHIN_NOISE", proof.findings
    assert proof.trained_with["torch"] == "1.0"
    assert proof.environment["torch"] == torch.__version__


def left_in(number: int) -> Callable[..., Any]:
    """A replay that leaves the forget record in one microbatch."""

    def tainted(model: Any, tokenizer: Any, log: TrainingLog, windows: Any, folder: Path, **given: Any) -> Any:
        (index,) = set(range(len(log.records))) - set(windows)
        whole = windows | {index: forget_window(model, tokenizer)}
        kept = (
            entry
            if entry.number == number
            else replace(entry, records=tuple(record for record in entry.records if record != index))
            for entry in log.microbatches
        )
        return replay(model, tokenizer, replace(log, microbatches=tuple(kept)), whole, folder, **given)

    return tainted


def forget_window(model: Any, tokenizer: Any) -> Any:
    from verify.data.encoding import Encoder

    return Encoder(tokenizer, 64).encode(load_records(GONE))[0]


@pytest.mark.slow
def test_a_record_left_in_one_microbatch_is_found(elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator leaves the record in one microbatch of one epoch, and logs the clean schedule with the states that it reached:
    its segment is found, and with the tolerance the honest segments beside it still pass."""
    committed, key = TrainingLog.read(elsewhere.before / LOG_NAME), RecordKey.load()
    name = key.of(load_records(GONE)[0].fingerprint)
    index = committed.records.index(name)
    stood = [entry for entry in committed.microbatches if index in entry.records]
    assert len(stood) == OPTIONS.epochs
    monkeypatch.setattr(rollback_module, "replay", left_in(stood[-1].number))
    with Reordered(ELSEWHERE):
        forget(elsewhere.before, Rollback(), forget_set=GONE, data=ROWS, base=elsewhere.base, output_dir=tmp_path / "after")
    proof = elsewhere.judge(model=tmp_path / "after")
    assert proof.word == "NOT_REBUILT", proof.claim
    assert [finding.kind for finding in proof.findings] == ["segment"]
    for one in proof.executed:
        assert one.reading == ("different" if one.start < stood[-1].step <= one.end else "within noise")


def shifted(copied: Elsewhere, distance: float) -> None:
    """Move the final weights by a distance in a random direction, and log them as the result."""
    path = copied.after / "adapter_model.safetensors"
    weights = load_file(path)
    torch.manual_seed(0)
    moves = {name: torch.randn_like(values) for name, values in weights.items()}
    length = sum(float(move.double().square().sum()) for move in moves.values()) ** 0.5
    save_file({name: values + moves[name] * (distance / length) for name, values in weights.items()}, path)
    write_manifest(copied.after, "model", read_json(copied.after / MANIFEST)["about"])
    digest = load_model(copied.after).digest
    edit_log(copied.after, lambda entries: entries[-1].update(final_weights=digest))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "word"),
    [
        (lambda one: one.limit - one.noise * 2, "WITHIN_NOISE"),
        (lambda one: one.power / 2, "NOT_TESTABLE"),
        (lambda one: one.power + one.limit, "NOT_REBUILT"),
    ],
    ids=["below the limit", "between noise and power", "beyond the power"],
)
def test_what_hides_below_the_limit(
    copied: Elsewhere, honest: tuple[Reexecution, Path], share: Callable[[Deviation], float], word: str
) -> None:
    """A forged final state passes up to the limit, which the proof states; beyond the noise it does not pass, and from the
    displacement by a forget record on it is accused."""
    shifted(copied, share(honest[0].executed[-1].deviations[0]))
    assert copied.judge().word == word


def test_states_that_are_missing_are_named(copied: Elsewhere) -> None:
    """A distance needs the recorded state: a checkpoint that was deleted is named, and nothing is executed."""
    shutil.rmtree(copied.after / "checkpoint-6")
    write_manifest(copied.after, "model", read_json(copied.after / MANIFEST)["about"])
    proof = copied.judge()
    assert proof.word == "NOT_TESTABLE"
    assert [finding.kind for finding in proof.findings] == ["tolerance"]
    assert "step 6" in proof.claim
    assert not proof.executed


@pytest.mark.slow
def test_states_that_are_not_the_logged_ones_are_accused(copied: Elsewhere) -> None:
    """A kept state with one other bit is not the committed one, however near it is."""
    path = copied.after / "checkpoint-6" / "adapter_model.safetensors"
    weights = load_file(path)
    weights[min(weights)].view(-1).view(torch.int32)[0] ^= 1
    save_file(weights, path)
    write_manifest(copied.after / "checkpoint-6", "checkpoint", {"step": 6})
    write_manifest(copied.after, "model", read_json(copied.after / MANIFEST)["about"])
    proof = copied.judge()
    assert proof.word == "NOT_REBUILT"
    assert {finding.kind for finding in proof.findings} == {"checkpoint"}


@pytest.mark.slow
def test_the_power_of_a_first_step_is_known(model_dir: Path, tmp_path: Path) -> None:
    """AdamW's first step is lr g / (|g| + eps), so that the displacement by a record follows from two gradients."""
    options = replace(OPTIONS, lora=False, lora_dropout=0.0, epochs=1, save_steps=1, scheduler="constant", max_grad_norm=0.0)
    before = finetune(model_dir, ROWS, output_dir=tmp_path / "before", options=options).model_dir
    forget(before, Rollback(), forget_set=GONE, data=ROWS, base=model_dir, output_dir=tmp_path / "after")
    records, base = load_records(ROWS), load_model(model_dir)
    shown = Shown([*records[:5], *records[6:]], records[5:6], RecordKey.load())
    given = (tmp_path / "after", before, load_model(model_dir), shown, None, lambda: load_model(model_dir).model, Trust())
    (course,) = plan_log(*given).courses
    weights = {one.part: one for one in deviations(course, 0, 1)}[WEIGHTS]
    (entry,) = (entry for entry in course.log.microbatches if entry.step == 1)
    clean = [course.windows[index] for index in entry.records]

    def moved(windows: list[Any]) -> torch.Tensor:
        base.model.zero_grad()
        (-scored_log_probabilities(base.model, collate(windows, base.tokenizer.pad_token_id))[0].mean()).backward()
        gradient = torch.cat([weight.grad.double().flatten() for weight in base.model.parameters()])
        return entry.learning_rate * gradient / (gradient.abs() + 1e-8)

    expected = float((moved([*clean, course.forget[0]]) - moved(clean)).norm())
    assert weights.power == pytest.approx(expected, rel=1e-3)
    assert weights.testable


def of(distance: float = 0.0, noise: float = 1.0, power: float = 100.0, clean: float = 1.0, tainted: float = 99.0) -> Deviation:
    return Deviation(part=WEIGHTS, distance=distance, noise=noise, power=power, clean=clean, tainted=tainted)


@pytest.mark.parametrize(
    ("deviation", "reading"),
    [
        (of(distance=NOISE_FACTOR), "within noise"),
        (of(distance=NOISE_FACTOR + 0.1), "not testable"),
        (of(distance=100 - NOISE_FACTOR), "different"),
        (of(power=2 * NOISE_FACTOR), "not testable"),
        (of(power=0.5), "not testable"),
        (of(distance=1e9, power=0.5), "not testable"),
        (of(noise=0.0), "not testable"),
        (of(clean=NOISE_FACTOR + 0.1), "not testable"),
        (of(tainted=NOISE_FACTOR), "not testable"),
    ],
)
def test_readings(deviation: Deviation, reading: str) -> None:
    """Noise passes, the power accuses, what lies between does neither; without margin or controls nothing is said."""
    assert reading_of(False, (deviation,)) == reading
    assert reading_of(False, (of(), deviation)) == reading
    assert reading_of(True, (deviation,)) == "equal"
    assert reading_of(False, ()) == "different"
