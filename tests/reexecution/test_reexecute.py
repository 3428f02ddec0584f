"""Re-execution: honest deletions are rebuilt bit for bit, and every dishonest one is named."""

import gc
import json
import re
import shutil
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from tampering import edit_log, flip, flip_moment, microbatches, reseal, reseal_checkpoint

from unlearn import TrainingOptions, finetune, finetune_shards, forget
from unlearn.methods.retrain import Retrain
from unlearn.methods.rollback import Rollback
from unlearn.methods.shard_vectors import ShardVectors
from unlearn.methods.sisa import SISA
from unlearn.training.shards import ShardPlan
from verify.certificate.check import Trusted, check_certificate
from verify.certificate.statements import load_public_key, make_key
from verify.cli.main import main
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.files import MANIFEST, file_digest, read_json, write_manifest
from verify.models.ensembles import FILES
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.training_log import GPU, LOG_NAME, Microbatch, Stretch, TrainingLog
from verify.reexecution.course import Course
from verify.reexecution.environment import about_software, environment_on
from verify.reexecution.reexecute import reexecute
from verify.schema.reexecution import Reexecution
from verify.training.optimizers import optimizer_of

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(12)]
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, save_steps=1, lora=True, lora_dropout=0.1, seed=3)


@dataclass(frozen=True)
class World:
    """A committed model, its deletion by rollback, and what an auditor is given."""

    base: Path
    before: Path
    after: Path
    commitment: Path
    gone: list[dict[str, Any]]

    def judge(self, **changed: Any) -> Reexecution:
        given = {
            "model": self.after,
            "base": self.base,
            "data": ROWS,
            "forget_set": self.gone,
            "log": self.before,
            "commitment": self.commitment,
            "requested": datetime.now(UTC).isoformat(),
        }
        return reexecute(**{**given, **changed})


def last_record(model: Path) -> list[dict[str, Any]]:
    """The record of the last microbatch but one, so that several segments stay and several are executed."""
    log, key = TrainingLog.read(model / LOG_NAME), RecordKey.load()
    name = log.records[log.microbatches[-2].records[0]]
    return [row for row, record in zip(ROWS, load_records(ROWS), strict=True) if key.of(record.fingerprint) == name]


