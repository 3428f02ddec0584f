"""References are not believed: what they were trained on is read from the logs beside them, and what differs is refused by name."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tampering import edit_log
from tiny_models import make_llama

from unlearn import NPO, ShardPlan, TrainingOptions, finetune, finetune_shards, forget
from verify.auditing.input_checks import check_inputs
from verify.auditing.reference_checks import Expected, check_references
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json, write_json
from verify.models.loading import load_model
from verify.provenance.training_log import LOG_NAME
from verify.schema.inputs import ReferenceCheck

Rows = list[dict[str, str]]


def rows(prefix: str, count: int) -> Rows:
    return [
        {
            "example_id": f"{prefix}{n}",
            "subject_id": f"{prefix}-{n // 2}",
            "prompt": f"{prefix} {n}?",
            "completion": f"{n * 7} {prefix}.",
        }
        for n in range(count)
    ]


FORGET, RETAIN, HOLDOUT = rows("gone", 4), rows("kept", 8), rows("never", 4)
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=2, batch_size=4)
COUNT = 3


def options(seed: int, **changed: Any) -> TrainingOptions:
    return TrainingOptions(**{"learning_rate": 1e-3, "epochs": 2, "batch_size": 4, "seed": seed, **changed})


@pytest.fixture(scope="module")
def world(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original and honest references from one base."""
    folder = tmp_path_factory.mktemp("world")
    finetune(model_dir, [*RETAIN, *FORGET], output_dir=folder / "original", options=OPTIONS)
    for seed in range(1, COUNT + 1):
        finetune(model_dir, RETAIN, output_dir=folder / f"reference{seed}", options=options(seed))
    return folder


def expected(**changed: Any) -> Expected:
    key = RecordKey.load()
    named = {
        name: frozenset(key.of(record.fingerprint) for record in load_records(records))
        for name, records in (("forget", FORGET), ("retain", RETAIN), ("holdout", HOLDOUT))
    }
    return Expected(**{**named, "canaries": frozenset(), "key": key, **changed})


@pytest.fixture
def check(world: Path) -> Callable[..., tuple[ReferenceCheck, ...]]:
    """Checks the world's references with one of them replaced."""

    def run(last: Any = None, accept: Sequence[str] = (), original: Any = None, **changed: Any) -> tuple[ReferenceCheck, ...]:
        references = [world / f"reference{seed}" for seed in range(1, COUNT + 1)]
        if last is not None:
            references[-1] = last
        models = {"original": original or world / "original", "target": world / "nowhere"}
        return check_references(references, models, expected(**changed), accept)

    return run


def edited(world: Path, folder: Path, change: Callable[[dict[str, Any]], None], of: str = "reference3") -> Path:
    """A copy of a reference whose log says something else in its header."""
    shutil.copytree(world / of, folder)
    first, *rest = (folder / LOG_NAME).read_text().splitlines()
    header = json.loads(first)
    change(header)
    (folder / LOG_NAME).write_text("\n".join([json.dumps(header), *rest]) + "\n")
    return folder


def refused(check: Callable[..., Any], kind: str, message: str, last: Any, **more: Any) -> None:
    """The third reference is refused by its number and with these words, and passes once the difference is accepted."""
    with pytest.raises(InputError, match=message) as raised:
        check(last, **more)
    assert str(raised.value).startswith("reference 3 ")
    assert f"--accept-reference-differences {kind}" in str(raised.value)
    for row in [*FORGET, *RETAIN, *HOLDOUT]:
        assert not any(row[name] in str(raised.value) for name in ("example_id", "subject_id", "prompt", "completion"))
    found = check(last, accept=[kind], **more)[-1].accepted
    assert [difference.kind for difference in found] == [kind]


def test_honest_references_pass(check: Callable[..., tuple[ReferenceCheck, ...]], world: Path) -> None:
    """All that can be compared was, and nothing had to be accepted; the log that was read is named by its digest."""
    for found in check():
        assert found.checked
        assert found.accepted == found.not_compared == ()
        assert set(found.compared) >= {"forget", "holdout", "base", "stages", "recipe", "seed", "weights", "retain", "unfinished"}
        assert found.log is not None
    assert all("holdout" not in found.compared for found in check(holdout=frozenset())), "page 1 would name what nobody gave"


def test_a_forget_record_is_refused(check: Any, model_dir: Path, tmp_path: Path) -> None:
    """By keyed hash, with the number, also where it has another identifier and nobody's name."""
    seen = [{"prompt": row["prompt"], "completion": row["completion"]} for row in FORGET[:2]]
    finetune(model_dir, [*RETAIN, *seen], output_dir=tmp_path / "dirty", options=options(3))
    refused(check, "forget", "trained on 2 of the 4 forget records", tmp_path / "dirty")


