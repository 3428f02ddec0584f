"""Federations: averaged as they should be, the same bits every time, and without a client as if it had never been there."""

import dataclasses
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_rows import make_rows

from unlearn import (
    Auto,
    ClientRetrain,
    FedEraser,
    Federated,
    Retrain,
    Rollback,
    TrainingOptions,
    finetune,
    forget,
)
from unlearn.defenses import federation, flower
from unlearn.defenses.federation import FEDERATION, ROUNDS, START
from unlearn.defenses.flower import Reply, aggregate
from unlearn.methods.federaser import of_length
from unlearn.training.log import LOG_NAME, TrainingLog
from verify.data.identity import RecordKey
from verify.data.records import Fields, parse_records
from verify.errors import InputError, IntegrityError, RunError
from verify.models.loading import load_model

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'unlearn-verify[federated]'")

Rows = list[dict[str, str]]
OPTIONS = TrainingOptions(learning_rate=1e-2, batch_size=2, lora=True, seed=3)
DEFENSE = Federated(client_field="hospital", rounds=2)


def without(rows: Rows, number: int) -> Rows:
    return [row for row in rows if row["hospital"] != f"St Nowhere {number}"]


def of_client(rows: Rows, number: int) -> Rows:
    return [row for row in rows if row["hospital"] == f"St Nowhere {number}"]


@pytest.fixture(scope="module")
def client_rows() -> Rows:
    """Nine records of three clients, named in a column of their own; subjects lie across clients."""
    return [{**row, "hospital": f"St Nowhere {number % 3}"} for number, row in enumerate(make_rows("kept", 9))]


