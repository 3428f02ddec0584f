"""Making a level table: from a training to signed numbers, with nothing left of the pool, whatever interrupts it."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deletion_world import rows
from dying_pools import make_and_die
from level_tables import rows_that_left, trained_losses
from new_processes import NewProcess

import unlearn.cli.main
import unlearn.pool.model
from unlearn import Level, TrainingOptions, finetune, forget
from unlearn.cli.level_table import LevelTableFlags
from unlearn.pool.members import controls_of
from unlearn.pool.model import PoolFolder, require_same_words, require_start
from unlearn.pool.repetition import repetition_of
from unlearn.pool.table import make_level_table
from unlearn.training.controls import drawn_controls
from verify import Settings, audit
from verify.auditing.recompute import recompute
from verify.data.identity import RecordKey
from verify.data.records import Fields, parse_records
from verify.data.rewording_files import content_digest, read_source
from verify.data.sources import load_records
from verify.errors import InputError, IntegrityError
from verify.io.envelopes import make_key
from verify.io.files import is_complete, verify_manifest, write_json
from verify.models.loading import load_model
from verify.provenance.descent import trained_records
from verify.provenance.holdout import CONTROLS
from verify.provenance.level_table import FOLDER, LevelTable, finish_table
from verify.scores.cache import SealedNumbers
from verify.scores.observe import measure

PEOPLE = [f"Person{number}" for number in range(16)]
OPTIONS = TrainingOptions(learning_rate=5e-3, epochs=6, batch_size=16)


def world(folder: Path, model_dir: Path, **training: Any) -> Path:
    """A model that was trained with controls held out; the folder of the model."""
    data = folder / "people.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(PEOPLE)))
    options = training.pop("options", OPTIONS)
    finetune(str(model_dir), str(data), output_dir=folder / "model", options=options, **{"holdout_share": 0.25, **training})
    return folder / "model"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> tuple[Path, Path]:
    """The model with its table of four models, signed; and the public key."""
    folder = tmp_path_factory.mktemp("pool")
    model = world(folder, model_dir)
    make_key(folder / "operator.key")
    make_level_table(model, models=4, seed=5, operator_key=folder / "operator.key")
    return model, folder / "operator.key.pub"


def test_a_table_holds_what_its_design_says(made: tuple[Path, Path]) -> None:
    """Every training record and control has a row; the model is intact; losses show who was trained on what."""
    model, public = made
    table, key = LevelTable.open(model / FOLDER, public), RecordKey.load()
    names = sorted(trained_records(model))
    assert (table.header.rows, sum(table.header.controls)) == (8 * 16, 8 * 4)
    assert len(names) == 8 * 12
    unseen, seen = (table.losses(names, "exact text"), trained_losses(table, names))
    assert ((~np.isnan(unseen)).sum(axis=0) == 2).all()
    assert np.nanmean(unseen) > np.nanmean(seen) + 0.15
    for half in ("method", "audit"):
        found = {key.of(record.fingerprint) for record in controls_of(model, half, Fields())}
        assert found == set(table.controls(half))
        assert not np.isnan(table.losses(sorted(found), "exact text")).any()
        assert not found & set(names)
    assert table.design.holdout_share == 0.25
    assert {"exact text", "instruction", "no prompt", "int8", "int4", "layer 1"} <= set(table.channels)
    assert len({entry.weights for entry in table.header.pool}) == 4
    assert table.header.share_of_training is not None
    assert 1.5 < table.header.share_of_training < 2.5
    verify_manifest(model, "model")
    load_model(model)


def test_nothing_of_the_pool_is_left(made: tuple[Path, Path]) -> None:
    """The folder holds five documents and no weights; the rows name no person and hold no text."""
    folder = made[0] / FOLDER
    assert sorted(path.name for path in folder.iterdir()) == [
        "design.json",
        "leaves.txt",
        "levels.parquet",
        "manifest.json",
        "table.json",
    ]
    content = b"".join(path.read_bytes() for path in folder.iterdir()).lower()
    assert b"person" not in content
    assert b"example.com" not in content


def test_a_second_call_changes_nothing_and_another_design_is_refused(made: tuple[Path, Path]) -> None:
    """A finished table is returned as it is."""
    before = (made[0] / FOLDER / "table.json").read_bytes()
    make_level_table(made[0], models=4)
    assert (made[0] / FOLDER / "table.json").read_bytes() == before
    with pytest.raises(InputError, match="holds a table of 4 models"):
        make_level_table(made[0], models=8)


def test_controls_and_seeds_of_a_finished_table_are_not_passed_over(
    made: tuple[Path, Path], tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own are taken, others are refused; so are options that the finished model was not trained with."""
    held = "".join(path.read_text() for path in sorted((made[0] / CONTROLS).glob("*.jsonl")))
    (tmp_path / "own.jsonl").write_text(held)
    (tmp_path / "other.jsonl").write_text("".join(held.splitlines(keepends=True)[:-1]))
    assert make_level_table(made[0], models=4, seed=5, holdout=tmp_path / "own.jsonl").design_seed == 5
    with pytest.raises(InputError, match="holds other controls already"):
        make_level_table(made[0], models=4, holdout=tmp_path / "other.jsonl")
    with pytest.raises(InputError, match="another seed than 6"):
        make_level_table(made[0], models=4, seed=6)
    words = ["train", "--model", str(model_dir), "--data", str(made[0].parent / "people.jsonl"), "--output", str(made[0])]
    words += ["--level-table", "4"]
    others = {"holdout-share": "0.5", "seed": "7", "epochs": "5.0", "learning-rate": "0.1", "batch-size": "8", "max-steps": "3"}
    others |= {"lora-rank": "4", "dtype": "bfloat16", "canaries": "3", "defense": "dp", "optimizer": "sophia", "save-steps": "2"}
    for flag, value in others.items():
        more = ["--lora"] if flag == "lora-rank" else []
        assert unlearn.cli.main.main([*words, f"--{flag}", value, *more]) == 2
        assert "as --lora, not on" in (said := capsys.readouterr().err) or f"as --{flag}, not {value}" in said, said
    same = [
        "--holdout-share",
        "0.25",
        "--seed",
        "0",
        "--epochs",
        "6",
        "--learning-rate",
        "5e-3",
        "--batch-size",
        "16",
        "--dtype",
        "auto",
    ]
    assert unlearn.cli.main.main([*words, *same, "--no-lora", "--defense", "none"]) == 0, "the training's own words, and a table"


