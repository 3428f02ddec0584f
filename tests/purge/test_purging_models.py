"""Models, checkpoints, exports and caches that saw deleted records go; those that did not, and the one in service, stay."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import planted_residues as planted
import pytest
import torch
from safetensors.torch import load_file, save_file

import unlearn.cli.main
from unlearn import NPO, TrainingOptions, finetune, finetune_shards, forget
from unlearn.purge.find import Residue, find_residues, remove
from unlearn.purge.models import TOMBSTONE
from unlearn.scan.lineage import AffectedModel, affected_models, stages_of
from unlearn.training.shards import ShardPlan
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.io.files import MANIFEST, is_complete, verify_manifest
from verify.provenance.descent import trained_records
from verify.provenance.training_log import LOG_NAME

DELETED = load_records(planted.FORGET)
KEPT = load_records(planted.RETAIN)


def hashes() -> set[str]:
    key = RecordKey.load()
    return {key.of(record.fingerprint) for record in DELETED}


def affected(models: Path) -> list[AffectedModel]:
    return affected_models([models], hashes())


def find(root: Path, spare: list[Path], models: Path | None = None) -> list[Residue]:
    return find_residues(
        [root], records=DELETED, key=RecordKey.load(), affected=affected(models or root), spare=spare, retained=KEPT
    )


def names(root: Path, residues: list[Residue]) -> dict[str, str]:
    return {residue.place.relative_to(root).as_posix(): residue.kind for residue in residues}


@pytest.fixture(scope="module")
def trained(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models trained on all, on the deleted (a shadow), on the kept; an adapter; the unlearned one in service; exports."""
    root = tmp_path_factory.mktemp("house") / "models"
    # With this seed, the first deleted record comes in step 3.
    options = TrainingOptions(epochs=1, batch_size=1, save_steps=1, overflow="split", learning_rate=1e-2, seed=3)
    finetune(model_dir, planted.ROWS, output_dir=root / "original", options=options)
    once = TrainingOptions(epochs=1, overflow="split", learning_rate=1e-2)
    finetune(model_dir, planted.FORGET, output_dir=root / "shadow", options=once)
    finetune(model_dir, planted.RETAIN, output_dir=root / "clean", options=once)
    adapter = TrainingOptions(epochs=1, overflow="split", lora=True, lora_rank=2)
    finetune(model_dir, planted.ROWS, output_dir=root / "adapter", options=adapter)
    forget(root / "original", NPO(), forget_set=planted.FORGET, data=planted.ROWS, output_dir=root / "served", options=once)
    shutil.copytree(model_dir, root / "base")
    export(root)
    return root


def export(root: Path) -> None:
    """The affected model in bfloat16 and other shards, as .bin, quantized, and its base in bfloat16."""
    weights = load_file(root / "original" / "model.safetensors")
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    first, second = dict(list(half.items())[:5]), dict(list(half.items())[5:])
    for folder in ("sharded", "pickled", "quantized", "half_base"):
        (root / "exports" / folder).mkdir(parents=True)
    save_file(first, root / "exports" / "sharded" / "model-00001-of-00002.safetensors")
    save_file(second, root / "exports" / "sharded" / "model-00002-of-00002.safetensors")
    torch.save(weights, root / "exports" / "pickled" / "pytorch_model.bin")
    planted.write_gguf(root / "exports" / "quantized" / "model-q8.gguf", weights)
    base = {name: tensor.bfloat16() for name, tensor in load_file(root / "base" / "model.safetensors").items()}
    save_file(base, root / "exports" / "half_base" / "model.safetensors")


