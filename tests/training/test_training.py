"""Training does what the options say, however the work is split, and stops before harm is done."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import SchedulerType

from unlearn import NPO, GradDiff, GradientAscent, TrainingOptions, finetune, forget
from unlearn.level.objective import ToLevel
from unlearn.methods.retrain import Retrain
from unlearn.training import distributed
from unlearn.training.arguments import training_arguments
from unlearn.training.log import TrainingLog
from unlearn.training.options import SCHEDULERS, optimizer_steps
from unlearn.training.run import Run, run_objective, train_records
from verify import InputError, RunError
from verify.data.encoding import Encoder, collate
from verify.data.records import Record
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel, load_model

OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=4, logging_steps=1)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_the_logged_loss_is_the_mean_over_scored_tokens(loaded: LoadedModel, records: list[Record], tmp_path: Path) -> None:
    """The first step's loss equals a slow float64 computation, token by token, of the records it saw."""
    slow = load_model(loaded.name) if Path(loaded.name).is_dir() else loaded
    model = slow.model.double().eval()
    windows = Encoder(loaded.tokenizer, loaded.context_length, "refuse").encode(records)
    total, count = 0.0, 0
    for window in windows:
        ids = torch.tensor(np.array([window.input_ids]))
        logs = F.log_softmax(model(ids).logits[0, :-1].double(), dim=-1)
        for position in np.flatnonzero(window.scored):
            total -= float(logs.detach()[position - 1, ids[0, position]])
            count += 1
    model.float()
    trained = train_records(loaded, Run(records, replace(OPTIONS, batch_size=10, max_steps=1), tmp_path / "work"))
    assert trained.result.losses[0][1] == pytest.approx(total / count, abs=1e-4)
    assert trained.result.tokens == sum(len(window.input_ids) for window in windows)


@pytest.mark.parametrize("objective", [None, GradDiff(), NPO(), ToLevel(1.0, 5.0, 4.0, anchor_weight=1e3)])
def test_accumulation_changes_nothing(model_dir: Path, records: list[Record], tmp_path: Path, objective: Any) -> None:
    """One batch of four, two of two and four of one are the same step: every record (or token) weighs the same.

    In float64: Adam turns a gradient of nearly zero into a whole step, so float32's rounding would show.
    """
    results = []
    for batch, groups in ((4, 1), (2, 2), (1, 4)):
        options = replace(OPTIONS, batch_size=batch, gradient_accumulation=groups)
        fresh, work = load_model(model_dir), tmp_path / f"work{batch}"
        fresh.model.double()
        if objective is None:
            trained = train_records(fresh, Run(records, options, work))
        else:
            # With three of ten, the two passes leave a part of the retain set unseen, for which the weight penalty stands.
            gone = 3 if isinstance(objective, ToLevel) else 5
            level = np.full(sum(int(window.scored.sum()) for window in Encoder(fresh.tokenizer, 64).encode(records[:gone])), -3.0)
            run = Run(records[:gone], options, work, retain=records[gone:], tables={"forget_level": level})
            trained = run_objective(fresh, objective, run)
        results.append(weights(trained.model))
    assert apart(results[0], results[1]) < 1e-7
    assert apart(results[0], results[2]) < 1e-7


def test_the_seed_decides(dropout_dir: Path, records: list[Record], tmp_path: Path) -> None:
    """With dropout, the same seed gives the same weights bit by bit, another seed others."""
    digests = []
    for number, seed in enumerate((3, 3, 4)):
        trained = train_records(load_model(dropout_dir), Run(records, replace(OPTIONS, seed=seed), tmp_path / str(number)))
        digests.append(weights_digest(trained.model))
    assert digests[0] == digests[1] != digests[2]


def test_the_log_replays_by_hand(dropout_dir: Path, rows: Callable[..., Any], tmp_path: Path) -> None:
    """A plain loop over the training log, nothing of the trainer, arrives at the logged final weights, bit by bit."""
    options = replace(OPTIONS, gradient_accumulation=2, weight_decay=0.1, warmup_ratio=0.3, seed=7)
    result = finetune(dropout_dir, rows("train", 11), output_dir=tmp_path / "out", options=options)
    log = TrainingLog.read(result.log_path)
    fresh = load_model(dropout_dir)
    from verify.data.sources import load_records

    windows = Encoder(fresh.tokenizer, fresh.context_length, "refuse").encode(load_records(rows("train", 11)))
    assert weights_digest(replay_by_hand(fresh.model, fresh.tokenizer.pad_token_id, windows, log)) == log.final_weights
    assert result.digest == log.final_weights