@pytest.fixture(scope="module")
def trained(model_dir: Path, client_rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation of three clients with three records each; tests must not change it."""
    folder = tmp_path_factory.mktemp("federation") / "all"
    finetune(model_dir, client_rows, output_dir=folder, options=OPTIONS, defense=DEFENSE)
    return folder


def test_averages_are_flowers_in_any_order() -> None:
    """The weighted mean by hand, whatever the order of replies; and the same bits in every order."""
    generator = torch.Generator().manual_seed(0)
    replies = [
        Reply(place, {"a": torch.randn(5, 3, generator=generator), "b": torch.randn(4, generator=generator)}, 1 + place, 0, 0)
        for place in range(4)
    ]
    first = aggregate(0, replies)
    for name in ("a", "b"):
        mean = sum(reply.weights[name].double() * reply.examples for reply in replies) / 10
        torch.testing.assert_close(first[name].double(), mean, rtol=1e-6, atol=1e-7)
    for order in itertools.permutations(replies):
        again = aggregate(0, order)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [True, False])
def test_client_retrain_is_a_federation_without_the_client(model_dir: Path, client_rows: Rows, tmp_path: Path, lora: bool) -> None:
    """Bit by bit, adapters and whole weights; and a second deletion from the result is exact as well."""
    options = dataclasses.replace(OPTIONS, lora=lora)
    finetune(model_dir, client_rows, output_dir=tmp_path / "all", options=options, defense=DEFENSE)
    rows, folder = client_rows, tmp_path / "all"
    for number in (1, 2):
        gone, less = of_client(rows, number), tmp_path / f"less{number}"
        result = forget(folder, ClientRetrain(), forget_set=gone, data=rows, base=model_dir, output_dir=less)
        rows, folder = without(rows, number), less
        fresh = finetune(model_dir, rows, output_dir=tmp_path / f"fresh{number}", options=options, defense=DEFENSE)
        assert result.digest_after == fresh.digest == load_model(less).digest
        assert result.digest_after != result.digest_before
        assert result.facts["clients_deleted"] == 1
        assert (less / FEDERATION).read_text() == (tmp_path / f"fresh{number}" / FEDERATION).read_text()


@pytest.mark.slow
def test_a_client_that_keeps_records_trains_on_those(model_dir: Path, client_rows: Rows, trained: Path, tmp_path: Path) -> None:
    """Of two of a client's three records: as if it had only ever had the third."""
    gone = of_client(client_rows, 2)[:2]
    rest = [row for row in client_rows if row not in gone]
    result = forget(trained, ClientRetrain(), forget_set=gone, data=client_rows, base=model_dir, output_dir=tmp_path / "less")
    fresh = finetune(model_dir, rest, output_dir=tmp_path / "fresh", options=OPTIONS, defense=DEFENSE)
    assert result.digest_after == fresh.digest
    assert result.facts["clients_deleted"] == 0


@pytest.mark.slow
def test_auto_ends_with_the_federation_again(model_dir: Path, client_rows: Rows, trained: Path, tmp_path: Path) -> None:
    """Its exact rung is `client_retrain`, and the result can be deleted from again."""
    result = forget(
        trained, Auto(), forget_set=of_client(client_rows, 2), data=client_rows, base=model_dir, output_dir=tmp_path / "auto"
    )
    assert [rung["method"] for rung in result.facts["rungs"]] == ["client_retrain"]
    rows = without(client_rows, 2)
    again = {"forget_set": of_client(client_rows, 1), "data": rows, "base": model_dir}
    second = forget(tmp_path / "auto", ClientRetrain(), **again, output_dir=tmp_path / "second")
    fresh = finetune(model_dir, without(rows, 1), output_dir=tmp_path / "fresh", options=OPTIONS, defense=DEFENSE)
    assert second.digest_after == fresh.digest


@pytest.mark.slow
def test_the_order_of_the_file_does_not_matter(model_dir: Path, client_rows: Rows, trained: Path, tmp_path: Path) -> None:
    """Clients and their records go by keyed hashes."""
    turned = finetune(model_dir, client_rows[::-1], output_dir=tmp_path / "turned", options=OPTIONS, defense=DEFENSE)
    assert turned.digest == load_model(trained).digest


def test_what_is_written_names_nobody(client_rows: Rows, trained: Path) -> None:
    """Clients and records are keyed hashes in every file beside the weights, and in file names; the log has every record."""
    for path in trained.rglob("*"):
        assert "Nowhere" not in path.name
        if path.suffix in (".json", ".jsonl"):
            text = path.read_text()
            assert "Nowhere" not in text
            assert "Zebedee" not in text
    about = json.loads((trained / FEDERATION).read_text())
    key = RecordKey.load()
    assert set(about["clients"]) == {key.of(f"St Nowhere {number}", "client") for number in range(3)}
    log = TrainingLog.read(trained / LOG_NAME)
    assert set(log.records) == {key.of(record.fingerprint) for record in parse_records(client_rows, Fields(), "r")}
    assert (log.defense, log.microbatches) == ("federated", ())
    described = json.loads((trained / "manifest.json").read_text())["about"]["defense"]
    assert described["parameters"] == dataclasses.asdict(DEFENSE)
    assert (described["clients_trained"], described["records_of_clients"]) == (3, [3, 3, 3])


@pytest.mark.slow
def test_a_run_cut_off_goes_on_after_its_last_round(
    model_dir: Path, client_rows: Rows, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its second round, the same command trains that round alone, to the same weights."""
    whole, calls = flower.aggregate, []
    monkeypatch.setattr("unlearn.defenses.federation.aggregate", lambda number, replies: _stop(number, replies, whole))
    with pytest.raises(KeyboardInterrupt):
        finetune(model_dir, client_rows, output_dir=tmp_path / "cut", options=OPTIONS, defense=DEFENSE)
    (tmp_path / "cut" / ROUNDS / "round-1" / "manifest.json").unlink()
    monkeypatch.undo()
    train = federation.train_records
    monkeypatch.setattr(federation, "train_records", lambda *given, **named: calls.append(1) or train(*given, **named))
    again = finetune(model_dir, client_rows, output_dir=tmp_path / "cut", options=OPTIONS, defense=DEFENSE)
    assert again.digest == load_model(trained).digest
    assert len(calls) == 3


def _stop(number: int, replies: Any, whole: Any) -> Any:
    if number == 1:
        raise KeyboardInterrupt
    return whole(number, replies)


@pytest.mark.slow
def test_federaser_follows_its_formula(model_dir: Path, client_rows: Rows, trained: Path, tmp_path: Path) -> None:
    """The first round is the kept updates' mean; every later update has the old length and a new direction; the client is gone."""
    gone = of_client(client_rows, 1)
    result = forget(trained, FedEraser(), forget_set=gone, data=client_rows, base=model_dir, output_dir=tmp_path / "less")
    assert result.facts["clients_deleted"] == 1
    assert result.facts["rounds_calibrated"] == 1
    assert result.training is not None
    assert result.training.steps > 0
    old, new = (folder / ROUNDS for folder in (trained, tmp_path / "less"))
    key = RecordKey.load()
    removed = key.of("St Nowhere 1", "client")
    assert not list((tmp_path / "less").rglob(f"*{removed}*"))
    assert removed not in (tmp_path / "less" / FEDERATION).read_text()
    names = [key.of(f"St Nowhere {number}", "client") for number in (0, 2)]
    first = [load_file(old / "round-0" / f"{name}.safetensors") for name in names]
    starts = [load_file(folder / "round-1" / START) for folder in (old, new)]
    for tensor in starts[1]:
        mean = sum(sent[tensor].double() for sent in first) / 2
        torch.testing.assert_close(starts[1][tensor].double(), mean, rtol=1e-5, atol=1e-7)
        for name in names:
            before, after = (load_file(folder / "round-1" / f"{name}.safetensors")[tensor] for folder in (old, new))
            length, calibrated = before - starts[0][tensor], after - starts[1][tensor]
            assert float(calibrated.norm()) == pytest.approx(float(length.norm()), rel=1e-3, abs=1e-6)
    again = forget(
        tmp_path / "less",
        ClientRetrain(),
        forget_set=of_client(client_rows, 2),
        data=without(client_rows, 1),
        base=model_dir,
        output_dir=tmp_path / "second",
    )
    assert again.facts["clients_trained"] == 1


def test_lengths_and_directions() -> None:
    """|U| U'/|U'|, and nothing where there is no direction."""
    torch.testing.assert_close(of_length(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 10.0])), torch.tensor([6.0, 8.0]))
    assert not of_length(torch.zeros(2), torch.ones(2)).any()


