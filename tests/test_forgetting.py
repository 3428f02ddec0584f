"""The one verb, and everything a user can get wrong."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import unlearn.cli.main
from unlearn import NPO, RMU, GradientAscent, TrainingOptions, finetune, forget
from unlearn.methods.auto import Auto
from unlearn.methods.retrain import Retrain
from unlearn.requests.attempt import exact_by
from verify import InputError, RunError
from verify.io.files import MANIFEST, is_complete, write_manifest
from verify.models.digests import weights_digest
from verify.models.loading import load_model
from verify.provenance.training_history import history_of

OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=4)


@pytest.fixture(scope="module")
def house(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fine-tuned tiny model and its files."""
    from training_rows import make_rows

    root = tmp_path_factory.mktemp("house")
    paths = {"base": model_dir, "model": root / "model"}
    content = {"forget": make_rows("gone", 4), "retain": make_rows("kept", 8), "holdout": make_rows("never", 4)}
    content["train"] = content["forget"] + content["retain"]
    for name, listed in content.items():
        paths[name] = root / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in listed))
    finetune(model_dir, str(paths["train"]), output_dir=paths["model"], options=TrainingOptions(learning_rate=5e-3, epochs=3))
    return paths


def run(house: dict[str, Path], output: Path, method: Any = None, **changes: Any) -> Any:
    arguments = {"forget_set": str(house["forget"]), "retain_set": str(house["retain"]), "options": OPTIONS, "output_dir": output}
    return forget(changes.pop("model", house["model"]), method or NPO(), **{**arguments, **changes})


def test_the_result_says_what_was_done(house: dict[str, Path], tmp_path: Path) -> None:
    """Folder, digests, steps; the manifest repeats them; the weights on disk are those of the digest; the work folder is gone."""
    result = run(house, tmp_path / "out")
    about = json.loads((tmp_path / "out" / MANIFEST).read_text())["about"]
    assert (about["method"], about["parameters"]["beta"]) == ("npo", 0.1)
    assert about["weights_before"] == result.digest_before == load_model(house["model"]).digest
    assert about["weights"] == result.digest_after == load_model(tmp_path / "out").digest
    assert result.training.steps == 1
    assert not (tmp_path / "out" / "work").exists()


def test_nothing_of_what_was_removed_is_written(house: dict[str, Path], tmp_path: Path) -> None:
    """Checkpoints and reference cache of a running unlearning, and log and manifest of its result, hold no text, name or id."""
    output, seen = tmp_path / "out", set[str]()

    class Look(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            """The working folder goes when the run ends."""
            seen.update(look())

    def look() -> set[str]:
        files = [path for path in output.rglob("*") if path.is_file()]
        for path in files:
            content = path.read_bytes() + path.name.encode()
            assert not [needle for needle in (b"goneville", b"gone-", b"Zebedee") if needle in content], path.name
        return {path.relative_to(output).as_posix() for path in files}

    options = TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=2, save_steps=1)
    run(house, output, options=options, callbacks=[Look()])
    assert {"work/checkpoint-1/optimizer.pt", "work/checkpoint-3/model.safetensors", "work/reference.safetensors"} <= seen, seen
    assert {"manifest.json", "model.safetensors"} <= look()


def test_models_in_memory(house: dict[str, Path], tmp_path: Path) -> None:
    """A model in memory is changed in place; a folder and the model in it give the same weights."""
    loaded = load_model(house["model"])
    in_memory = forget(
        loaded.model,
        NPO(),
        tokenizer=loaded.tokenizer,
        forget_set=str(house["forget"]),
        retain_set=str(house["retain"]),
        options=OPTIONS,
        output_dir=tmp_path / "memory",
    )
    assert in_memory.digest_after == run(house, tmp_path / "folder").digest_after == weights_digest(loaded.model)


def test_ids_against_the_training_file(house: dict[str, Path], tmp_path: Path) -> None:
    """A list of subject ids means their records; without --retain all others are kept: the same result as with files."""
    ids = [row["subject_id"] for row in map(json.loads, house["forget"].read_text().splitlines())]
    by_ids = run(house, tmp_path / "ids", forget_set=ids, retain_set=None, data=str(house["train"]))
    assert by_ids.digest_after == run(house, tmp_path / "files").digest_after


def test_an_adapter_is_folded_in(house: dict[str, Path], tmp_path: Path) -> None:
    """Unlearning through LoRA leaves whole weights: an adapter that can be switched off would leave the old model in service."""
    result = run(house, tmp_path / "lora", options=TrainingOptions(learning_rate=1e-2, epochs=1, batch_size=4, lora=True))
    assert not (tmp_path / "lora" / "adapter_config.json").exists()
    assert result.digest_after != result.digest_before


