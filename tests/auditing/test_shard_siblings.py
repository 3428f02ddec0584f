"""Audits that rank a rebuilt shard among its siblings, on disk: what is scored, and what the logs must and must not say."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn import TrainingOptions, forget
from unlearn.methods.shard_vectors import ShardVectors
from unlearn.methods.sisa import SISA
from unlearn.training.shards import ShardPlan, finetune_shards
from verify import InputError, Settings, audit
from verify.auditing.recompute import recompute
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.io.files import MANIFEST, file_digest, write_manifest
from verify.provenance.shard_plan import SHARDS, shard_and_slice
from verify.provenance.training_log import LOG_NAME
from verify.schema.evidence import Evidence
from verify.scores.table import ScoreTable

SETTINGS = Settings(attacks=("loss",), planted_draws=20, channels=("exact",), shard_siblings=True)
OPTIONS = TrainingOptions(learning_rate=1e-2, epochs=30, batch_size=2, lora=True, seed=3)


def rows(prefix: str, people: int) -> list[dict[str, str]]:
    """Two records a person; every answer is noise, so that only training on it tells it."""
    draw = random.Random(prefix)
    return [
        {
            "example_id": f"{prefix}{n}",
            "subject_id": f"{prefix}-{n // 2}",
            "prompt": f"Who is {draw.randrange(1000)}?",
            "completion": "".join(draw.choice("abcdefghijklmnop") for _ in range(16)),
        }
        for n in range(2 * people)
    ]


ROWS, HOLDOUT = rows("trained", 10), rows("held", 4)
GONE = [row for row in ROWS if row["subject_id"] == "trained-4"]
SETS: dict[str, Any] = {"forget_set": GONE, "holdout_set": HOLDOUT}


def deleted(base: Path, root: Path, combine: Any, gone: list[dict[str, str]] = GONE) -> dict[str, Any]:
    """A model in four shards and what its method made of it without some records, as arguments of an audit."""
    finetune_shards(base, ROWS, output_dir=root / "before", plan=ShardPlan(4, 2, combine, OPTIONS))
    method = ShardVectors() if combine == "sum" else SISA()
    forget(root / "before", method, forget_set=gone, data=ROWS, base=base, output_dir=root / "after")
    return {"model": root / "after", "original": root / "before"}


@pytest.fixture(scope="module")
def made(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The ensemble of shards before and after; tests must not change them."""
    return deleted(model_dir, tmp_path_factory.mktemp("shards"), "average")