@pytest.mark.slow
def test_misuse_is_refused(model_dir: Path, client_rows: Rows, trained: Path, tmp_path: Path) -> None:
    """No federation, an unknown record, records left out, part of a client, another base, no updates: each with what to do."""
    gone = of_client(client_rows, 1)
    given: dict[str, Any] = {"forget_set": gone, "data": client_rows, "base": model_dir}
    for number, method in enumerate((ClientRetrain(), FedEraser())):
        with pytest.raises(InputError, match="not trained in a federation"):
            forget(model_dir, method, **given, output_dir=tmp_path / f"a{number}")
        with pytest.raises(InputError, match="training log"):
            forget(
                trained,
                method,
                forget_set=make_rows("stranger", 2),
                retain_set=client_rows,
                base=model_dir,
                output_dir=tmp_path / f"b{number}",
            )
        with pytest.raises(InputError, match="--data"):
            forget(
                trained,
                method,
                forget_set=gone,
                retain_set=without(client_rows, 1)[:5],
                base=model_dir,
                output_dir=tmp_path / f"c{number}",
            )
    with pytest.raises(InputError, match="whole clients only"):
        forget(trained, FedEraser(), **{**given, "forget_set": gone[:1]}, output_dir=tmp_path / "d")
    other = load_model(model_dir)
    other.model.lm_head.weight.data.add_(1.0)
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(IntegrityError, match="not the base"):
        forget(trained, ClientRetrain(), **{**given, "base": tmp_path / "other"}, output_dir=tmp_path / "e")
    for method in (Retrain(), Rollback()):
        with pytest.raises(InputError, match="client_retrain"):
            forget(trained, method, **given, output_dir=tmp_path / "f")
    bare = dataclasses.replace(DEFENSE, keep_updates=False, rounds=1)
    finetune(model_dir, client_rows, output_dir=tmp_path / "bare", options=OPTIONS, defense=bare)
    assert not (tmp_path / "bare" / ROUNDS).exists()
    with pytest.raises(InputError, match="--keep-updates False"):
        forget(tmp_path / "bare", FedEraser(), **given, output_dir=tmp_path / "g")


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"epochs": 2.0}, "--epochs"),
        ({"max_steps": 3}, "--max-steps"),
        ({"save_steps": 2}, "--save-steps"),
        ({"bf16": True}, "--bf16"),
    ],
)
def test_settings_without_a_meaning_are_refused(
    model_dir: Path, client_rows: Rows, tmp_path: Path, options: dict[str, Any], flag: str
) -> None:
    """What a federation has no use for is refused with its reason, and so are values out of range."""
    with pytest.raises(InputError, match=flag):
        finetune(
            model_dir, client_rows, output_dir=tmp_path / "out", options=dataclasses.replace(OPTIONS, **options), defense=DEFENSE
        )
    for wrong in ({"rounds": 0}, {"local_epochs": 0.0}, {"clients": -1}, {"clients": 2, "client_field": "x"}, {"engine": "y"}):
        with pytest.raises(InputError):
            Federated(**wrong)  # type: ignore[arg-type]
    for wrong in ({"calibration": 0.0}, {"interval": 0}):
        with pytest.raises(InputError):
            FedEraser(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_whose_a_record_is(model_dir: Path, client_rows: Rows, tmp_path: Path) -> None:
    """Subjects are clients, or are dealt to so many; a record of nobody is refused by its row, and canaries by name."""
    one_round, few = Federated(rounds=1), client_rows[:3]
    each = finetune(model_dir, few, output_dir=tmp_path / "each", options=OPTIONS, defense=one_round)
    assert each.defense is not None
    assert each.defense["clients_trained"] == 3
    dealt = finetune(
        model_dir, few, output_dir=tmp_path / "dealt", options=OPTIONS, defense=dataclasses.replace(one_round, clients=2)
    )
    assert dealt.defense is not None
    assert dealt.defense["clients_trained"] <= 2
    rows = [*client_rows[:3], {name: value for name, value in client_rows[3].items() if name != "hospital"}]
    with pytest.raises(InputError, match="the first in row 4"):
        finetune(model_dir, rows, output_dir=tmp_path / "nobody", options=OPTIONS, defense=DEFENSE)
    with pytest.raises(InputError, match="canaries"):
        finetune(model_dir, client_rows, output_dir=tmp_path / "canaries", options=OPTIONS, defense=DEFENSE, canaries=2)


def test_without_flower(model_dir: Path, client_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install; likewise where Ray is missing for the simulation engine. Nothing reports home."""
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "flwr.serverapp.strategy", None)
        with pytest.raises(InputError, match=r"unlearn-verify\[federated\]"):
            finetune(model_dir, client_rows, output_dir=tmp_path / "a", options=OPTIONS, defense=DEFENSE)
    monkeypatch.setitem(sys.modules, "ray", None)
    simulated = dataclasses.replace(DEFENSE, engine="simulation")
    with pytest.raises(InputError, match=r"Ray.*unlearn-verify\[federated\]"):
        finetune(model_dir, client_rows, output_dir=tmp_path / "b", options=OPTIONS, defense=simulated)
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    from flwr.supercore import telemetry

    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"


@pytest.mark.slow
def test_the_simulation_engine_gives_the_same_bits(model_dir: Path, client_rows: Rows, trained: Path, tmp_path: Path) -> None:
    """Clients in Ray's processes, whose replies come in any order: the weights of the run in one process."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'unlearn-verify[federated]'")
    simulated = dataclasses.replace(DEFENSE, engine="simulation")
    result = finetune(model_dir, client_rows, output_dir=tmp_path / "out", options=OPTIONS, defense=simulated)
    assert result.digest == load_model(trained).digest


def test_an_engine_that_ends_early_is_an_error(
    model_dir: Path, client_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Ray does not start, the run stops with a reason; its server does not wait for clients that never come."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'unlearn-verify[federated]'")

    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("no cluster")

    monkeypatch.setattr(ray, "init", fails)
    simulated = dataclasses.replace(DEFENSE, engine="simulation")
    with pytest.raises(RunError, match="ended early"):
        finetune(model_dir, client_rows, output_dir=tmp_path / "out", options=OPTIONS, defense=simulated)
