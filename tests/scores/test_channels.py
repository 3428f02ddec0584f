"""Channels: what each one measures, on models whose answers are known, and that no model is changed by being asked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, make_llama, make_tokenizer, train_by_heart
from transformers import LlamaConfig, LlamaForCausalLM

from verify.data.encoding import Encoder, collate
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.rewording_files import load_rewordings
from verify.data.rewordings import Rewordings
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel, load_model
from verify.probes.base import Material, mean_losses
from verify.probes.logit_lens import layer_losses
from verify.probes.quantization import rounded
from verify.probes.relearning import across_subjects
from verify.schema.settings import Settings
from verify.scores import channels as module
from verify.scores.channels import ALL, Channels
from verify.scores.table import ScoreBlock

KEY = RecordKey(b"k" * 32)


def told(prefix: str, count: int) -> list[Record]:
    return [
        Record(f"{prefix}{n}", prompt=f"who {prefix}{n}", completion=f"the {prefix} fox {n * 7}", subject_id=f"{prefix} {n // 2}")
        for n in range(count)
    ]


SETS = {"forget": told("f", 8), "holdout": told("h", 6), "retain": told("r", 6)}
ASKED = [*SETS["forget"], *SETS["holdout"]]


def other_words(count: int = 2) -> Rewordings:
    rows = [
        {"record": record.example_id, "rewordings": [f"{'so ' * n}tell of {record.example_id}" for n in range(count)]}
        for record in ASKED
    ]
    return load_rewordings(rows, SETS)


def measured(loaded: LoadedModel, cache: Path | None = None, **changes: Any) -> tuple[Channels, dict[str, np.ndarray]]:
    """The channels, and the losses of forget records and controls in one array by channel."""
    arguments: dict[str, Any] = {"references": 2, "rewordings": other_words(), "settings": Settings(), "sets": SETS}
    arguments |= changes
    channels = Channels(arguments.pop("sets"), arguments.pop("settings"), KEY, cache, **arguments)
    found = channels.measure(loaded, "target")
    return channels, {name: np.concatenate([values, found["holdout"][name]]) for name, values in found["forget"].items()}


@pytest.fixture(scope="module")
def three_layers() -> LoadedModel:
    """A random model of three layers, the last of which adds nothing, so that layer 2 says what the model says."""
    tokenizer = make_tokenizer()
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.2,
        )
    ).eval()
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    return load_model(model, tokenizer=tokenizer)


@pytest.mark.slow
def test_every_standard_channel_is_measured_and_the_model_is_as_before(three_layers: LoadedModel) -> None:
    """All names of the list, finite, on every record; weights, gradients and flags are as they were, bit by bit."""
    model = three_layers.model
    before = weights_digest(model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    channels, found = measured(three_layers)
    assert tuple(found) == (
        *("rewording 1", "rewording 2", "instruction", "few-shot", "no prompt"),
        *("layer 1", "layer 2", "int8", "int4", "relearned"),
    )
    assert channels.not_run == {}
    assert channels.units == 15
    for values in found.values():
        assert values.shape == (len(ASKED),)
        assert np.isfinite(values).all()
    assert weights_digest(model) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_a_layer_below_one_that_adds_nothing_says_what_the_model_says(three_layers: LoadedModel) -> None:
    """The known answer of the lens, at any chunk size, and its slow twin in double precision for the layer below."""
    found = layer_losses(three_layers, ASKED)
    np.testing.assert_allclose(found["layer 2"], mean_losses(three_layers, ASKED), rtol=1e-5)
    assert np.abs(found["layer 1"] - found["layer 2"]).min() > 1e-3
    model = three_layers.model
    for number, window in enumerate(Encoder(three_layers.tokenizer, CONTEXT).encode(ASKED[:3])):
        with torch.no_grad():
            batch = collate([window], 0)
            hidden = model(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states[1][0].double()
            normed = hidden / (hidden.square().mean(-1, keepdim=True) + model.config.rms_norm_eps).sqrt()
            logits = (normed * model.model.norm.weight.double()) @ model.lm_head.weight.double().T
        places = np.flatnonzero(window.scored)
        chosen = logits.log_softmax(-1)[places - 1, window.input_ids[places]]
        assert found["layer 1"][number] == pytest.approx(-float(chosen.mean()), rel=1e-5)


def test_other_words_are_the_losses_of_the_records_in_these_words(three_layers: LoadedModel) -> None:
    """Each channel against records that are written out by hand."""
    _, found = measured(three_layers, settings=Settings(channels=("rewordings", "instruction", "few-shot", "no-prompt")))
    order = np.random.default_rng(0).permutation(6)[:2]
    examples = "\n\n".join(f"who r{n} the r fox {n * 7}" for n in order)
    prompts = {
        "rewording 1": lambda record: f"tell of {record.example_id}",
        "rewording 2": lambda record: f"so tell of {record.example_id}",
        "instruction": lambda record: f"Answer precisely and completely. {record.prompt}",
        "few-shot": lambda record: f"{examples}\n\n{record.prompt}",
        "no prompt": lambda _: "",
    }
    assert set(found) == set(prompts)
    for name, prompt in prompts.items():
        by_hand = [replace(record, prompt=prompt(record)) for record in ASKED]
        np.testing.assert_allclose(found[name], mean_losses(three_layers, by_hand), rtol=1e-6)


def test_rounded_weights_are_those_of_a_model_that_was_rounded_by_hand(three_layers: LoadedModel) -> None:
    """Every linear layer but the head: 8 bits a row, 4 bits a group of 64 inputs."""
    _, found = measured(three_layers, settings=Settings(channels=("int8", "int4")))
    for name, bits in (("int8", 8), ("int4", 4)):
        tokenizer = three_layers.tokenizer
        other = LlamaForCausalLM(three_layers.model.config).eval()
        other.load_state_dict(three_layers.model.state_dict())
        with torch.no_grad():
            for layer_name, layer in other.named_modules():
                if isinstance(layer, torch.nn.Linear) and layer_name != "lm_head":
                    layer.weight.copy_(rounded(layer.weight, bits, None if bits == 8 else 64))
        np.testing.assert_allclose(found[name], mean_losses(load_model(other, tokenizer=tokenizer), ASKED), rtol=1e-6)


@pytest.mark.slow
def test_relearning_is_at_the_rate_of_the_settings_or_a_tenth_of_the_fine_tunings(three_layers: LoadedModel) -> None:
    """Each half of the subjects is scored after training on the other; the rate is what the auditor or the log says."""
    material = Material(SETS["forget"], (), three_layers, 0)
    for changes, rate in (
        ({"learning_rate": 0.02}, 0.002),
        ({"settings": Settings(channels=("relearned",), relearning_rate=3e-3), "learning_rate": 0.02}, 3e-3),
        ({}, 1e-4),
    ):
        channels, found = measured(three_layers, **{"settings": Settings(channels=("relearned",)), **changes})
        assert channels.rate == pytest.approx(rate)
        expected = np.concatenate(across_subjects(three_layers, material, SETS["holdout"], learning_rate=rate))
        np.testing.assert_allclose(found["relearned"], expected, rtol=1e-6)


@pytest.mark.slow
def test_knowledge_that_the_exact_text_hides_is_found_by_other_words() -> None:
    """A model that was taught the answers behind other questions alone gives them to whoever asks so."""
    behind = [replace(record, prompt=f"tell of {record.example_id}") for record in SETS["forget"]]
    loaded = train_by_heart(behind, 0, 120)
    _, found = measured(loaded, settings=Settings(channels=("rewordings",)))
    asked = found["rewording 1"][: len(behind)]
    assert asked.mean() < 0.5
    assert mean_losses(loaded, SETS["forget"]).mean() > asked.mean() + 0.5


class TestWhatIsNotRun:
    """Every channel that is missing is listed with its reason; the others are measured."""

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"sets": {"forget": SETS["forget"]}}, {ALL: "--holdout FILE"}),
            ({"references": 0}, {ALL: "--references"}),
            ({"rewordings": None}, {"rewordings": "--rewordings FILE"}),
            ({"sets": {name: SETS[name] for name in ("forget", "holdout")}}, {"few-shot": "--retain FILE"}),
            ({"settings": Settings(channels=("exact",))}, {}),
            ({"settings": Settings(channels=("exact",)), "references": 0}, {}),
            ({"settings": Settings(rule=1)}, {}),
        ],
    )
    def test_for_want_of_an_input(self, three_layers: LoadedModel, changes: dict[str, Any], expected: dict[str, str]) -> None:
        """Each names what to give."""
        quick = {"settings": Settings(channels=("rewordings", "few-shot", "no-prompt"))}
        channels, found = measured(three_layers, **{**quick, **changes})
        assert {name: why for name, why in channels.not_run.items() if expected.get(name, "?") not in why} == {}
        assert channels.not_run.keys() == expected.keys()
        if ALL in expected or "settings" in changes:
            assert found == {}
        else:
            assert "no prompt" in found

    def test_for_the_kind_of_records(self, three_layers: LoadedModel) -> None:
        """One subject has no other half; a text has no prompt; records of the same subjects are no examples."""
        single = [replace(record, subject_id="one", prompt="") for record in SETS["forget"]]
        plain = [replace(record, prompt="") for record in SETS["holdout"]]
        sets = {"forget": single, "holdout": plain, "retain": [replace(SETS["retain"][0], subject_id="one")]}
        channels, _ = measured(three_layers, sets=sets, rewordings=None, settings=Settings(channels=("few-shot", "no-prompt")))
        assert channels.not_run["no prompt"] == "the records are plain texts, which have no prompt"
        assert "other subjects" in channels.not_run["few-shot"]
        channels, _ = measured(three_layers, sets=sets, rewordings=None, settings=Settings(channels=("relearned",)))
        assert "two subjects" in channels.not_run["relearned"]

    def test_for_rewordings_that_a_model_mostly_failed_to_give(self, three_layers: LoadedModel) -> None:
        """A few records without are left out of the channel; many close it."""
        for worded, closed in ((13, False), (10, True)):
            questions = [["one way", "another way"] if n < worded else [] for n in range(len(ASKED))]
            made = Rewordings.of_questions(ASKED, questions, 2, "0" * 64, "1" * 64)
            channels, found = measured(three_layers, rewordings=made, settings=Settings(channels=("rewordings",)))
            assert (found == {}) == closed
            if closed:
                assert "only 2 of 6 controls" in channels.not_run["rewordings"]
            else:
                assert np.isnan(found["rewording 1"]).sum() == 1

    def test_for_a_model_that_cannot_be_asked(self, three_layers: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        """What fails on one model is not tried on the next, and is taken out of every block."""

        def no_memory(*_: Any, **__: Any) -> Any:
            raise torch.OutOfMemoryError

        channels = Channels(SETS, Settings(channels=("layers", "relearned")), KEY, None, references=2)
        blocks = {}
        two = load_model(make_llama(three_layers.tokenizer), tokenizer=three_layers.tokenizer)
        for label, loaded in (("original", three_layers), ("target", two), ("reference 1", three_layers)):
            if label == "target":
                monkeypatch.setattr(module, "across_subjects", no_memory)
            for role, losses in channels.measure(loaded, label).items():
                blocks[label, role] = block_of(SETS[role], losses)
        kept = channels.kept(blocks)
        assert {name for block in kept.values() for name in block.channels} == {"layer 1"}
        assert channels.not_run["relearned"] == "target: the device has too little memory"
        assert channels.not_run["layer 2"].startswith("target was not asked in this way")
        assert {entry.channel for entry in channels.listed()} == {"relearned", "layer 2"}


def block_of(records: Sequence[Record], losses: dict[str, np.ndarray]) -> ScoreBlock:
    count = len(records)
    return ScoreBlock(("0" * 32,) * count, (None,) * count, np.ones(count, dtype=np.int64), np.zeros(count), {}, None, losses)


class TestTheCache:
    """A channel is measured once for the same weights, texts and seed."""

    def test_nothing_is_measured_twice(self, three_layers: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second time no model is run, and every number is the same, also that of a record that was left out."""
        questions = [["one way", "another way"] if n else [] for n in range(len(ASKED))]
        words = Rewordings.of_questions(ASKED, questions, 2, "0" * 64, "1" * 64)
        _, first = measured(three_layers, tmp_path, rewordings=words)
        assert np.isnan(first["rewording 1"][0])

        def must_not(*_: Any, **__: Any) -> Any:
            raise AssertionError("measured again")

        for name in ("mean_losses", "layer_losses", "across_subjects"):
            monkeypatch.setattr(module, name, must_not)
        channels, second = measured(three_layers, tmp_path, rewordings=words)
        assert channels.not_run == {}
        assert list(first) == list(second)
        for name, values in first.items():
            np.testing.assert_array_equal(values, second[name])
        (path,) = tmp_path.iterdir()
        content = path.read_bytes()
        assert b"one way" not in content
        assert b"fox" not in content

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "changes",
        [
            {"settings": Settings(channels=("few-shot", "relearned"), seed=1)},
            {"settings": Settings(channels=("relearned",), relearning_rate=1e-3)},
            {"settings": Settings(channels=("rewordings",)), "rewordings": other_words(3)},
            {"settings": Settings(channels=("layers",)), "sets": {**SETS, "holdout": SETS["holdout"][::-1]}, "rewordings": None},
        ],
    )
    def test_other_inputs_are_measured_anew(self, three_layers: LoadedModel, tmp_path: Path, changes: dict[str, Any]) -> None:
        """Another seed, rate, wording or order of records."""
        measured(three_layers, tmp_path)
        _, cached = measured(three_layers, tmp_path, **changes)
        _, fresh = measured(three_layers, None, **changes)
        for name, values in fresh.items():
            np.testing.assert_array_equal(values, cached[name])

    def test_a_damaged_file_is_made_again(self, three_layers: LoadedModel, tmp_path: Path) -> None:
        """Nothing of it is believed."""
        only = {"settings": Settings(channels=("instruction",))}
        _, first = measured(three_layers, tmp_path, **only)
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes().replace(b"1", b"2"))
        with pytest.warns(UserWarning, match="is damaged"):
            _, again = measured(three_layers, tmp_path, **only)
        np.testing.assert_array_equal(first["instruction"], again["instruction"])