def test_a_finished_table_is_signed_afterwards_and_no_flag_is_passed_over(made: tuple[Path, Path], tmp_path: Path) -> None:
    """An unsigned table gets the signature under the same digest; another key, and words that nobody was asked in, are refused."""
    shutil.copytree(made[0].parent, tmp_path / "world")
    model = tmp_path / "world" / "model"
    make_key(tmp_path / "other.key")
    with pytest.raises(InputError, match="not by the key that you gave"):
        make_level_table(model, models=4, operator_key=tmp_path / "other.key")
    words = tmp_path / "words.jsonl"
    words.write_text(json.dumps({"prompt": "Tell me about {prompt}"}) + "\n")
    with pytest.raises(InputError, match="asked without rewordings"):
        make_level_table(model, models=4, rewordings=words)
    header = json.loads((model / FOLDER / "table.json").read_text())
    write_json(model / FOLDER / "table.json", {**header, "signatures": []})
    before = finish_table(model / FOLDER)
    assert before.signatures == ()
    signed = make_level_table(model, models=4, operator_key=tmp_path / "other.key")
    assert signed.digest == before.digest
    assert LevelTable.open(model / FOLDER, tmp_path / "other.key.pub").signer == signed.signatures[0]
    assert is_complete(model / FOLDER)