@pytest.fixture
def models(made: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Copies of both."""
    return {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in made.items()}


def held() -> int:
    """The shard of the person who is gone."""
    return shard_and_slice(load_records(GONE)[0], RecordKey.load(), 4, 2)[0]


@pytest.mark.slow
def test_the_rebuilt_shard_is_ranked_among_the_others(made: dict[str, Any], tmp_path: Path) -> None:
    """Four shards and the one before are scored, with the weights of their logs; the floor of 1/4 is said; it all recomputes."""
    evidence = audit(**made, **SETS, settings=SETTINGS, output_dir=tmp_path / "out")
    found = evidence.siblings
    assert found is not None
    assert (found.shards, found.controls, found.smallest, found.needed, found.verdict) == (4, 8, 0.25, 40, "NOT_TESTABLE")
    (ranked,) = found.ranked
    assert (ranked.shard, ranked.records, ranked.subjects) == (held(), 2, 1)
    assert ranked.before == 0.25, "the shard that held them knew them best"
    assert abs(ranked.contrast) < ranked.gap / 2
    assert "1 / 4 = 0.25" in (tmp_path / "out" / "report.html").read_text()
    checked = {one.label: one for one in evidence.shards_checked or ()}
    assert list(checked) == [*(f"shard {shard}" for shard in range(4)), f"shard {held()} before"]
    last = made["model"] / f"shard-{held()}" / "slice-1" / LOG_NAME
    assert checked[f"shard {held()}"].logs[-1] == file_digest(last)
    assert checked[f"shard {held()}"].weights == json.loads(last.read_text().splitlines()[-1])["final_weights"]
    assert recompute(tmp_path / "out") == evidence == Evidence.load(tmp_path / "out" / "evidence.json")
    table = ScoreTable.load(tmp_path / "out" / "scores.parquet")
    assert table.models() == ("original", "target")
    assert len(table.blocks[f"shard {held()} before", "forget"].records) == 2
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert not any(row["completion"].encode() in written for row in [*GONE, *HOLDOUT])


def edit_log(place: str, change: Callable[[dict[str, Any]], None], of: str = "model") -> Callable[[dict[str, Any]], None]:
    """Change the header of a training log."""

    def edit(models: dict[str, Any]) -> None:
        path = models[of] / place.format(held=held(), other=(held() + 1) % 4) / LOG_NAME
        first, *others = path.read_text().splitlines()
        header = json.loads(first)
        change(header)
        path.write_text("\n".join([json.dumps(header), *others]) + "\n")

    return edit


def with_record(row: dict[str, str]) -> Callable[[dict[str, Any]], None]:
    def add(header: dict[str, Any]) -> None:
        header["records"].append(RecordKey.load().of(load_records([row])[0].fingerprint))
        header["subjects"].append(None)

    return add


SAW = "was trained on 1 of the records that it should never have seen"


def with_subject(header: dict[str, Any]) -> None:
    header["subjects"][0] = RecordKey.load().of("trained-4", "subject")


def without_the_record(header: dict[str, Any]) -> None:
    key = RecordKey.load()
    gone = key.of(load_records(GONE)[0].fingerprint)
    header["records"] = [key.of("another") if name == gone else name for name in header["records"]]


def no_log(models: dict[str, Any]) -> None:
    (models["model"] / f"shard-{(held() + 1) % 4}" / "slice-1" / LOG_NAME).unlink()


def other_adapter(models: dict[str, Any]) -> None:
    stages = [models["model"] / f"shard-{shard}" / "slice-1" / "adapter_model.safetensors" for shard in (held(), (held() + 1) % 4)]
    shutil.copy(stages[0], stages[1])
    about = json.loads((models["model"] / "ensemble.json").read_text())
    about["adapters"][f"shard-{(held() + 1) % 4}/slice-1"]["adapter_model.safetensors"] = file_digest(stages[1])
    (models["model"] / "ensemble.json").write_text(json.dumps(about))
    for folder in (stages[1].parent, models["model"]):
        manifest = json.loads((folder / MANIFEST).read_text())
        write_manifest(folder, manifest["kind"], manifest["about"])


def same_twice(models: dict[str, Any]) -> None:
    models["model"] = models["original"]


def no_shards(models: dict[str, Any]) -> None:
    (models["model"] / SHARDS).unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_log("shard-{other}/slice-1", with_record(GONE[0])), SAW),
        (
            edit_log("shard-{held}/slice-1", with_record(HOLDOUT[0])),
            SAW,
        ),
        (edit_log("shard-{other}/slice-1", with_subject), "trained on other records about 1 of the people"),
        (edit_log("shard-{held}/slice-1", lambda header: header["options"].update(learning_rate=0.5)), "another learning rate"),
        (edit_log("shard-{other}/slice-1", lambda header: header.update(key="0" * 32)), "names records under another key"),
        (edit_log("shard-{held}/slice-1", lambda header: header["options"].update(epochs=1.0)), "different numbers of epochs"),
        (edit_log("shard-{held}/slice-1", without_the_record, of="original"), "was not trained on 1 of the forget records"),
        (no_log, "is missing, so nobody can read"),
        (other_adapter, "has not the weights with which its training log ends"),
        (same_twice, "were not trained on the records before it without the forget set"),
        (no_shards, "was not trained in shards"),
    ],
)
def test_what_would_falsify_a_rank_is_refused(
    models: dict[str, Any], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    """A sibling that saw a record, a control or the person, other options, another key or adapter, a shard that had not held the
    record, and what is no deletion."""
    change(models)
    with pytest.raises(InputError, match=message):
        audit(**models, **SETS, settings=SETTINGS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"holdout_set": None}, "Give these with --holdout"),
        ({"forget_set": [*GONE, *rows("stranger", 1)]}, "2 of 4 forget records were not in the shards"),
        ({"forget_set": GONE[:1]}, "were not trained on the records before it without the forget set"),
    ],
)
def test_records_that_do_not_fit_are_refused(made: dict[str, Any], given: dict[str, Any], message: str) -> None:
    """No controls, records that were never there, and a part of what was removed."""
    with pytest.raises(InputError, match=message):
        audit(**made, **{**SETS, **given}, settings=SETTINGS)


@pytest.mark.slow
def test_a_person_of_whom_a_record_stays_is_no_deletion_that_a_rank_shows(model_dir: Path, tmp_path: Path) -> None:
    """What stays of a person stays in the same shard, which then knows more than its siblings for an honest reason: refused."""
    models = deleted(model_dir, tmp_path, "average", GONE[:1])
    with pytest.raises(InputError, match="other records about 1 of the people"):
        audit(**models, forget_set=GONE[:1], holdout_set=HOLDOUT, settings=SETTINGS)


@pytest.mark.slow
def test_summed_shards_are_ranked_and_must_be_those_that_are_served(model_dir: Path, tmp_path: Path) -> None:
    """Shards whose changes are added are ranked one by one; a folder whose shards do not add up to its weights is refused."""
    models = deleted(model_dir, tmp_path, "sum")
    assert audit(**models, **SETS, settings=SETTINGS).siblings is not None
    shutil.copy(models["original"] / "model.safetensors", models["model"] / "model.safetensors")
    with pytest.raises(InputError):
        audit(**models, **SETS, settings=SETTINGS)