def test_retraining_repeats_the_training(house: dict[str, Path], tmp_path: Path) -> None:
    """`retrain` takes the settings of the model's own log: it equals fine-tuning the base on the retain set with them."""
    result = run(house, tmp_path / "out", Retrain(), base=house["base"], options=None)
    by_hand = finetune(
        house["base"], str(house["retain"]), output_dir=tmp_path / "hand", options=TrainingOptions(learning_rate=5e-3, epochs=3)
    )
    assert result.digest_after == by_hand.digest
    assert "never saw" in result.facts["exactness"]


def test_a_base_that_saw_the_records_is_refused(house: dict[str, Path], tmp_path: Path) -> None:
    """The model itself under another name, or one trained on some of the records: a retraining from there would forget nothing."""
    copy = shutil.copytree(house["model"], tmp_path / "copy")
    with pytest.raises(InputError, match="was trained on 4 of the 4 records to forget"):
        run(house, tmp_path / "one", Retrain(), base=str(copy))
    other = finetune(house["base"], str(house["forget"]), output_dir=tmp_path / "other", options=OPTIONS).model_dir
    with pytest.raises(InputError, match="was trained on 4 of the 4 records to forget"):
        run(house, tmp_path / "two", Retrain(), base=str(other))
    clean = finetune(house["base"], str(house["holdout"]), output_dir=tmp_path / "clean", options=OPTIONS).model_dir
    with pytest.raises(InputError, match=r"is not the model that .* was trained from: .* Give that model with --base DIR"):
        run(house, tmp_path / "three", Retrain(), base=str(clean))


@pytest.mark.slow
@pytest.mark.parametrize("method", [Retrain(), Auto(ladder=())])
def test_another_clean_base_is_refused(house: dict[str, Path], tmp_path: Path, method: Any) -> None:
    """By the log; after an approximate method by the manifest; after two trainings either start will do, and no third model."""
    other = finetune(house["base"], str(house["holdout"]), output_dir=tmp_path / "other", options=OPTIONS).model_dir
    named = run(house, tmp_path / "named", NPO(), base=str(other)).model_dir  # names the log's base nevertheless
    for number, model in enumerate((house["model"], named)):
        with pytest.raises(InputError, match=f"was trained from: .* {load_model(house['base']).digest[:16]}"):
            run(house, tmp_path / f"refused-{number}", method, model=model, base=str(other))
    more = finetune(house["model"], str(house["holdout"]), output_dir=tmp_path / "more", options=OPTIONS).model_dir
    rows = [json.loads(line) for line in house["holdout"].read_text().splitlines()]
    later = {"model": more, "forget_set": rows[:2], "retain_set": rows[2:], "options": OPTIONS}
    with pytest.raises(InputError, match=r"they were [0-9a-f]{16} or [0-9a-f]{16}"):
        run(house, tmp_path / "refused-2", method, base=str(named), **later)
    for number, base in enumerate((house["model"], house["base"])):
        assert "exactness" in run(house, tmp_path / f"again-{number}", method, base=str(base), **later).facts


def test_the_base_in_another_precision_is_the_base(house: dict[str, Path], tmp_path: Path) -> None:
    """What `--dtype` asks for is no other model."""
    result = run(house, tmp_path / "out", Retrain(), base=str(house["base"]), dtype="bfloat16")
    assert "exactness" in result.facts


@pytest.mark.parametrize(
    ("named", "dtype", "loads"), [(False, "auto", 2), (False, "bfloat16", 2), (True, "auto", 2), (True, "bfloat16", 3)]
)
def test_models_are_loaded_once(
    house: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool, dtype: str, loads: int
) -> None:
    """The base is loaded in another precision only to compare it with a recorded one, and only once: it may be all that fits."""
    model = house["model"]
    if not named:
        model = tmp_path / "bare"
        load_model(house["model"]).model.save_pretrained(model)
        load_model(house["model"]).tokenizer.save_pretrained(model)
    loaded: list[Any] = []

    def counted(source: Any, **kind: Any) -> Any:
        loaded.append(source)
        return load_model(source, **kind)

    monkeypatch.setattr("unlearn.training.origins.load_model", counted)
    run(house, tmp_path / "out", model=model, base=str(house["base"]), dtype=dtype)
    assert len(loaded) == loads