@pytest.fixture(scope="module")
def world(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    top = tmp_path_factory.mktemp("world")
    before = finetune(model_dir, ROWS, output_dir=top / "before", options=OPTIONS).model_dir
    TrainingCommitment.of(before).save(top / "commitment.json")
    gone = last_record(before)
    forget(before, Rollback(), forget_set=gone, data=ROWS, base=model_dir, output_dir=top / "after")
    return World(model_dir, before, top / "after", top / "commitment.json", gone)


@pytest.fixture
def copied(world: World, tmp_path: Path) -> World:
    """The same, with a copy of the deleted model to tamper with."""
    shutil.copytree(world.after, tmp_path / "after")
    return replace(world, after=tmp_path / "after")


@pytest.mark.slow
def test_an_honest_rollback_is_rebuilt(world: World, tmp_path: Path) -> None:
    """One record: all segments from the last clean state on are executed again, and the proof says what was shown."""
    proof = world.judge(output=tmp_path / "proof.json")
    assert proof.phrase == "REBUILT_WITHOUT(all of 2)", proof.findings
    assert [(one.start, one.end, one.ran_from) for one in proof.executed] == [(4, 5, 4), (5, 6, 5)]
    assert (proof.unchanged, proof.forget, proof.records) == (4, 1, 11)
    assert proof.tokens < proof.training_tokens / 2
    assert "bit for bit" in proof.claim
    assert "committed to on" in proof.claim
    assert Reexecution.load(tmp_path / "proof.json") == proof
    with pytest.raises(InputError, match="exists"):
        world.judge(output=tmp_path / "proof.json")


def test_segments_collect_no_garbage_of_the_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the processor each would wait for it, longer than for its own steps: what a segment leaves is freed without."""
    collected, left = list[Any](), list[Any]()

    def noted(*given: Any) -> torch.optim.Optimizer:
        made = optimizer_of(*given)
        left.append(weakref.ref(made))
        return made

    monkeypatch.setattr("gc.collect", lambda *given: collected.append(given) or 0)
    monkeypatch.setattr("verify.training.replay.optimizer_of", noted)
    gc.disable()
    try:
        assert world.judge().word == "REBUILT_WITHOUT"
        assert left
        assert not any(one() for one in left), "the moments, twice the weights, stay in memory"
    finally:
        gc.enable()
    assert not collected


@pytest.mark.parametrize(
    "options",
    [
        replace(OPTIONS, lora=False, lora_dropout=0.0, weight_decay=0.1),
        replace(OPTIONS, gradient_accumulation=2, batch_size=1, epochs=2, save_steps=3, optimizer="sophia"),
        replace(OPTIONS, bf16=True, scheduler="cosine", warmup_ratio=0.3),
    ],
    ids=["all weights", "accumulated, Sophia, two passes", "bfloat16 autocast"],
)
@pytest.mark.slow
def test_honest_rollbacks_of_other_kinds(model_dir: Path, tmp_path: Path, options: TrainingOptions) -> None:
    """Whatever the options, an honest deletion is rebuilt; a second one after it too."""
    before = finetune(model_dir, ROWS, output_dir=tmp_path / "before", options=options).model_dir
    gone = last_record(before)
    forget(before, Rollback(), forget_set=gone, data=ROWS, base=model_dir, output_dir=tmp_path / "one")
    proof = reexecute(tmp_path / "one", model_dir, data=ROWS, forget_set=gone, log=before)
    assert proof.word == "REBUILT_WITHOUT", proof.findings
    assert "No commitment" in proof.claim
    rest = [row for row in ROWS if row not in gone]
    forget(tmp_path / "one", Rollback(), forget_set=rest[:1], data=rest, base=model_dir, output_dir=tmp_path / "two")
    again = reexecute(tmp_path / "two", model_dir, data=rest, forget_set=rest[:1], log=tmp_path / "one")
    assert again.word == "REBUILT_WITHOUT", again.findings


@pytest.mark.slow
def test_a_retraining_is_executed_from_its_options_and_seed(world: World, tmp_path: Path) -> None:
    """A fresh training's schedule is derived, not taken; a sample of its segments is drawn by the nonce."""
    forget(world.before, Retrain(), forget_set=world.gone, data=ROWS, base=world.base, output_dir=tmp_path / "new", options=OPTIONS)
    proof = world.judge(model=tmp_path / "new", log=None, commitment=None)
    assert (proof.word, proof.kind) == ("REBUILT_WITHOUT", "own schedule"), proof.findings
    sampled = world.judge(model=tmp_path / "new", log=None, commitment=None, segments=2, nonce="a coin")
    assert sampled.phrase == f"REBUILT_WITHOUT(2 of {sampled.segments})", sampled.findings
    assert (sampled.draw.given, sampled.draw.nonce) == (True, "a coin")
    assert sampled.draw.found == pytest.approx(2 / sampled.segments)
    assert "are said to be" in sampled.claim, "a sample shows no more than that it found nothing"
    assert "by a nonce that was given" in sampled.claim


@pytest.mark.slow
def test_an_edited_configuration_is_named(model_dir: Path, tmp_path: Path) -> None:
    """The weights as trained, served with another normalization constant, are another model."""
    options = replace(OPTIONS, lora=False, lora_dropout=0.0)
    before = finetune(model_dir, ROWS, output_dir=tmp_path / "before", options=options).model_dir
    gone = last_record(before)
    forget(before, Rollback(), forget_set=gone, data=ROWS, base=model_dir, output_dir=tmp_path / "after")
    given = {"model": tmp_path / "after", "base": model_dir, "data": ROWS, "forget_set": gone, "log": before}
    assert reexecute(**given).word == "REBUILT_WITHOUT"
    path = tmp_path / "after" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 0.1}))
    reseal(tmp_path / "after")
    proof = reexecute(**given)
    assert proof.word == "NOT_REBUILT"
    assert "rms_norm_eps is 0.1" in proof.claim