def replay_by_hand(model: Any, pad: int, windows: Any, log: TrainingLog) -> Any:
    """The obvious loop: AdamW with decay on matrices only, as transformers groups it."""
    from transformers.trainer_pt_utils import get_parameter_names

    from verify.models.log_probabilities import scored_log_probabilities

    decayed = set(
        get_parameter_names(model, [torch.nn.LayerNorm], ["bias", "layernorm", "rmsnorm", r"(?:^|\.)norm(?:$|\.)", "_norm"])
    )
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in decayed], "weight_decay": log.options["weight_decay"]},
        {"params": [p for n, p in model.named_parameters() if n not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)
    model.train()
    for step in sorted({batch.step for batch in log.microbatches}):
        batches = [batch for batch in log.microbatches if batch.step == step]
        tokens = sum(int(windows[index].scored.sum()) for batch in batches for index in batch.records)
        for batch in batches:
            torch.manual_seed(batch.seed)
            chosen = [windows[index] for index in batch.records]
            own = sum(int(window.scored.sum()) for window in chosen)
            loss = -scored_log_probabilities(model, collate(chosen, pad))[0].mean()
            (loss * (own / torch.tensor(tokens))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), log.options["max_grad_norm"])
        for group in optimizer.param_groups:
            group["lr"] = batches[0].learning_rate
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_not_a_number_stops_before_the_step(loaded: LoadedModel, records: list[Record], tmp_path: Path, what: str) -> None:
    """A loss or gradient that is not finite stops the run, names the step, and the weights are those of the step before."""
    from transformers import TrainerCallback

    class Poison(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                parameter = loaded.model.model.norm.weight
                self.before = weights(loaded.model)
                if what == "loss":
                    with torch.no_grad():
                        parameter.fill_(float("nan"))
                    self.before = weights(loaded.model)
                else:
                    parameter.register_hook(lambda gradient: gradient * float("inf"))

    poison = Poison()
    with pytest.raises(RunError, match=rf"the {what} is not finite at step 3.*--learning-rate"):
        train_records(loaded, Run(records, OPTIONS, tmp_path / "work", callbacks=[poison]))
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(poison.before[name])), name


def test_ascent_stops_by_its_rule(loaded: LoadedModel, records: list[Record], tmp_path: Path) -> None:
    """Without a rule it would run for 100 epochs; with one it stops once the loss is that of knowing nothing, and says so."""
    options = TrainingOptions(learning_rate=1e-2, epochs=100, batch_size=5)
    trained = run_objective(loaded, GradientAscent(), Run(records[:5], options, tmp_path / "work"))
    assert trained.result.stopped is not None
    assert "reached the ceiling" in trained.result.stopped
    assert trained.result.steps < 100


@pytest.mark.slow
@pytest.mark.parametrize("check_every", [0, 1])
def test_a_run_cut_off_after_it_stopped(loaded: LoadedModel, records: list[Record], tmp_path: Path, check_every: int) -> None:
    """Begun again after the rule had ended it, it trains no step more, and counts the tokens of all of them."""
    options = TrainingOptions(learning_rate=1e-2, epochs=100, batch_size=2, save_steps=1)
    method, start = (
        GradientAscent(check_every=check_every),
        {name: value.clone() for name, value in loaded.model.state_dict().items()},
    )
    whole = run_objective(loaded, method, Run(records[:5], options, tmp_path / "work"))
    ended = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    loaded.model.load_state_dict(start)
    again = run_objective(loaded, method, Run(records[:5], options, tmp_path / "work"))
    assert whole.result.stopped == again.result.stopped is not None
    assert (whole.result.steps, whole.result.tokens) == (again.result.steps, again.result.tokens)
    assert all(torch.equal(value, ended[name]) for name, value in loaded.model.state_dict().items())