def test_a_retraining_from_a_base_that_nothing_names_is_not_called_exact(
    house: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model came without log and manifest: a warning, the reason in the result, and no exactness for anything to repeat."""
    bare = tmp_path / "bare"
    load_model(house["model"]).model.save_pretrained(bare)
    load_model(house["model"]).tokenizer.save_pretrained(bare)
    for number, method in enumerate((Retrain(), Auto(ladder=()))):
        result = run(house, tmp_path / str(number), method, model=bare, base=str(house["base"]), options=OPTIONS)
        facts = result.facts["rungs"][-1] if isinstance(method, Auto) else result.facts
        assert "exactness" not in facts
        assert "not called exact" in facts["not_exact"]
        assert "WARNING: no log or manifest" in capsys.readouterr().err
        assert exact_by(result.model_dir) is None
        history = history_of(result.model_dir)
        assert history is not None
        assert history.last.method is None, "it is a training nevertheless, with a log of its own"


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "used"), [({}, 5), ({"seed": 6}, 6)])
def test_a_seed_that_is_asked_for_goes_before_the_logs(
    model_dir: Path, tmp_path: Path, asked: dict[str, int], used: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retrain` takes the seed of the model's log where none is given. Its manifest gives the result again."""
    from training_rows import make_rows

    for name, listed in (("train", make_rows("one", 6)), ("forget", make_rows("one", 6)[:2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    data = str(tmp_path / "train.jsonl")
    finetune(model_dir, data, output_dir=tmp_path / "model", options=TrainingOptions(epochs=1, seed=5, batch_size=2))
    flags = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
    places = ["--model", str(tmp_path / "model"), "--base", str(model_dir), "--forget", str(tmp_path / "forget.jsonl")]
    given = ["forget", "retrain", *places, "--data", data, "--output", str(tmp_path / "out"), *flags]
    assert unlearn.cli.main.main(given) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["about"]["options"]["seed"] == used
    assert unlearn.cli.main.main(["reproduce", str(tmp_path / "out"), "--output", str(tmp_path / "again")]) == 0
    assert "bit-identical" in capsys.readouterr().out


def test_without_its_term_the_retain_set_is_left_out(house: dict[str, Path], tmp_path: Path) -> None:
    """`npo --alpha 0` asks for no records to keep, and changes nothing where some are given; otherwise they are asked for."""
    alone = run(house, tmp_path / "alone", NPO(alpha=0.0), retain_set=None)
    assert alone.digest_after == run(house, tmp_path / "both", NPO(alpha=0.0)).digest_after != alone.digest_before
    with pytest.raises(InputError, match="--retain FILE"):
        run(house, tmp_path / "asked", NPO(), retain_set=None)


def rewritten(path: Path, target: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> str:
    content = change([json.loads(line) for line in path.read_text().splitlines()])
    target.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(target)


@pytest.mark.slow
def test_bad_input_of_the_command(house: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mistake exits with 2, says what to type next, and leaves the output folder empty or unmade."""
    model, gone, kept = str(house["model"]), str(house["forget"]), str(house["retain"])
    (tmp_path / "empty.jsonl").write_text("")
    cut = tmp_path / "cut.jsonl"
    cut.write_text(house["forget"].read_text()[:-20])
    blank = rewritten(house["forget"], tmp_path / "blank.jsonl", lambda rows: [{**rows[0], "completion": " "}, *rows[1:]])
    long = rewritten(house["forget"], tmp_path / "long.jsonl", lambda rows: [{**rows[0], "completion": "word " * 500}])
    foreign = rewritten(house["holdout"], tmp_path / "foreign.jsonl", lambda rows: rows)
    (tmp_path / "ids.txt").write_text("nobody\n")
    cases = {
        "holds no records": ["--forget", str(tmp_path / "empty.jsonl"), "--retain", kept],
        "cut off": ["--forget", str(cut), "--retain", kept],
        "completion is empty": ["--forget", blank, "--retain", kept],
        "not in the model's training log": ["--forget", foreign, "--retain", kept],
        "A record has one role": ["--forget", gone, "--retain", gone],
        "--retain FILE": ["--forget", gone],
        "occur nowhere": ["--forget", str(tmp_path / "ids.txt"), "--data", str(house["train"])],
        "--data FILE": ["--forget", str(tmp_path / "ids.txt"), "--retain", kept],
        "--prompt-field": ["--forget", gone, "--retain", kept, "--prompt-field", "question"],
        "share": ["--forget", gone, "--retain", kept, "--holdout", kept],
    }
    assert long
    for number, (message, flags) in enumerate(cases.items()):
        output = tmp_path / f"out{number}"
        status = unlearn.cli.main.main(["forget", "npo", "--model", model, "--output", str(output), *flags])
        error = capsys.readouterr().err
        assert status == 2, (message, error)
        assert message in error, (message, error)
        assert "gone" not in error.replace("gone.jsonl", ""), "no content in messages"
        assert not output.exists() or not any(output.iterdir())


def test_flags_out_of_range(house: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate below zero exits with 2 and names the flag."""
    given = ["--model", str(house["model"]), "--forget", str(house["forget"]), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        unlearn.cli.main.main(["forget", "npo", *given, "--learning-rate", "-1"])
    assert stop.value.code == 2
    assert "--learning-rate must be" in capsys.readouterr().err


def test_text_longer_than_the_context(model_dir: Path, tmp_path: Path) -> None:
    """It is refused, or split by choice; never cut silently."""
    rows = [{"text": "word " * 200}, {"text": "short"}]
    with pytest.raises(InputError, match="--overflow split"):
        finetune(model_dir, rows, output_dir=tmp_path / "refused", options=OPTIONS)
    split = TrainingOptions(learning_rate=1e-3, epochs=1, overflow="split")
    assert finetune(model_dir, rows, output_dir=tmp_path / "split", options=split).result.tokens > 300


@pytest.mark.parametrize("kind", ["pickle", "auto_map", "tampered", "nan", "tokenizer", "absent"])
def test_bad_models(house: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Pickled weights, code in the folder, changed files, NaN weights, a foreign tokenizer, no folder: refused with a reason."""
    model = tmp_path / "model"
    shutil.copytree(house["model"], model)
    expected = {
        "pickle": "safetensors",
        "auto_map": "auto_map",
        "tampered": "not the file that the manifest describes",
        "nan": "not finite",
        "tokenizer": "tokenizer",
        "absent": "does not exist",
    }[kind]
    if kind == "pickle":
        (model / "model.safetensors").unlink()
        torch.save({}, model / "pytorch_model.bin")
        write_manifest(model, "model", {})
    elif kind == "auto_map":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
        write_manifest(model, "model", {})
    elif kind == "tampered":
        content = bytearray((model / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (model / "model.safetensors").write_bytes(content)
    elif kind == "nan":
        from safetensors.torch import load_file, save_file

        weights = load_file(model / "model.safetensors")
        next(iter(weights.values())).view(-1)[0] = float("nan")
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        write_manifest(model, "model", {})
    elif kind == "tokenizer":
        config = json.loads((model / "config.json").read_text())
        from transformers import LlamaConfig, LlamaForCausalLM

        smaller = LlamaConfig(**{**config, "vocab_size": 100})
        LlamaForCausalLM(smaller).save_pretrained(model)
        write_manifest(model, "model", {})
    else:
        model = tmp_path / "nowhere"
    with pytest.raises((InputError, RunError), match=expected):
        forget(model, GradientAscent(), forget_set=str(house["forget"]), output_dir=tmp_path / "out", options=OPTIONS)
    assert not is_complete(tmp_path / "out")


def test_an_output_folder_is_never_overwritten(house: dict[str, Path], tmp_path: Path) -> None:
    """A folder that holds another run, or any file, is refused and stays as it was."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds"):
        run(house, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]
    run(house, tmp_path / "done")
    before = load_model(tmp_path / "done").digest
    with pytest.raises(InputError, match="already holds"):
        run(house, tmp_path / "done")
    assert load_model(tmp_path / "done").digest == before


def test_a_full_disk_loses_nothing(house: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while the model is written: a clear error, no manifest, and the same command then succeeds."""
    from transformers import PreTrainedModel

    whole = PreTrainedModel.save_pretrained

    def full(self: Any, folder: Path, *_: Any, **__: Any) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"the first bytes")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(RunError, match=r"(?i)space|full"):
        run(house, tmp_path / "out")
    assert not is_complete(tmp_path / "out")
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", whole)
    result = run(house, tmp_path / "out")
    assert is_complete(result.model_dir)
    assert result.digest_after == load_model(tmp_path / "out").digest == run(house, tmp_path / "undisturbed").digest_after


def test_a_broken_model_is_called_broken(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ascent far beyond reason ends with a loud word; a gentle run has none; both report what is left."""
    rows = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(8)]
    trained = finetune(model_dir, rows, output_dir=tmp_path / "m", options=TrainingOptions(learning_rate=5e-3, epochs=10)).model_dir
    for name, rate, broken in (("gentle", 1e-6, False), ("wild", 3e-2, True)):
        options = TrainingOptions(learning_rate=rate, epochs=10, batch_size=4)
        sets = {"forget_set": rows[:4], "retain_set": rows[4:]}
        result = forget(trained, GradientAscent(), **sets, output_dir=tmp_path / name, options=options)
        assert ("warning" in result.facts) == broken
        assert (result.facts["utility_ratio"] < 0.5) == broken
        assert ("WARNING" in capsys.readouterr().err) == broken


@pytest.mark.slow
def test_what_rounding_changed_is_reported(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a result stored in bfloat16 the manifest gives the forget loss before and after rounding; a ruinous rounding is warned of.

    Float32 storage, and an adapter on a bfloat16 base, round nothing and report nothing.
    """
    from training_rows import make_rows

    sets = {"forget_set": make_rows("gone", 4), "retain_set": make_rows("kept", 8)}
    for name, method, dtype, lora in (
        ("rmu", RMU(), "bfloat16", False),
        ("small", NPO(), "bfloat16", False),
        ("float32", NPO(), "float32", False),
        ("adapter", NPO(), "bfloat16", True),
    ):
        options = TrainingOptions(learning_rate=1e-6 if name == "small" else 3e-2, epochs=2, batch_size=4, lora=lora)
        result = forget(model_dir, method, **sets, dtype=dtype, output_dir=tmp_path / name, options=options)
        assert ("half_precision" in result.facts) == (dtype == "bfloat16" and not lora)
        assert "rounding_warning" not in result.facts
        if name == "small":
            facts = json.loads((tmp_path / name / MANIFEST).read_text())["about"]["facts"]["half_precision"]
            assert facts["stored"] == "bfloat16"
            assert facts["forget_loss_in_float32"] != facts["forget_loss_before"]
    assert "rounded" not in capsys.readouterr().err

    def ruinous(values: torch.Tensor, kind: torch.dtype, *_: Any) -> torch.Tensor:
        return torch.zeros_like(values, dtype=kind)

    monkeypatch.setattr("verify.training.precision.stochastically_rounded", ruinous)
    result = forget(model_dir, NPO(), **sets, dtype="bfloat16", output_dir=tmp_path / "ruined", options=TrainingOptions(epochs=1))
    assert "WARNING: storing the result in bfloat16 changed its forget loss" in capsys.readouterr().err
    assert "--dtype float32" in result.facts["rounding_warning"]


@pytest.mark.slow
def test_the_recipe_is_handed_on(house: dict[str, Path], tmp_path: Path) -> None:
    """A result of an approximate method says how its model was fine-tuned, as does that of the next: `retrain` repeats it."""
    for number, (model, gone) in enumerate(((house["model"], [0]), (tmp_path / "0", [1]))):
        rows = [json.loads(house["forget"].read_text().splitlines()[place]) for place in gone]
        forget(model, NPO(), forget_set=rows, retain_set=str(house["retain"]), output_dir=tmp_path / str(number), options=OPTIONS)
        about = json.loads((tmp_path / str(number) / MANIFEST).read_text())["about"]
        assert (about["recipe"]["options"]["learning_rate"], about["recipe"]["defense"]) == (5e-3, None)
    sets = {"forget_set": str(house["forget"]), "retain_set": str(house["retain"]), "base": house["base"]}
    result = forget(tmp_path / "1", Retrain(), **sets, output_dir=tmp_path / "again")
    assert result.digest_after == forget(house["model"], Retrain(), **sets, output_dir=tmp_path / "straight").digest_after


def test_canaries_go_once(model_dir: Path, tmp_path: Path) -> None:
    """Canaries that are named in the forget set as well are not removed twice over."""
    from training_rows import make_rows

    from verify.data.canaries import find_canaries

    rows = make_rows("one", 6)
    finetune(model_dir, rows, output_dir=tmp_path / "m", options=TrainingOptions(epochs=1), canaries=4)
    found = find_canaries(tmp_path / "m")
    assert found is not None
    coins = found.trained_records(load_model(tmp_path / "m").tokenizer)
    named = [{"example_id": one.example_id, "prompt": one.prompt, "completion": one.completion} for one in coins]
    seen: list[int] = []
    for name, forget_set in (("without", rows[:2]), ("named", [*rows[:2], *named])):
        options = TrainingOptions(epochs=1, batch_size=1)
        result = forget(
            tmp_path / "m", NPO(), forget_set=forget_set, retain_set=rows[2:], output_dir=tmp_path / name, options=options
        )
        seen.append(result.training.steps if result.training else 0)
    assert seen == [2 + len(coins)] * 2