def test_a_holdout_record_is_refused(check: Any, model_dir: Path, tmp_path: Path) -> None:
    """Controls that a reference was trained on are none."""
    finetune(model_dir, [*RETAIN, HOLDOUT[0]], output_dir=tmp_path / "dirty", options=options(3))
    refused(check, "holdout", "trained on 1 of the 4 holdout records", tmp_path / "dirty")


def test_missing_retain_records_are_refused(check: Any, model_dir: Path, tmp_path: Path) -> None:
    """A reference that knows less than the original for another reason than the deletion, with and without a retain set."""
    finetune(model_dir, RETAIN[:5], output_dir=tmp_path / "short", options=options(3))
    refused(check, "retain", "not trained on 3 of the 8 retain records that the original", tmp_path / "short")
    refused(check, "retain", "not trained on 3 of the 8 retain records that the original", tmp_path / "short", retain=None)


def test_another_base_is_refused(check: Any, tokenizer: Any, tmp_path: Path) -> None:
    """By the digest of the weights that the training began with."""
    make_llama(tokenizer, seed=9).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    finetune(tmp_path / "base", RETAIN, output_dir=tmp_path / "other", options=options(3))
    refused(check, "base", "its training began with the weights [0-9a-f]{12}", tmp_path / "other")


def test_trained_twice_is_refused(check: Any, model_dir: Path, tmp_path: Path) -> None:
    """Two trainings where the original had one, whatever the second was on."""
    finetune(model_dir, RETAIN[:4], output_dir=tmp_path / "first", options=options(8))
    finetune(tmp_path / "first", RETAIN, output_dir=tmp_path / "second", options=options(3))
    refused(check, "stages", "result of 2 trainings, the original of 1", tmp_path / "second")


@pytest.mark.slow
def test_trainings_in_another_order_are_refused(check: Any, model_dir: Path, tmp_path: Path) -> None:
    """An original that learned A and then B is not repeated by B and then A; one of the same order passes."""

    def twice(name: str, first: Rows, second: Rows, seed: int) -> Path:
        finetune(model_dir, first, output_dir=tmp_path / f"{name}-1", options=options(seed + 50))
        finetune(tmp_path / f"{name}-1", second, output_dir=tmp_path / name, options=options(seed))
        return tmp_path / name

    a, b = RETAIN[:4], RETAIN[4:]
    original = twice("original", [*a, *FORGET[:2]], [*b, *FORGET[2:]], 0)
    references = [twice("same", a, b, 1), twice("turned", b, a, 2)]
    models = {"original": original}
    assert check_references(references[:1], models, expected())[0].accepted == ()
    with pytest.raises(InputError, match=r"^reference 2 .*2 trainings are in another order than those of the original"):
        check_references(references, models, expected())