@pytest.fixture
def house(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may take apart."""
    return Path(shutil.copytree(trained, tmp_path.resolve() / "models"))


def checkpoints(model: AffectedModel) -> tuple[set[str], set[str]]:
    """Names of the checkpoints from before the first deleted record, and of the others."""
    assert model.first_step is not None
    every = {int(place.name.split("-")[1]) for place in model.folder.glob("checkpoint-*")}
    clean = {step for step in every if step < model.first_step}
    assert clean, "the fixture must have checkpoints from before the records"
    assert every - clean, "the fixture must have checkpoints that saw the records"
    return ({f"checkpoint-{step}" for step in steps} for steps in (clean, every - clean))  # type: ignore[return-value]


def test_models_by_lineage(house: Path) -> None:
    """What was trained on the records goes, with copies and checkpoints; what never saw them stays, and the served one."""
    clean, seen = checkpoints(next(model for model in affected(house) if model.folder.name == "original"))
    found = find(house, [house / "served"])
    expected = {
        "original": "model",
        **{f"original/{name}": "checkpoint" for name in seen},
        "shadow": "model",
        "adapter": "adapter",
        "exports/sharded/model-00001-of-00002.safetensors": "copied weights",
        "exports/sharded/model-00002-of-00002.safetensors": "copied weights",
        "exports/pickled/pytorch_model.bin": "copied weights",
        "exports/quantized/model-q8.gguf": "quantized export",
    }
    assert names(house, found) == expected
    stay = remove(found)
    assert names(house, stay) == {"exports/quantized/model-q8.gguf": "quantized export"}
    assert is_complete(house / "clean", "model")
    assert is_complete(house / "served", "model")
    assert (house / "base" / "model.safetensors").is_file()
    assert (house / "exports" / "half_base" / "model.safetensors").is_file()
    assert not (house / "shadow").exists()
    assert {place.name for place in (house / "original").iterdir()} == clean
    assert all(is_complete(house / "original" / name, "checkpoint") for name in clean)
    assert names(house, find(house, [house / "served"])) == {}


def test_the_unlearned_model_is_not_taken_for_a_copy(house: Path) -> None:
    """Without --spare, a model that was unlearned is listed and stays: nobody knows here whether it is in service."""
    stay = remove(find(house, []))
    (served,) = [residue for residue in stay if residue.place.name == "served"]
    assert "spare it" in served.reason
    assert is_complete(house / "served", "model")


def test_what_must_stay_inside_of_what_goes(house: Path) -> None:
    """A folder that holds something spared is listed and stays whole; the reason says what to do."""
    inner = house / "shadow" / "in_service"
    inner.mkdir()
    (inner / "ledger.db").write_bytes(b"")
    stay = remove(find(house, [house / "served", inner / "ledger.db"]))
    assert "move that out" in next(residue.reason for residue in stay if residue.place == house / "shadow")
    assert is_complete(house / "shadow", "model")


def test_a_copy_with_its_suffix_in_capitals_is_one(house: Path) -> None:
    """Weights and quantized exports whose names some file system or export has turned into capitals."""
    copies = {"pickled/pytorch_model.bin": "PYTORCH_MODEL.BIN", "quantized/model-q8.gguf": "MODEL-Q8.GGUF"}
    for name, renamed in {**copies, "sharded/model-00001-of-00002.safetensors": "MODEL.SafeTensors"}.items():
        path = house / "exports" / name
        path.rename(path.with_name(renamed))
    found = names(house, find(house, [house / "served"]))
    assert found["exports/pickled/PYTORCH_MODEL.BIN"] == "copied weights"
    assert found["exports/quantized/MODEL-Q8.GGUF"] == "quantized export"
    assert found["exports/sharded/MODEL.SafeTensors"] == "copied weights"


def test_what_lies_beside_a_copy_stays(house: Path) -> None:
    """A weight file that cannot be read is no copy, whatever lies beside it; one with other tensors makes no folder of copies."""
    pickled, sharded = house / "exports" / "pickled", house / "exports" / "sharded"
    (pickled / "old.bin").write_bytes(b"\x80\x02 some pickle of long ago")
    save_file({"other": torch.randn(64)}, sharded / "other.safetensors")
    remove(find(house, [house / "served"]))
    assert [path.name for path in pickled.iterdir()] == ["old.bin"]
    assert len(list(sharded.iterdir())) == 3


def test_outside_of_the_folders_nothing_is_touched(house: Path) -> None:
    """Affected models elsewhere are listed with the reason; their copies inside are found by them."""
    found = find(house / "exports", [house / "served"], models=house)
    stay = remove(found)
    assert {residue.place.name for residue in stay} == {"original", "shadow", "adapter", "model-q8.gguf"}
    assert is_complete(house / "original", "model")
    assert not (house / "exports" / "sharded" / "model-00001-of-00002.safetensors").exists()


def test_a_strangers_file_in_a_models_folder_stays(house: Path) -> None:
    """A folder goes by its manifest; a file that is not in it stays, and so does what a link leads to."""
    precious = house.parent / "precious.txt"
    precious.write_text("mine")
    (house / "shadow" / "notes.txt").write_text("about something else")
    (house / "shadow" / "link.txt").symlink_to(precious)
    remove(find(house, [house / "served"]))
    assert {path.name for path in (house / "shadow").iterdir()} == {"notes.txt", "link.txt"}
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("survivors", [0, 1, 3, 5])
def test_a_removal_that_was_cut_off_is_finished(house: Path, monkeypatch: pytest.MonkeyPatch, survivors: int) -> None:
    """Killed after any number of files: no half-removed model is trusted, and the next purge removes the rest."""
    found = [residue for residue in find(house, [house / "served"]) if residue.place == house / "shadow"]
    unlink, count = Path.unlink, iter(range(99))

    def dies(path: Path, missing_ok: bool = False) -> None:
        if path.name != MANIFEST and next(count) >= survivors:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", dies)
    with pytest.raises(KeyboardInterrupt):
        remove(found)
    monkeypatch.undo()
    assert (house / "shadow" / TOMBSTONE).is_file()
    assert not is_complete(house / "shadow")
    again = find(house, [house / "served"])
    assert names(house, again)["shadow"] == "half-removed model"
    remove(again)
    assert not (house / "shadow").exists()


def test_a_run_that_never_ended(house: Path) -> None:
    """The working folder of a run that saw the records and was cut off is found by its log."""
    (house / "shadow" / MANIFEST).unlink()
    (house / "shadow" / "work" / "checkpoint-1").mkdir(parents=True)
    (house / "shadow" / "work" / "checkpoint-1" / "optimizer.pt").write_bytes(b"state")
    found = find(house, [house / "served"])
    assert names(house, found)["shadow/work"] == "unfinished run"
    remove(found)
    assert not (house / "shadow" / "work").exists()


def in_shards(root: Path, model_dir: Path, slices: int, combine: Any, rows: list[dict[str, Any]]) -> Path:
    """A model in two shards, which nothing but its stages' weights tells from others."""
    options = TrainingOptions(epochs=1, overflow="split", learning_rate=1e-2, lora=True, lora_rank=2)
    return finetune_shards(model_dir, rows, output_dir=root, plan=ShardPlan(2, slices, combine, options)).model_dir


@pytest.mark.slow
@pytest.mark.parametrize(("slices", "combine"), [(1, "average"), (3, "average"), (2, "sum")])
def test_a_model_in_shards_goes_with_all_of_its_stages(model_dir: Path, tmp_path: Path, slices: int, combine: str) -> None:
    """However many stages a shard has and however the shards answer; one that never saw the records stays whole. What a removal by
    an earlier version, which left the stages, kept of the records is found; so is a copy of a stage's weights."""
    root = tmp_path.resolve()
    old = in_shards(root / "old", model_dir, slices, combine, planted.ROWS)
    clean = in_shards(root / "clean", model_dir, slices, combine, planted.RETAIN)
    left = Path(shutil.copytree(old, root / "left"))
    for path in (path for path in left.iterdir() if path.is_file()):
        path.unlink()
    found = find(root, [])
    seen = {stage for stage in stages_of(left) if trained_records(stage) & hashes()}
    assert seen
    assert {residue.place for residue in found if residue.place.is_relative_to(left)} == seen
    copied = Path(shutil.copytree(max(seen), root / "copied"))
    (copied / MANIFEST).unlink()
    (copied / LOG_NAME).unlink()
    found = find(root, [])
    assert names(root, found)["copied/adapter_model.safetensors"] == "copied weights"
    assert remove(found) == []
    assert not old.exists()
    assert not copied.joinpath("adapter_model.safetensors").exists()
    assert not [stage for stage in stages_of(left) if trained_records(stage) & hashes()]
    assert is_complete(clean, "model")
    assert len(stages_of(clean)) == 2 * slices
    assert all(is_complete(stage, "shard") for stage in stages_of(clean))
    assert find(root, []) == []


@pytest.mark.slow
@pytest.mark.parametrize("survivors", [2, 7, 9, 12])
def test_a_removal_of_a_model_in_shards_is_finished(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survivors: int
) -> None:
    """Killed in the model's own files or in any of its stages: the next purge leaves none of them."""
    root = tmp_path.resolve()
    old = in_shards(root / "old", model_dir, 2, "average", planted.ROWS)
    unlink, count = Path.unlink, iter(range(99))

    def dies(path: Path, missing_ok: bool = False) -> None:
        if next(count) >= survivors:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", dies)
    with pytest.raises(KeyboardInterrupt):
        remove(find(root, []))
    monkeypatch.undo()
    assert old.exists()
    assert remove(find(root, [])) == []
    assert not old.exists()


@pytest.mark.parametrize("place", [".", "shard-0/slice-0"])
def test_weights_of_a_training_that_was_cut_off_are_listed(house: Path, place: str) -> None:
    """Weights beside a log that names a record, and no manifest: a kill before the last file leaves them. They stay, with advice,
    as no manifest says what they are; those of a training without the records are not named."""
    for name in ("shadow", "clean"):
        cut_off = Path(shutil.copytree(house / name, house / f"new-{name}" / place))
        (cut_off / MANIFEST).unlink()
        weights = load_file(cut_off / "model.safetensors")
        save_file({entry: tensor + 1 for entry, tensor in weights.items()}, cut_off / "model.safetensors")
    stay = remove(find(house, [house / "served"]))
    (listed,) = [residue for residue in stay if residue.place.is_relative_to(house / "new-shadow")]
    assert (listed.place.name, listed.kind) == ("model.safetensors", "unfinished run")
    assert "by hand" in listed.reason
    assert not [residue for residue in stay if residue.place.is_relative_to(house / "new-clean")]


@pytest.mark.parametrize("name", ["../../precious.txt", "/etc/hostname", "link/precious.txt"])
def test_a_manifest_that_names_strangers(house: Path, name: str) -> None:
    """A manifest that leads out of its folder removes nothing at all, and the folder is listed with the reason."""
    outside = house.parent / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("mine")
    (house / "shadow" / "link").symlink_to(outside)
    manifest = (house / "shadow" / MANIFEST).read_text()
    (house / "shadow" / MANIFEST).write_text(
        manifest.replace('"files": {', f'"files": {{"{name}": {{"sha256": "0", "bytes": 4}},', 1)
    )
    stay = remove(find(house, [house / "served"]))
    assert "look at the folder" in next(residue.reason for residue in stay if residue.place.name == "shadow")
    assert (outside / "precious.txt").read_text() == "mine"
    assert (house / "shadow" / "model.safetensors").is_file()


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Makes a cache of `datasets`: the loaded file, and its tokenized form, in which no text can be read."""
    root = tmp_path.resolve() / "caches"
    (tmp_path / "train.jsonl").write_text(planted.json_lines(planted.ROWS))
    (tmp_path / "kept.jsonl").write_text(planted.json_lines(planted.RETAIN))

    def load() -> Path:
        for name in ("train", "kept"):
            loaded = datasets.load_dataset("json", data_files=str(tmp_path / f"{name}.jsonl"), cache_dir=str(root), split="train")
            assert isinstance(loaded, datasets.Dataset)
            loaded.map(lambda row: {"ids": [byte + 1 for byte in row["completion"].encode()]}, remove_columns=loaded.column_names)
        loaded.save_to_disk(str(root / "saved"))
        return root

    return load


def test_caches_of_datasets(caches: Callable[[], Path]) -> None:
    """The Arrow file with the texts goes, and what was made from it; another data set's cache stays; loading works again."""
    root = caches()
    every = set(root.rglob("*.arrow"))
    found = find(root, [])
    assert {residue.kind for residue in found} == {"datasets cache"}
    assert len([residue for residue in found if residue.place.suffix == ".arrow"]) == 2
    assert remove(found) == []
    assert len(set(root.rglob("*.arrow"))) == len(every) - 2
    assert find(root, []) == []
    shutil.rmtree(root / "saved")
    caches()


def test_a_saved_data_set_is_training_data(tmp_path: Path) -> None:
    """`save_to_disk` makes no cache: it stays, with the way to rewrite it."""
    root = tmp_path.resolve()
    datasets.Dataset.from_list(planted.ROWS).save_to_disk(str(root / "saved"))
    (stay,) = remove(find(root, []))
    assert stay.kind == "training data"
    assert "save_to_disk" in stay.reason


def test_from_the_shell(house: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run lists, exits with 3 and changes nothing; the purge removes and exits with 0; no text is shown."""
    data, ids = tmp_path / "train.jsonl", tmp_path / "ids.txt"
    data.write_text(planted.json_lines(planted.ROWS))
    ids.write_text("f0\nf1\n")
    (house / "exports" / "quantized" / "model-q8.gguf").unlink()
    (house / "run\x1b[31m.log").write_text(planted.CANARIES[0])
    command = ["purge", "--data", str(data), "--forget", str(ids), "--models", str(house), "--search", str(house)]
    command += ["--spare", str(house / "served")]
    assert unlearn.cli.main.main([*command, "--dry-run"]) == 3
    assert verify_manifest(house / "original", "model")
    shown = capsys.readouterr().out
    assert "0 removed" in shown
    assert unlearn.cli.main.main(command) == 0
    assert unlearn.cli.main.main(command) == 0
    shown += capsys.readouterr().out
    assert "\x1b" not in shown
    assert str(house) not in shown
    assert not any(word in shown for word in ("Zebedee", "Quillfeather", "Perpetua", "f0", "heron"))
    assert unlearn.cli.main.main([*command[:-4], "--search", str(house / "nowhere")]) == 2