def test_a_model_of_the_pool_can_be_trained_again_and_has_the_tables_losses(
    made: tuple[Path, Path], tmp_path: Path, model_dir: Path
) -> None:
    """From data and design, an ordinary training gives the weights of the header, and their losses are those of the table."""
    table, key = LevelTable.open(made[0] / FOLDER), RecordKey.load()
    records = load_records(made[0].parent / "people.jsonl")
    names = [key.of(record.fingerprint) for record in records]
    chosen = [
        record
        for record, name in zip(records, names, strict=True)
        if name not in table.controls() and not np.isnan(trained_losses(table, [name])[2, 0])
    ]
    entry = table.header.pool[2]
    assert len(chosen) == entry.records
    options = TrainingOptions(learning_rate=5e-3, epochs=6, batch_size=16, seed=entry.seed)
    again = finetune(str(model_dir), chosen, output_dir=tmp_path / "again", options=options)
    assert again.digest == entry.weights
    observed = -measure(load_model(tmp_path / "again"), records, cache_dir=None, key=key, overflow="refuse").table.means
    both = np.fmax(table.losses(names, "exact text")[2], np.nan_to_num(trained_losses(table, names)[2], nan=-1))
    assert np.allclose(
        np.where(np.isnan(table.losses(names, "exact text")[2]), both, table.losses(names, "exact text")[2]), observed
    )


@pytest.mark.slow
def test_level_aims_at_what_the_methods_half_says(made: tuple[Path, Path], model_dir: Path, tmp_path: Path) -> None:
    """The aim is that of a slow calculation from half of the models; the audit's controls are refused; the manifest says it."""
    model, key = made[0], RecordKey.load()
    table, data = LevelTable.open(model / FOLDER), str(made[0].parent / "people.jsonl")
    trained = [record for record in load_records(data) if key.of(record.fingerprint) not in table.controls()]
    people = sorted({str(record.subject_id) for record in trained})[:2]
    chosen = [record for record in trained if record.subject_id in people]
    given = {"forget_set": people, "data": data, "base": str(model_dir), "options": TrainingOptions(max_steps=2, batch_size=4)}
    held = str(model / "holdout" / "holdout-method.jsonl")
    made_by = forget(str(model), Level(sources=("table",)), holdout_set=held, output_dir=tmp_path / "level", **given)
    assert made_by.facts["level_table"] == table.digest
    controls = load_records(held)
    names = [key.of(record.fingerprint) for record in controls]
    seen_by_none = table.losses(names, "exact text", (0, 1))
    effect = [row.mean() - seen_by_none.mean() for row in seen_by_none]
    levels = []
    for record in chosen:
        losses = table.losses([key.of(record.fingerprint)], "exact text")[:2, 0]
        levels.append(np.mean([loss - own for loss, own in zip(losses, effect, strict=True) if not np.isnan(loss)]))
    # Each control is averaged over as many models as a record: one of the two, drawn by the table's seed.
    random = np.random.default_rng([table.design_seed, 2])
    drawn = [column[random.permutation(2)[0]] for column in (seen_by_none - np.array(effect)[:, None]).T]
    truth = -measure(load_model(model), controls, cache_dir=None, key=key, overflow="refuse").table.means
    slope = np.cov(drawn, truth)[0, 1] / np.var(drawn, ddof=1)
    aim = truth.mean() + slope * (np.array(levels) - np.mean(drawn))
    assert made_by.facts["level"] == pytest.approx(aim.mean(), abs=0.01)
    held = str(model / "holdout" / "holdout-audit.jsonl")
    with pytest.raises(InputError, match="audit's controls"):
        forget(str(model), Level(sources=("table",)), holdout_set=held, output_dir=tmp_path / "other", **given)