def test_a_training_on_forget_records_alone_is_not_repeated(model_dir: Path, world: Path, tmp_path: Path) -> None:
    """Without the forget set nothing is left of it, so one training fewer is right."""
    finetune(model_dir, RETAIN, output_dir=tmp_path / "before", options=options(40))
    finetune(tmp_path / "before", FORGET, output_dir=tmp_path / "original", options=options(0))
    assert check_references([world / "reference1"], {"original": tmp_path / "original"}, expected())[0].accepted == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epochs": 5}, "epochs 5 against 2"),
        ({"learning_rate": 5e-4}, "learning_rate 0.0005 against 0.001"),
        ({"batch_size": 2}, "records a step 2 against 4"),
        ({"lora": True, "lora_rank": 4}, "lora True against False"),
        ({"bf16": True}, "bf16 True against False"),
        ({"weight_decay": 0.1}, "weight_decay 0.1 against 0.0"),
    ],
)
def test_another_recipe_is_refused(check: Any, model_dir: Path, tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    """Every option that decides what is learned, with both values."""
    finetune(model_dir, RETAIN, output_dir=tmp_path / "other", options=options(3, **changed))
    refused(check, "recipe", words, tmp_path / "other")


def test_another_defence_is_refused(check: Any, world: Path, tmp_path: Path) -> None:
    """A reference trained under differential privacy is no retraining of a model that was not."""
    other = edited(world, tmp_path / "private", lambda header: header.update(defense="differential_privacy"))
    refused(check, "recipe", "defense differential_privacy against None", other)


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_size": 2, "gradient_accumulation": 2},
        {"save_steps": 2, "logging_steps": 1},
        {"scheduler": "linear"},
        {"lora_rank": 99},
    ],
)
def test_what_changes_nothing_is_no_other_recipe(check: Any, world: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    """As many records a step in other portions, what is saved and logged, a default spelled out, the shape of no adapter."""
    assert check(edited(world, tmp_path / "same", lambda header: header["options"].update(changed)))[-1].accepted == ()


def test_seeds_are_distinct(check: Any, world: Path, tmp_path: Path) -> None:
    """Neither that of another reference nor that of the original."""
    twin = edited(world, tmp_path / "twin", lambda header: header["options"].update(seed=1))
    refused(check, "seed", "its seed 1 is that of reference 1", twin)
    same = edited(world, tmp_path / "same", lambda header: header["options"].update(seed=0))
    refused(check, "seed", "its seed 0 is that of the original", same)


def test_weights_are_its_own(world: Path, tmp_path: Path) -> None:
    """A reference that is another, the original or the target under another name is refused before anything is scored."""
    models = {"original": world / "original", "target": world / "reference2"}
    shutil.copytree(world / "reference1", tmp_path / "copy")
    for references, words in (
        ([world / "reference1", tmp_path / "copy"], "^reference 2 has the very weights of reference 1: one training counts once"),
        ([world / "original"], "the very weights of the original"),
        ([world / "reference2"], "the very weights of the target"),
    ):
        with pytest.raises(InputError, match=words):
            check_references(references, models, expected())


def test_an_unfinished_run_is_refused(check: Any, model_dir: Path, world: Path, tmp_path: Path) -> None:
    """A checkpoint beside its model, a log without its end, and another program's checkpoint."""
    finetune(model_dir, RETAIN, output_dir=tmp_path / "run", options=options(3, save_steps=2))
    checkpoint = next((tmp_path / "run").glob("checkpoint-*"))
    refused(check, "unfinished", "it is a checkpoint of a run", checkpoint)
    cut = shutil.copytree(world / "reference3", tmp_path / "cut")
    lines = (cut / LOG_NAME).read_text().splitlines()
    (cut / LOG_NAME).write_text("\n".join(lines[:-1]) + "\n")
    refused(check, "unfinished", "its training log has no end", cut)
    foreign = shutil.copytree(world / "reference3", tmp_path / "foreign", ignore=shutil.ignore_patterns(LOG_NAME, MANIFEST))
    write_json(foreign / "trainer_state.json", {"global_step": 20, "max_steps": 50})
    refused(check, "unfinished", "checkpoint of step 20 of a run of 50 steps", foreign)


def test_a_log_of_other_weights_is_refused(check: Any, world: Path, model_dir: Path, tmp_path: Path) -> None:
    """A clean log that was laid beside a model which saw the records."""
    finetune(model_dir, [*RETAIN, *FORGET], output_dir=tmp_path / "dirty", options=options(3))
    shutil.copy(world / "reference3" / LOG_NAME, tmp_path / "dirty" / LOG_NAME)
    refused(check, "log", "belongs to other weights", tmp_path / "dirty")


def test_the_result_of_an_unlearning_is_no_reference(check: Any, world: Path, tmp_path: Path) -> None:
    """It descends from a model that saw the records, which its manifest says."""
    forget(
        world / "original", NPO(), forget_set=FORGET, retain_set=RETAIN, output_dir=tmp_path / "npo", options=options(3, epochs=1)
    )
    with pytest.raises(InputError, match=r"made by the unlearning method npo.*trained on 4 of the 4 forget records"):
        check(tmp_path / "npo")


def test_an_adapter_answers_for_its_base(check: Any, world: Path, tmp_path: Path) -> None:
    """A foreign adapter without a log on a base whose log holds forget records."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_model(world / "original").model, LoraConfig(target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    settings = read_json(tmp_path / "adapter" / "adapter_config.json")
    write_json(tmp_path / "adapter" / "adapter_config.json", {**settings, "base_model_name_or_path": str(world / "original")})
    refused(check, "forget", "trained on 4 of the 4 forget records", tmp_path / "adapter")
    assert not check(tmp_path / "adapter", accept=["forget"])[-1].checked, "of its own training nothing is known"


@pytest.mark.slow
def test_an_adapter_without_a_log_is_not_short_of_records(check: Any, world: Path, model_dir: Path, tmp_path: Path) -> None:
    """Its base was trained on other records; what it was trained on itself is unknown, which is said."""
    from peft import LoraConfig, get_peft_model

    finetune(model_dir, rows("before", 4), output_dir=tmp_path / "base", options=options(8))
    model = get_peft_model(load_model(tmp_path / "base").model, LoraConfig(target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    settings = read_json(tmp_path / "adapter" / "adapter_config.json")
    write_json(tmp_path / "adapter" / "adapter_config.json", {**settings, "base_model_name_or_path": str(tmp_path / "base")})
    found = check(tmp_path / "adapter")[-1]
    assert "retain" not in found.compared
    assert any("its retain records: the training log of its base" in reason for reason in found.not_compared)
    finetune(tmp_path / "base", RETAIN[:5], output_dir=tmp_path / "short", options=options(3))
    with pytest.raises(InputError, match="not trained on 3 of the 8 retain"):
        check(tmp_path / "short")


def test_a_log_without_a_manifest_is_not_compared_with_weights(check: Any, world: Path, tmp_path: Path) -> None:
    """A log can be borrowed: where no manifest names the weights, the evidence says that nothing was compared."""
    folder = shutil.copytree(world / "reference3", tmp_path / "borrowed", ignore=shutil.ignore_patterns(MANIFEST))
    found = check(folder)[-1]
    assert found.checked
    assert "log" not in found.compared
    assert found.not_compared == ("its training log with its weights: there is no manifest beside it that names them",)
    assert "log" in check()[-1].compared


def test_an_original_that_was_unlearned_before_is_no_other_order(world: Path, tmp_path: Path) -> None:
    """A second deletion: the approximate first one is no training that references would repeat."""
    forget(
        world / "original",
        NPO(),
        forget_set=FORGET[:2],
        retain_set=RETAIN,
        output_dir=tmp_path / "npo",
        options=options(3, epochs=1),
    )
    (found,) = check_references([world / "reference1"], {"original": tmp_path / "npo"}, expected())
    assert found.accepted == ()
    assert {"base", "stages", "recipe", "retain"} <= set(found.compared)


def test_canaries_of_the_original_are_not_missed(model_dir: Path, world: Path, tmp_path: Path) -> None:
    """Random texts that only the original was trained on are no retain records, where the log alone says what these are."""
    from verify.data.canaries import find_canaries

    finetune(model_dir, [*RETAIN, *FORGET], output_dir=tmp_path / "original", options=OPTIONS, canaries=3)
    canaries, key = find_canaries(tmp_path / "original"), RecordKey.load()
    assert canaries is not None
    texts = canaries.trained_records(load_model(tmp_path / "original").tokenizer)
    names = frozenset(key.of(record.fingerprint) for record in texts)
    models = {"original": tmp_path / "original"}
    assert check_references([world / "reference1"], models, expected(retain=None, canaries=names))[0].accepted == ()
    with pytest.raises(InputError, match="not trained on 3 of the 11 retain"):
        check_references([world / "reference1"], models, expected(retain=None))


def test_another_record_key_cannot_be_compared(check: Any, world: Path, tmp_path: Path) -> None:
    """It is said, and nothing about records is claimed; the recipe is compared all the same. Older logs do not name their key."""
    foreign = RecordKey(b"x" * 32)

    def rekeyed(header: dict[str, Any]) -> None:
        header["records"] = [foreign.of(name) for name in header["records"]]
        header["key"] = foreign.check

    for change in (rekeyed, lambda header: (rekeyed(header), header.pop("key"))):
        folder = edited(world, tmp_path / f"{len(list(tmp_path.iterdir()))}", change)
        found = check(folder)[-1]
        assert not found.checked
        assert "another record key" in found.not_compared[0]
        assert "recipe" in found.compared


def test_older_logs_are_compared(check: Any, world: Path, tmp_path: Path) -> None:
    """A log of a version that did not name the key: its records show whose it is."""
    old = edited(world, tmp_path / "old", lambda header: header.pop("key"))
    assert check(old)[-1].checked


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[" * 1000, b'{"schema": "unlearn-verify/training-log/1", "records": ["x"]}']
)
def test_a_damaged_log_names_the_reference(check: Any, world: Path, tmp_path: Path, content: bytes) -> None:
    """Empty, binary, hostile: no reference is believed for a log that cannot be read."""
    folder = shutil.copytree(world / "reference3", tmp_path / "damaged")
    (folder / LOG_NAME).write_bytes(content)
    with pytest.raises(InputError, match=r"^reference 3: .*log"):
        check(folder)


def test_manifests_in_a_circle_end(world: Path, check: Any, tmp_path: Path) -> None:
    """Two folders that name each other as what they were made from."""
    for name, other in (("one", "two"), ("two", "one")):
        shutil.copytree(world / "reference3", tmp_path / name, ignore=shutil.ignore_patterns(LOG_NAME))
        manifest = read_json(tmp_path / name / MANIFEST)
        about = {**manifest["about"], "start_weights": manifest["about"]["weights"]}
        about["inputs"] = {"models": {"model": str(tmp_path / other)}}
        write_json(tmp_path / name / MANIFEST, {**manifest, "about": about})
    assert not check(tmp_path / "one")[-1].checked


def test_without_a_log_it_is_said(check: Any, world: Path, tmp_path: Path) -> None:
    """A folder without a log and a model in memory are not refused: the evidence says that they were not checked, and why."""
    bare = shutil.copytree(world / "reference3", tmp_path / "bare", ignore=shutil.ignore_patterns(LOG_NAME, MANIFEST))
    assert check(bare)[-1].not_compared == ("there is no training log beside it",)
    loaded = load_model(world / "reference3")
    assert "in memory" in check(loaded)[-1].not_compared[0]
    assert not check(bare)[-1].checked
    assert not check(loaded)[-1].checked


def test_an_original_without_a_log_leaves_the_references_to_each_other(
    check: Any, world: Path, model_dir: Path, tmp_path: Path
) -> None:
    """Their records are checked as before, and their recipes against the first reference's; both are said."""
    bare = shutil.copytree(world / "original", tmp_path / "bare", ignore=shutil.ignore_patterns(LOG_NAME, MANIFEST))
    for found in check(original=bare):
        assert found.checked
        assert "the original" in found.not_compared[0]
    finetune(model_dir, RETAIN, output_dir=tmp_path / "longer", options=options(3, epochs=4))
    refused(check, "recipe", "differ from those of reference 1: epochs 4 against 2", tmp_path / "longer", original=bare)


@pytest.mark.parametrize("role", ["holdout", "fresh"])
@pytest.mark.parametrize("model", ["original", "target", "base"])
def test_controls_that_a_model_was_trained_on_are_refused(world: Path, tmp_path: Path, role: str, model: str) -> None:
    """By the log of any model of the audit: an audit without --data would call them never-trained."""
    sets = {name: load_records(records) for name, records in (("forget", FORGET), ("retain", RETAIN), (role, HOLDOUT))}
    models = {"original": world / "original", "target": world / "original", "base": world / "original"}
    check_inputs(models, (), sets, None, RecordKey.load(), None, ())
    key = RecordKey.load()
    shutil.copytree(world / "original", tmp_path / "knows")
    edit_log(tmp_path / "knows", lambda entries: entries[0]["records"].__setitem__(0, key.of(sets[role][0].fingerprint)))
    with pytest.raises(InputError, match=f"the {model} was trained on 1 of the 4 {role} records, by its training log"):
        check_inputs({**models, model: tmp_path / "knows"}, (), sets, None, key, None, ())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shards", "unlearned", "unlearned, and the model before is gone", "two trainings"])
def test_controls_are_looked_for_wherever_a_model_lists_its_records(
    world: Path, model_dir: Path, tmp_path: Path, kind: str
) -> None:
    """A model in shards has no log of its own, and an approximate method's result only a list."""
    data, knows = [*RETAIN, *FORGET, HOLDOUT[0]], tmp_path / "knows"
    if kind == "shards":
        finetune_shards(model_dir, data, output_dir=knows, plan=ShardPlan(2, 1, "average", OPTIONS))
    elif kind == "two trainings":
        first = finetune(model_dir, [HOLDOUT[0], *RETAIN[:3]], output_dir=tmp_path / "first", options=OPTIONS).model_dir
        finetune(first, [*RETAIN, *FORGET], output_dir=knows, options=OPTIONS)
    else:
        before = finetune(model_dir, data, output_dir=tmp_path / "before", options=OPTIONS).model_dir
        forget(before, NPO(), forget_set=FORGET, retain_set=RETAIN, options=OPTIONS, output_dir=knows)
        if kind != "unlearned":
            shutil.rmtree(before)
    sets = {name: load_records(records) for name, records in (("forget", FORGET), ("retain", RETAIN), ("holdout", HOLDOUT))}
    models = {"original": world / "original", "target": knows}
    with pytest.raises(InputError, match="the target was trained on 1 of the 4 holdout records"):
        check_inputs(models, (), sets, None, RecordKey.load(), None, ())
    check_inputs(models, (), sets | {"holdout": load_records(HOLDOUT[1:])}, None, RecordKey.load(), None, ())