@pytest.mark.slow
def test_ascent_stops_at_the_level_of_unseen_text(loaded: LoadedModel, records: list[Record], tmp_path: Path) -> None:
    """With a holdout set, Jang's rule stops when the forget set is remembered no better than that."""
    train_records(loaded, Run(records[:5], TrainingOptions(learning_rate=1e-2, epochs=30, batch_size=5), tmp_path / "learn"))
    options = TrainingOptions(learning_rate=1e-3, epochs=200, batch_size=5)
    trained = run_objective(loaded, GradientAscent(), Run(records[:5], options, tmp_path / "work", holdout=records[5:]))
    assert trained.result.stopped is not None
    assert "unseen text" in trained.result.stopped


def test_no_second_model(loaded: LoadedModel, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NPO's reference comes from one pass before training: the forward passes are those of the steps plus that one."""
    calls = []
    forward = type(loaded.model.model).forward

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(self)
        return forward(self, *arguments, **named)

    monkeypatch.setattr(type(loaded.model.model), "forward", counted)
    trained = run_objective(loaded, NPO(), Run(records[:5], replace(OPTIONS, batch_size=5), tmp_path / "work", retain=records[5:]))
    assert trained.result.steps == 2
    assert len({id(model) for model in calls}) == 1, "one model only"
    assert len(calls) == trained.result.steps + 1


def test_arguments_reach_transformers(tmp_path: Path) -> None:
    """What the options say is what `transformers` is told; what they leave open is the module's default."""
    options = TrainingOptions(learning_rate=3e-4, epochs=3, warmup_ratio=0.5, batch_size=2, save_steps=5, max_grad_norm=0.7)
    told = training_arguments(options, tmp_path, 10, torch.device("cpu"))
    assert (told.learning_rate, told.num_train_epochs, told.per_device_train_batch_size) == (3e-4, 3, 2)
    assert (told.save_steps, told.max_grad_norm, told.warmup_steps) == (5, 0.7, 8)
    assert told.logging_nan_inf_filter is False, "a hidden NaN is a lost run"
    left_open = training_arguments(TrainingOptions(lora=True), tmp_path, 10, torch.device("cpu"))
    assert (left_open.learning_rate, left_open.num_train_epochs, left_open.per_device_train_batch_size) == (1e-4, 5, 8)


@pytest.mark.parametrize(
    ("batch", "accumulation", "epochs"), [(8, 1, 3.0), (3, 1, 1.5), (2, 4, 3.0), (2, 3, 2.5), (1, 4, 0.3), (4, 8, 2.0)]
)
def test_the_warm_up_is_a_share_of_the_steps(
    loaded: LoadedModel, records: list[Record], tmp_path: Path, batch: int, accumulation: int, epochs: float
) -> None:
    """The steps that are counted beforehand are those that the trainer takes, whatever is accumulated."""
    options = TrainingOptions(batch_size=batch, gradient_accumulation=accumulation, epochs=epochs, warmup_ratio=0.5)
    steps = train_records(loaded, Run(records, options, tmp_path / "work")).result.steps
    assert optimizer_steps(options, len(records)) == steps
    told = training_arguments(options, tmp_path, len(records), torch.device("cpu"))
    assert told.warmup_steps == round(steps / 2)


@pytest.mark.parametrize(("count", "batch"), [(2, 4), (8, 1)])
def test_processes_warm_up_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, batch: int) -> None:
    """Several processes with their share of the batch take as many steps as one, and the rate rises over as many of them."""

    def told(size: int) -> float:
        options = TrainingOptions(batch_size=size, epochs=4, warmup_ratio=0.25)
        return training_arguments(options, tmp_path, 62, torch.device("cpu")).warmup_steps

    alone = told(8)
    monkeypatch.setattr(distributed, "count", lambda: count)
    assert told(batch) == alone == 8