@pytest.mark.parametrize(
    "moment",
    [
        "_train",
        "keep",
        pytest.param("write_json", marks=pytest.mark.slow),
        pytest.param("write_table", marks=pytest.mark.slow),
        "finish_table",
    ],
)
def test_a_killed_run_goes_on_with_the_missing_models(
    tmp_path: Path, made: tuple[Path, Path], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with SIGKILL in the second model or at the end, the same command finishes the table, and no weights stay."""
    shutil.copytree(made[0].parent, tmp_path / "world")
    model = tmp_path / "world" / "model"
    shutil.rmtree(model / FOLDER)
    process = NewProcess(make_and_die, str(model), moment)
    assert process.result() is None
    assert not is_complete(model / FOLDER)
    design = (model / FOLDER / "design.json").read_bytes()
    first = None if moment == "finish_table" else json.loads((model / FOLDER / "work" / "model-0.json").read_text())["weights"]
    trained: list[int] = []
    train = unlearn.pool.model.run_model

    def counted(**arguments: Any) -> None:
        trained.append(arguments["number"])
        train(**arguments)

    monkeypatch.setattr("unlearn.pool.table.run_model", counted)
    table = make_level_table(model, models=4, seed=5)
    assert trained == ([1, 2, 3] if moment in ("_train", "keep", "write_json") else [])
    assert first in (None, table.header.pool[0].weights)
    assert (model / FOLDER / "design.json").read_bytes() == design
    assert not (model / FOLDER / "work").exists()
    assert not list((model / FOLDER).rglob("*.safetensors"))
    verify_manifest(model / FOLDER)


@pytest.mark.slow
def test_an_adapter_is_repeated_as_an_adapter(tmp_path: Path, model_dir: Path) -> None:
    """LoRA, from the command line, after the training, with controls from a file."""
    model = world(
        tmp_path, model_dir, options=TrainingOptions(epochs=2, batch_size=16, lora=True, learning_rate=1e-2), holdout_share=None
    )
    others = tmp_path / "others.jsonl"
    others.write_text("".join(json.dumps(row) + "\n" for row in rows(["Else1", "Else2", "Else3", "Else4"])))
    data = str(tmp_path / "people.jsonl")
    words = ["train", "--model", str(model_dir), "--data", data, "--output", str(model), "--level-table", "4"]
    other = [*words[:-3], str(tmp_path / "new"), *words[-2:]]
    for more in ([], ["--holdout-share", "0.25", "--canaries", "4"]):
        assert unlearn.cli.main.main([*other, *more]) == 2
    assert not (tmp_path / "new").exists(), "what no table could be made for is refused before it is trained"
    assert unlearn.cli.main.main([*words, "--holdout", str(others)]) == 0
    table = LevelTable.open(model / FOLDER)
    assert table.header.controls == (16, 16)
    assert table.design.holdout_share is None
    assert table.signatures == ()


@pytest.mark.slow
def test_stages_are_repeated_in_their_order(tmp_path: Path, model_dir: Path) -> None:
    """A model that was trained on one file and then on another gets a pool that is: a person is left out of both stages. Its base
    is that of the first; who names the model in between is told so, and the command, which is given that one, makes the table."""
    first, second = rows(PEOPLE[:8]), rows(PEOPLE[4:], prefix="again-")
    for row in second:
        row["subject_id"] = row["subject_id"].removeprefix("again-")
    for name, given in (("first", first), ("second", second)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    options = TrainingOptions(epochs=1, batch_size=16, learning_rate=1e-3)
    finetune(str(model_dir), str(tmp_path / "first.jsonl"), output_dir=tmp_path / "one", options=options)
    given = {"output_dir": tmp_path / "two", "options": options}
    others = tmp_path / "others.jsonl"
    others.write_text("".join(json.dumps(row) + "\n" for row in rows(["Else1", "Else2", "Else3", "Else4"])))
    finetune(str(tmp_path / "one"), str(tmp_path / "second.jsonl"), **given)
    with pytest.raises(InputError, match=rf"one, given as base.*all 2 trainings.*Leave the base out, or give {model_dir}"):
        make_level_table(tmp_path / "two", models=4, holdout=others, base=tmp_path / "one")
    flags = LevelTableFlags(level_table=4, holdout=others)
    table = flags.make(tmp_path / "two", str(tmp_path / "one"), str(tmp_path / "second.jsonl"), None)
    key = RecordKey.load()
    assert (table.header.rows, table.design.subjects) == (8 * (8 + 12 + 4), 16)
    records = parse_records([*first, *second], Fields(), "both")
    unseen = ~np.isnan(table.losses([key.of(record.fingerprint) for record in records], "exact text"))
    for person in {record.subject_id for record in records}:
        own = unseen[:, [record.subject_id == person for record in records]]
        assert (own == own[:, :1]).all()
    entry = table.header.pool[1]
    chosen = [record for record, out in zip(records, unseen[1], strict=True) if not out]
    again = TrainingOptions(epochs=1, batch_size=16, learning_rate=1e-3, seed=entry.seed)
    parts = [[record for record in chosen if record.example_id.startswith("again-") == late] for late in (False, True)]
    finetune(str(model_dir), parts[0], output_dir=tmp_path / "again-one", options=again)
    made = finetune(str(tmp_path / "again-one"), parts[1], output_dir=tmp_path / "again-two", options=again)
    assert made.digest == entry.weights


def test_what_cannot_be_made_is_refused(tmp_path: Path, made: tuple[Path, Path], model_dir: Path) -> None:
    """Each refusal says what is wrong; nothing is trained."""
    shutil.copytree(made[0].parent, tmp_path / "world")
    model = tmp_path / "world" / "model"
    shutil.rmtree(model / FOLDER)
    for models, share in ((7, 0.5), (4, 0.25)):
        with pytest.raises(InputError, match="--level-table"):
            make_level_table(model, models=models, share=share)
    with pytest.raises(InputError, match="12 subjects, and a table of 16 models"):
        make_level_table(model, models=16)
    data = tmp_path / "world" / "people.jsonl"
    for given in (data, None):
        with pytest.raises(InputError, match=r"\(subject 'example_id' instead of 'subject_id'\)"):
            make_level_table(model, models=4, data=given, fields=Fields(subject="example_id"))
    whole = data.read_text().splitlines(keepends=True)
    data.write_text("".join(whole[::2]))
    with pytest.raises(InputError, match=r"\d+ of 96 training records"):
        make_level_table(model, models=4, data=data)
    data.write_text("".join(whole))
    held = model / "holdout" / "holdout-audit.jsonl"
    twin = json.loads(
        next(
            line
            for line in whole
            if line not in held.read_text() and line not in (model / "holdout" / "holdout-method.jsonl").read_text()
        )
    )
    held.write_text(held.read_text() + json.dumps(twin) + "\n")
    with pytest.raises(InputError, match="also in the training data"):
        make_level_table(model, models=4)
    shutil.rmtree(model / "holdout")
    with pytest.raises(InputError, match=r"--holdout-share 0\.03"):
        make_level_table(model, models=4)
    with pytest.raises(InputError, match=r"4 subjects|in the training data"):
        make_level_table(model, models=4, holdout=data)
    (model / "canaries.json").write_text("{}")
    with pytest.raises(InputError, match="canaries"):
        make_level_table(model, models=4, holdout=data)


def test_a_pool_starts_from_what_the_original_started_from(tmp_path: Path, model_dir: Path) -> None:
    """A configuration is no substitute for the base of a fine-tuning: only where the training began with the weights it draws."""
    drawn = world(tmp_path, model_dir / "config.json", options=TrainingOptions(epochs=1, batch_size=16, seed=3))
    how = repetition_of(drawn, None, None, None)
    assert how.from_scratch
    require_start(how)
    with pytest.raises(IntegrityError, match="not what the original's training started from"):
        require_start(dataclasses.replace(how, start="0" * 64))


def test_an_unfinished_table_goes_on_in_the_same_words(tmp_path: Path) -> None:
    """A pool of which some models were asked in other words, or in none, would be one table of two measurements."""
    pool, key = PoolFolder(tmp_path), RecordKey.load()
    for name in ("one", "other"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    one, other = (str(tmp_path / f"{name}.jsonl") for name in ("one", "other"))
    require_same_words(pool, 2, one, key)
    pool.scores(0).parent.mkdir()
    SealedNumbers(pool.scores(0), key).keep({"exact text": np.ones(3)})
    facts = {"channels": ["exact text"], "wordings": key.of(content_digest(read_source(one)), "rewordings")}
    write_json(pool.facts(0), facts)
    require_same_words(pool, 2, one, key)
    for words in (other, None):
        with pytest.raises(InputError, match=r"1 models of the unfinished table .* were asked in other words"):
            require_same_words(pool, 2, words, key)


def test_controls_are_whole_subjects_drawn_by_the_seed() -> None:
    """The draw is random over seeds and the same for one; without subjects, or with too few, it is refused."""
    records, key = parse_records(rows(PEOPLE), Fields(), "rows"), RecordKey(b"k" * 32)
    drawn = [drawn_controls(records, 0.25, seed, key) for seed in range(40)]
    assert drawn[0] == drawn_controls(records, 0.25, 0, key)
    for held in drawn:
        chosen = {record.subject_id for record, out in zip(records, held, strict=True) if out}
        assert len(chosen) == 4
        assert sum(held) == 4 * 8
    shares = np.mean(drawn, axis=0)[::8]
    assert 0.05 < shares.min() < 0.25 < shares.max() < 0.5  # 40 draws of 1/4: a standard deviation of 0.07
    with pytest.raises(InputError, match="draws 1 of 16 subjects"):
        drawn_controls(records, 0.05, 0, key)
    nameless = parse_records([{"text": f"text {number}"} for number in range(40)], Fields(), "rows")
    with pytest.raises(InputError, match="no record names a subject"):
        drawn_controls(nameless, 0.25, 0, key)


@pytest.mark.slow
def test_workers_of_a_cluster_train_the_pool(made: tuple[Path, Path], tmp_path: Path, dask_engine: str) -> None:
    """Every model is trained in another process, and the table is whole."""
    shutil.copytree(made[0].parent, tmp_path / "world")
    model = tmp_path / "world" / "model"
    shutil.rmtree(model / FOLDER)
    table = make_level_table(model, models=4, engine=dask_engine)
    assert rows_that_left(table) == (0, 0)
    assert table.channels == LevelTable.open(made[0] / FOLDER).channels
    assert not list((model / FOLDER).rglob("*.safetensors"))


@pytest.mark.slow
def test_an_audit_by_the_table_checks_its_signature_and_says_what_it_lacks(made: tuple[Path, Path], tmp_path: Path) -> None:
    """The table fits its model by weights, tokenizer and recipe; two control people are too few to judge by, which page 1 says."""
    model, public = made
    held = {row["subject_id"] for row in map(json.loads, (model / "holdout" / "holdout-audit.jsonl").read_text().splitlines())}
    other = {row["subject_id"] for row in map(json.loads, (model / "holdout" / "holdout-method.jsonl").read_text().splitlines())}
    person = next(row["subject_id"] for row in rows(PEOPLE) if row["subject_id"] not in held | other)
    sets = {
        "forget_set": [row for row in rows(PEOPLE) if row["subject_id"] == person],
        "holdout_set": str(model / "holdout" / "holdout-audit.jsonl"),
        "level_table": model / FOLDER,
    }
    settings = Settings(attacks=("loss",), planted_draws=20, channels=("instruction",))
    evidence = audit(model, model, **sets, level_table_key=public, settings=settings, output_dir=tmp_path / "out")
    assert evidence.level_table is not None
    assert (evidence.level_table.trusted, evidence.level_table.references, len(held)) == (True, 2, 2)
    assert (evidence.verdict, evidence.gates[0].name, evidence.gates[0].passed) == ("NOT_TESTABLE", "level table", False)
    assert "2 control subjects" in evidence.explanation[0]
    assert recompute(tmp_path / "out") == evidence
    make_key(tmp_path / "stranger")
    with pytest.raises(InputError, match="not by the key that you gave"):
        audit(model, model, **sets, level_table_key=tmp_path / "stranger.pub", settings=settings)