def test_a_commitment_from_the_future(world: World, tmp_path: Path) -> None:
    """A commitment without a date, or with one that has not come, commits to nothing."""
    content = json.loads(world.commitment.read_text())
    for created in ("2999-01-01T00:00:00+00:00", "soon"):
        (tmp_path / "later.json").write_text(json.dumps({**content, "created": created}))
        assert "bears no date" in world.judge(commitment=tmp_path / "later.json").claim


def weights_bit(after: Path) -> None:
    flip(after / "adapter_model.safetensors")


def checkpoint_bit(after: Path) -> None:
    flip(after / "checkpoint-5" / "adapter_model.safetensors")
    reseal_checkpoint(after / "checkpoint-5")


def checkpoint_bit_without_manifest(after: Path) -> None:
    flip(after / "checkpoint-5" / "adapter_model.safetensors")


def optimizer_bit(after: Path) -> None:
    flip_moment(after / "checkpoint-5")
    reseal_checkpoint(after / "checkpoint-5")


def swapped(after: Path) -> None:
    (after / "checkpoint-4").rename(after / "x")
    (after / "checkpoint-5").rename(after / "checkpoint-4")
    (after / "x").rename(after / "checkpoint-5")


def dropped_line(after: Path) -> None:
    def change(entries: list[dict[str, Any]]) -> None:
        entries.remove(microbatches(entries)[-1])

    edit_log(after, change)


def reordered(after: Path) -> None:
    def change(entries: list[dict[str, Any]]) -> None:
        one, other = microbatches(entries)[:2]
        one["records"], other["records"] = other["records"], one["records"]

    edit_log(after, change)


def other_rate(after: Path) -> None:
    def change(entries: list[dict[str, Any]]) -> None:
        microbatches(entries)[-1]["rate"] *= 2

    edit_log(after, change)


def other_state(after: Path) -> None:
    def change(entries: list[dict[str, Any]]) -> None:
        next(entry for entry in entries if entry.get("checkpoint") == 6)["weights"] = "0" * 64

    edit_log(after, change)


def other_clean_state(after: Path) -> None:
    def change(entries: list[dict[str, Any]]) -> None:
        next(entry for entry in entries if entry.get("checkpoint") == 2)["optimizer"] = "0" * 64

    edit_log(after, change)


def other_start(after: Path) -> None:
    edit_log(after, lambda entries: entries[0].update(start_weights="0" * 64))


def other_template(after: Path) -> None:
    edit_log(after, lambda entries: entries[0].update(tokenizer="0" * 64))


def other_scale(after: Path) -> None:
    path = after / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 3}))


def served_template(after: Path) -> None:
    (after / "chat_template.jinja").write_text("{{ messages }}")