@pytest.mark.parametrize("scheduler", [kind.value for kind in SchedulerType] + ["step"])
def test_schedules_work_or_are_refused(loaded: LoadedModel, records: list[Record], tmp_path: Path, scheduler: str) -> None:
    """Every schedule of transformers trains, or is refused with the names of those that do."""
    if scheduler in SCHEDULERS:
        options = replace(OPTIONS, scheduler=scheduler, warmup_ratio=0.4, max_steps=3)
        assert train_records(loaded, Run(records, options, tmp_path / "work")).result.steps == 3
    else:
        with pytest.raises(InputError, match=f"--scheduler must be one of linear, cosine, .*got {scheduler}"):
            TrainingOptions(scheduler=scheduler)


def test_an_adapter_names_its_base_from_everywhere(
    model_dir: Path, rows: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained from a path relative to one folder, it is loaded in another, and so is its retraining."""
    shutil.copytree(model_dir, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    options = TrainingOptions(lora=True, epochs=1)
    finetune("base", rows("train", 6), output_dir="adapter", options=options)
    forget("adapter", Retrain(), forget_set=rows("train", 2), data=rows("train", 6), base="base", output_dir="again")
    monkeypatch.chdir(model_dir)
    for name in ("adapter", "again"):
        assert json.loads((tmp_path / name / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
            tmp_path / "base"
        )
        load_model(tmp_path / name)


def test_a_reporter_that_is_not_installed(
    model_dir: Path, rows: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said before anything is made, with what to install; an unknown one with those there are."""
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", list)
    expectations = {"wandb": "pip install wandb", "nobody": "tensorboard"}
    for name, expected in expectations.items():
        with pytest.raises(InputError, match=f"--report-to {name}.*{expected}"):
            finetune(model_dir, rows("train", 4), output_dir=tmp_path / "out", options=TrainingOptions(report_to=name))
    assert not (tmp_path / "out").exists()


def test_options_out_of_range() -> None:
    """Each is named with what is allowed."""
    ranges = [{"epochs": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"save_steps": -1}, {"epochs": float("nan")}]
    for bad in (*ranges, {"lora_dropout": 1.5}, {"lora_dropout": -0.1}, {"warmup_ratio": 2.0}):
        name = next(iter(bad)).replace("_", "-")
        with pytest.raises(InputError, match=f"--{name} must be"):
            TrainingOptions(**bad)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"bf16": True}, {"lora": True, "lora_dropout": 0.1}])
def test_other_ways_to_train(model_dir: Path, records: list[Record], tmp_path: Path, changes: dict[str, Any]) -> None:
    """Gradient checkpointing, bfloat16 and adapters learn as well; checkpointing to the same weights."""
    options = replace(OPTIONS, epochs=6, learning_rate=5e-3, **changes)
    trained = train_records(load_model(model_dir), Run(records, options, tmp_path / "work"))
    assert trained.result.losses[-1][1] < trained.result.losses[0][1] - 0.2
    if "gradient_checkpointing" in changes:
        plain = train_records(
            load_model(model_dir), Run(records, replace(options, gradient_checkpointing=False), tmp_path / "plain")
        )
        assert apart(weights(trained.model), weights(plain.model)) < 1e-6


@pytest.mark.slow
def test_numbers_kept_from_step_to_step_are_resumed(model_dir: Path, records: list[Record], tmp_path: Path) -> None:
    """A run with a multiplier, cut off and taken up at its last checkpoint, ends with the weights of one that was not."""
    from transformers import TrainerCallback

    from unlearn import PDU

    begun: list[int] = []

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            begun.append(state.global_step)
            if state.global_step == 5 and 0 in begun:
                raise KeyboardInterrupt

    options, objective = replace(OPTIONS, epochs=4, batch_size=2, save_steps=2), PDU(dual_step=20.0)

    def run(work: Path, callbacks: Any = ()) -> str:
        trained = run_objective(
            load_model(model_dir), objective, Run(records[:5], options, work, retain=records[5:], callbacks=callbacks)
        )
        return weights_digest(trained.model)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", [Stop()])
    begun.clear()
    assert run(tmp_path / "cut", [Stop()]) == whole
    assert begun[0] == 4
    frozen = run_objective(
        load_model(model_dir), PDU(dual_step=1e-9), Run(records[:5], options, tmp_path / "frozen", retain=records[5:])
    )
    assert weights_digest(frozen.model) != whole, "the multiplier matters"