DISHONEST = {
    "another scale of the adapter": (other_scale, "lora_alpha is 3 in the adapter of the model"),
    "served with another template": (served_template, "served with another tokenizer or chat template"),
    "weights": (weights_bit, "weights are not those"),
    "checkpoint": (checkpoint_bit, "weights kept at step 5 .* are not those that the log states"),
    "checkpoint without its manifest": (checkpoint_bit_without_manifest, "state kept at step 5 is damaged"),
    "optimizer state": (optimizer_bit, "optimizer state kept at step 5"),
    "checkpoints swapped": (swapped, "kept at step 4"),
    "line dropped": (dropped_line, "the committed schedule without the forget records has 6|has 5 microbatches"),
    "lines reordered": (reordered, "Microbatch 0 .* is not that of the committed schedule"),
    "another learning rate": (other_rate, "Microbatch 5 .* is not that of the committed schedule"),
    "another state": (other_state, "Steps 6 to 6 .* do not lead to the recorded state"),
    "another state before the forget record": (other_clean_state, "state at step 2, before any forget record"),
    "another base": (other_start, "did not start from this base"),
    "another template": (other_template, "tokenizer or chat template"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DISHONEST)
def test_dishonest_deletions_are_named(copied: World, kind: str) -> None:
    """Each forged deletion is refused as NOT_REBUILT, with what is wrong and where; the honest one passes on the same files."""
    tamper, said = DISHONEST[kind]
    tamper(copied.after)
    reseal(copied.after)
    proof = copied.judge()
    assert proof.word == "NOT_REBUILT"
    assert proof.phrase == "NOT_REBUILT"
    assert any(re.search(said, finding.what) for finding in proof.findings), proof.findings


def test_the_original_is_no_deletion_of_itself(world: World) -> None:
    """The model before the deletion, handed in as deleted: the forget record stands in its schedule."""
    proof = world.judge(model=world.before)
    assert proof.word == "NOT_REBUILT"
    kinds = {finding.kind for finding in proof.findings}
    assert {"forget record", "schedule"} <= kinds


@pytest.mark.slow
def test_a_model_of_another_deletion(world: World, tmp_path: Path) -> None:
    """A deletion of somebody else's record does not pass for this one."""
    other = [row for row in ROWS if row not in world.gone][-1:]
    forget(world.before, Rollback(), forget_set=other, data=ROWS, base=world.base, output_dir=tmp_path / "other")
    assert world.judge(model=tmp_path / "other").word == "NOT_REBUILT"


@pytest.mark.slow
def test_an_invented_commitment(world: World, model_dir: Path, tmp_path: Path) -> None:
    """A log that was made afterwards does not have the committed root; without its log a commitment says nothing."""
    again = finetune(model_dir, ROWS, output_dir=tmp_path / "again", options=replace(OPTIONS, seed=9)).model_dir
    gone = world.gone
    forget(again, Rollback(), forget_set=gone, data=ROWS, base=model_dir, output_dir=tmp_path / "after")
    proof = world.judge(model=tmp_path / "after", log=again)
    assert proof.word == "NOT_REBUILT"
    assert "has the root" in proof.claim
    alone = world.judge(model=tmp_path / "after", log=again, commitment=None)
    assert alone.phrase == "REBUILT_WITHOUT(all of 6)", "without a commitment everything is executed, from the base on"


@pytest.mark.slow
def test_a_tainted_start_without_a_commitment(world: World, copied: World, tmp_path: Path) -> None:
    """A log and a clean-looking state made up afterwards: the steps before it are executed too, and do not lead there."""
    forged = tmp_path / "forged"
    shutil.copytree(world.before, forged)
    for folder in (forged, copied.after):
        flip(folder / "checkpoint-4" / "adapter_model.safetensors")
        reseal_checkpoint(folder / "checkpoint-4")
    for folder in (forged, copied.after):

        def change(entries: list[dict[str, Any]]) -> None:
            next(entry for entry in entries if entry.get("checkpoint") == 4)["weights"] = "1" * 64

        edit_log(folder, change)
        reseal(folder)
    proof = copied.judge(log=forged, commitment=None)
    assert proof.word == "NOT_REBUILT"
    assert any("Steps 4 to 4" in finding.what for finding in proof.findings), proof.findings


def test_records_must_be_shown_and_unlike(world: World) -> None:
    """A retained record with one altered character was not shown; a near-duplicate of a forget record is left to a person."""
    altered = [{**row, "completion": row["completion"].replace("Nobody", "nobody")} if row is ROWS[0] else row for row in ROWS]
    if ROWS[0] in world.gone:
        altered = [{**row, "completion": row["completion"].replace("Nobody", "nobody")} if row is ROWS[1] else row for row in ROWS]
    proof = world.judge(data=altered)
    assert proof.word == "NOT_TESTABLE"
    assert "1 of 11 records of the schedule were not shown" in proof.claim
    strange = world.judge(forget_set=[{"prompt": "Who is it?", "completion": "Somebody else."}])
    assert strange.word == "NOT_REBUILT", "nothing was left out of the schedule"


@pytest.mark.slow
def test_a_near_duplicate_is_left_to_a_person(model_dir: Path, tmp_path: Path) -> None:
    """The same record with another closing word stays in training: not testable until a person has accepted it."""
    text = "a b c d e f g h i j k l m n o p"
    rows = [*ROWS, {"example_id": "a", "prompt": "Say", "completion": text + " q"}]
    rows.append({"example_id": "b", "prompt": "Say", "completion": text + " r"})
    before = finetune(model_dir, rows, output_dir=tmp_path / "before", options=OPTIONS).model_dir
    forget(before, Rollback(), forget_set=rows[-1:], data=rows, base=model_dir, output_dir=tmp_path / "after")
    given = {"model": tmp_path / "after", "base": model_dir, "data": rows, "forget_set": rows[-1:], "log": before}
    proof = reexecute(**given)
    assert proof.word == "NOT_TESTABLE"
    assert len(proof.near) == 1
    assert proof.near[0].similarity > 0.7
    accepted = reexecute(**given, accept_near_duplicates=True)
    assert accepted.word == "REBUILT_WITHOUT", accepted.findings
    assert "judged by a person" in accepted.claim


@pytest.mark.slow
def test_a_rollback_on_other_software_than_the_training(world: World, tmp_path: Path) -> None:
    """The log names both: proved where the training's states are taken as committed, not testable where all is executed."""
    before = tmp_path / "before"
    shutil.copytree(world.before, before)
    edit_log(before, lambda entries: entries[0]["execution"].update(torch="1.0"))
    reseal(before)
    TrainingCommitment.of(before).save(tmp_path / "commitment.json")
    forget(before, Rollback(), forget_set=world.gone, data=ROWS, base=world.base, output_dir=tmp_path / "after")
    log = TrainingLog.read(tmp_path / "after" / LOG_NAME)
    assert [(one.after, one.execution["torch"]) for one in log.stretches] == [(0, "1.0"), (4, torch.__version__)]
    elsewhere = replace(world, before=before, after=tmp_path / "after", commitment=tmp_path / "commitment.json")
    proof = elsewhere.judge()
    assert proof.phrase == "REBUILT_WITHOUT(all of 2)", proof.findings
    proof = elsewhere.judge(from_base=True)
    assert proof.word == "NOT_TESTABLE"
    assert "Steps 1 to 4 of . were trained with torch 1.0 (here" in proof.claim


def test_other_software_is_said(copied: World) -> None:
    """A log of another version of torch is not testable here, and the versions are named."""
    edit_log(copied.after, lambda entries: entries[0]["execution"].update(torch="1.0"))
    reseal(copied.after)
    proof = copied.judge(commitment=None)
    assert proof.word == "NOT_TESTABLE"
    assert "torch 1.0 (here" in proof.claim


def course_of(folder: Path, *stretches: tuple[int, dict[str, str]]) -> Course:
    """A log of six steps, computed with this software, that has a state after the fourth."""
    (_, first), *resumed = stretches
    log = TrainingLog(
        options={},
        records=(),
        subjects=(),
        start_weights="",
        tokenizer="",
        microbatches=tuple(Microbatch(number, number + 1, (), 0, 0.1) for number in range(6)),
        checkpoints=((4, "checkpoint-4"),),
        final_weights=None,
        execution=first,
        resumed=tuple(Stretch(*one) for one in resumed),
    )
    return Course(".", log, {}, start_model=lambda: None, tokenizer=None, folder=folder)


def test_processor_and_gpu_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is executed on what it was made on, or not at all; a proof names the GPU only where the execution was on it."""
    machine = {"torch": "2.0", GPU: "a GPU"}
    monkeypatch.setattr("verify.reexecution.environment.environment", lambda: machine)
    processor, gpu, unknown = (
        (course_of(tmp_path, (0, execution)), 0, 6) for execution in ({"torch": "2.0"}, machine, dict[str, str]())
    )
    assert not about_software([processor, unknown], "cpu")
    assert not about_software([gpu, unknown], None)
    assert "gpu a GPU (here none)" in about_software([gpu], "cpu")[0].what
    # A shard that was rebuilt on a processor, of a model whose other shards name a GPU.
    assert "gpu none (here a GPU)" in about_software([gpu, processor], None)[0].what
    assert (environment_on("cpu"), environment_on(None)) == ({"torch": "2.0"}, machine)


def test_the_software_of_the_executed_steps_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that was resumed on other software, the steps that it computed are named; those not executed do not count."""
    monkeypatch.setattr("verify.reexecution.environment.environment", lambda: {"torch": "2.0"})
    course = course_of(tmp_path, (0, {"torch": "1.0"}), (4, {"torch": "2.0"}))
    everything, tail = [(course, 0, 4), (course, 4, 6)], [(course, 4, 6)]
    said = "Steps 1 to 4 of . were trained with torch 1.0 (here 2.0)"
    assert said in about_software(everything, "cpu")[0].what
    assert said in about_software(tail, "cpu")[0].what, "no state is kept at step 4, so that its end is executed from the base on"
    (tmp_path / "checkpoint-4").mkdir()
    assert said in about_software(everything, "cpu")[0].what
    assert not about_software(tail, "cpu")
    other = course_of(tmp_path, (0, {"torch": "2.0"}), (5, {"torch": "1.0"}))
    assert "Steps 6 to 6 of" in about_software([(other, 4, 6)], "cpu")[0].what
    assert not about_software([(other, 0, 4)], "cpu")


@pytest.mark.slow
def test_a_missing_state_costs_more_and_proves_the_same(copied: World, tmp_path: Path) -> None:
    """Without the checkpoint at step 5 its segment runs from step 4; without any, from the base."""
    shutil.rmtree(copied.after / "checkpoint-5")
    reseal(copied.after)
    proof = copied.judge()
    assert proof.word == "REBUILT_WITHOUT", proof.findings
    assert [one.ran_from for one in proof.executed] == [4, 4]
    for folder in copied.after.glob("checkpoint-*"):
        shutil.rmtree(folder)
    reseal(copied.after)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(copied.before / LOG_NAME, bare)
    from_base = copied.judge(log=bare)
    assert from_base.word == "REBUILT_WITHOUT", from_base.findings
    assert [one.ran_from for one in from_base.executed] == [0, 0]


@pytest.mark.slow
def test_an_interrupted_execution_goes_on(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the first segment, the second attempt executes only the rest; another question in the same folder is refused."""
    import verify.reexecution.execution as execution

    calls: list[int] = []
    honest = execution.replay

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(named["last_step"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return honest(*given, **named)

    monkeypatch.setattr(execution, "replay", counted)
    with pytest.raises(KeyboardInterrupt):
        world.judge(work_dir=tmp_path / "work")
    proof = world.judge(work_dir=tmp_path / "work")
    assert calls == [5, 6, 6]
    assert proof.phrase == "REBUILT_WITHOUT(all of 2)"
    assert not (tmp_path / "work").exists()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "something").touch()
    with pytest.raises(InputError, match="not empty"):
        world.judge(work_dir=tmp_path / "work")


@pytest.fixture(scope="module")
def sharded(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    top = tmp_path_factory.mktemp("sharded")
    plan = ShardPlan(2, 2, "average", replace(OPTIONS, save_steps=0, epochs=2))
    finetune_shards(model_dir, ROWS, output_dir=top / "before", plan=plan)
    TrainingCommitment.of(top / "before").save(top / "commitment.json")
    forget(top / "before", SISA(), forget_set=ROWS[:1], data=ROWS, base=model_dir, output_dir=top / "after")
    return World(model_dir, top / "before", top / "after", top / "commitment.json", ROWS[:1])


@pytest.mark.slow
def test_an_honest_sisa_deletion_is_rebuilt(sharded: World) -> None:
    """Only the changed stages are executed; all others are those that were committed."""
    proof = sharded.judge()
    assert proof.word == "REBUILT_WITHOUT", proof.findings
    assert proof.kind == "shards"
    assert 1 <= proof.segments <= 2
    assert proof.unchanged >= 1
    assert proof.tokens < proof.training_tokens


@pytest.mark.slow
def test_without_the_date_of_the_request_every_stage_is_executed(sharded: World) -> None:
    """Of a commitment that is not known to be older, no stage is taken: those that held no forget record are executed as well."""
    proof = sharded.judge(requested=None)
    assert proof.phrase == "REBUILT_WITHOUT(all of 4)", proof.findings
    assert proof.unchanged == 0
    assert proof.tokens > sharded.judge().tokens


def stage_kept(sharded: World, after: Path, changed: str, _: str) -> None:
    shutil.copytree(sharded.before / changed, after / changed, dirs_exist_ok=True)


def stage_bit(_: World, after: Path, changed: str, __: str) -> None:
    flip(after / changed / "adapter_model.safetensors")


def unchanged_bit(_: World, after: Path, __: str, other: str) -> None:
    flip(after / other / "adapter_model.safetensors")


def served_otherwise(_: World, after: Path, __: str, ___: str) -> None:
    about = json.loads((after / "ensemble.json").read_text())
    about["adapters"] = dict(reversed(about["adapters"].items()))
    (after / "ensemble.json").write_text(json.dumps(about))


def scaled_otherwise(_: World, after: Path, changed: str, __: str) -> None:
    path = after / changed / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 3}))


@pytest.mark.slow
@pytest.mark.parametrize("tamper", [stage_kept, stage_bit, unchanged_bit, served_otherwise, scaled_otherwise])
def test_dishonest_sisa_deletions_are_named(sharded: World, tmp_path: Path, tamper: Callable[..., None]) -> None:
    """A changed stage left as it was, an edited adapter, an edited stage that held no forget record, stages served in another
    order, an adapter scaled otherwise: each is named, by an operator who rewrites manifests and the ensemble's digests."""
    after = tmp_path / "after"
    shutil.copytree(sharded.after, after)
    changed = sharded.judge().executed[0].place
    places = [path.parent.relative_to(after).as_posix() for path in sorted(after.glob(f"shard-*/slice-*/{LOG_NAME}"))]
    tamper(sharded, after, changed, next(place for place in places if place != changed))
    if (manifest := after / changed / MANIFEST).is_file():
        write_manifest(after / changed, "shard", read_json(manifest)["about"])
    about = json.loads((after / "ensemble.json").read_text())
    about["adapters"] = {name: {file: file_digest(after / name / file) for file in FILES} for name in about["adapters"]}
    (after / "ensemble.json").write_text(json.dumps(about))
    reseal(after)
    assert sharded.judge(model=after).word == "NOT_REBUILT"


@pytest.mark.slow
def test_shards_that_are_added_to_the_base(model_dir: Path, tmp_path: Path) -> None:
    """The changed stages are executed; the served weights must be the sum of all stages: neither the sum before, nor a bit off."""
    plan = ShardPlan(2, 2, "sum", replace(OPTIONS, save_steps=0))
    finetune_shards(model_dir, ROWS, output_dir=tmp_path / "before", plan=plan)
    TrainingCommitment.of(tmp_path / "before").save(tmp_path / "commitment.json")
    forget(tmp_path / "before", ShardVectors(), forget_set=ROWS[:1], data=ROWS, base=model_dir, output_dir=tmp_path / "after")
    world = World(model_dir, tmp_path / "before", tmp_path / "after", tmp_path / "commitment.json", ROWS[:1])
    honest = world.judge()
    assert (honest.word, honest.kind) == ("REBUILT_WITHOUT", "shards"), honest.findings
    weights = (tmp_path / "after" / "model.safetensors").read_bytes()
    shutil.copy(tmp_path / "before" / "model.safetensors", tmp_path / "after")
    reseal(tmp_path / "after")
    assert "not those that its training ends with" in world.judge().claim
    (tmp_path / "after" / "model.safetensors").write_bytes(weights)
    flip(tmp_path / "after" / "model.safetensors")
    reseal(tmp_path / "after")
    assert "not those that its training ends with" in world.judge().claim


@pytest.mark.slow
def test_what_cannot_be_executed_is_said(world: World, sharded: World, tmp_path: Path) -> None:
    """No log, an unfinished one, shards without the training before, a number of segments that is not there."""
    with pytest.raises(InputError, match="approximate method leaves nothing"):
        world.judge(model=world.base, log=None, commitment=None)
    with pytest.raises(InputError, match="--log DIR"):
        sharded.judge(log=None)
    with pytest.raises(InputError, match="from 1 to 2"):
        world.judge(segments=5)
    cut = tmp_path / "cut"
    shutil.copytree(world.after, cut)
    lines = (cut / LOG_NAME).read_text().splitlines()
    (cut / LOG_NAME).write_text("\n".join(lines[:-1]) + "\n")
    reseal(cut)
    with pytest.raises(InputError, match="did not finish"):
        world.judge(model=cut)


def certificate_of(world: World, folder: Path, model: Path, *given: str) -> Path:
    """A certificate of a deletion and its proof, made on the command line by an operator and an auditor."""
    for role in ("operator", "auditor"):
        make_key(folder / role)
    files = ["--model", str(model), "--original", str(world.before), "--reexecution", str(folder / "proof.json")]
    keys = ["--key", str(folder / "auditor"), "--operator-key", str(folder / "operator")]
    assert main(["certify", *files, *keys, "--output", str(folder / "certificate.json"), *given]) == 0
    return folder / "certificate.json"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["world", "sharded"])
def test_a_proof_is_certified(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Proof, model, commitment and the root in the operator's provenance agree; the original does not pass for its deletion."""
    world: World = request.getfixturevalue(kind)
    proof = world.judge(output=tmp_path / "proof.json")
    path = certificate_of(world, tmp_path, world.after)
    trusted = Trusted(*([load_public_key(tmp_path / f"{role}.pub")] if role else [] for role in ("", "operator", "auditor")))
    checked = check_certificate(path, trusted, model=world.after, reexecution=tmp_path / "proof.json", commitment=world.commitment)
    assert checked.holds, [finding for finding in checked.findings if not finding.holds]
    assert [claim.phrase for claim in checked.reexecutions.values()] == [proof.phrase]
    assert read_json(world.before / MANIFEST)["about"]["commitment"] == proof.root
    other = check_certificate(path, trusted, model=world.before)
    assert not other.holds
    assert proof.environment["threads"] == "1"


@pytest.mark.slow
def test_proofs_refuse_damage(world: World, tmp_path: Path) -> None:
    """Truncated, empty and hostile proofs are refused with what to do."""
    path = tmp_path / "proof.json"
    world.judge(output=path)
    text = path.read_text()
    content = json.loads(text)
    hostile = [
        {**content, "executed": []},
        {**content, "word": "NOT_REBUILT"},
        {**content, "executed": [{**content["executed"][0], "equal": False}]},
        {**content, "executed": content["executed"][:1] * 3},
        {**content, "findings": [{"kind": "segment", "what": "Steps do not lead there."}]},
    ]
    forged = [text[:-40], "", "{}", text.replace('"word": "REBUILT_WITHOUT"', '"word": "FORGOTTEN"'), *map(json.dumps, hostile)]
    for damaged in forged:
        path.write_text(damaged)
        with pytest.raises(InputError, match="reexecute"):
            Reexecution.load(path)
