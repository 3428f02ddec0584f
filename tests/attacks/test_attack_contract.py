"""One contract for every attack, and for the directory that registers them: a new file is tested by existing."""

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
from tiny_models import make_llama, make_tokenizer

from verify.attacks import attack_classes, extraction, membership, select_attacks
from verify.attacks.base import MODEL_ITSELF, Attack, Family, Need, Observation
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError
from verify.io.plugins import discover
from verify.models.loading import LoadedModel, load_model
from verify.models.token_table import TokenStatistics
from verify.scores.observe import measure

KEY = RecordKey(b"k" * 32)
TOKENIZER = make_tokenizer()
RECORDS = [
    Record("a", prompt="who", completion="the quick brown fox"),
    Record("b", completion="lazy dogs jump over other animals"),
    Record("c", completion="x"),
    Record("d", messages=(("user", "hi"), ("assistant", "fox"), ("user", "and"), ("assistant", "the lazy dog"))),
    Record("e", prompt="p", completion="over the brown fox", secret="brown"),
]
CONTROLS = [Record(str(number), prompt="q", completion=f"animals jump {number} times over dogs") for number in range(7)]
FIRST, SECOND, THIRD = (load_model(make_llama(TOKENIZER, seed), tokenizer=TOKENIZER) for seed in range(3))
NAMES = tuple(attack_classes())
MEMBERSHIP = """dataset_inference dc_pdd ez_mia gradient_norm hidden_state lira loss lowercase min_k
 min_k_plus_plus neighbourhood quantile_regression recall reference reference_ratio rmia user_level wbc zlib"""
EXTRACTION = """discoverable exact_memorization exposure extraction_likelihood extraction_probability
 extraction_strength inverse_greedy personal_data sampled verbatim"""
EXPECTED = {
    "membership": MEMBERSHIP.split(),
    "extraction": EXTRACTION.split(),
}


def observe(loaded: LoadedModel, records: Sequence[Record] = RECORDS) -> Observation:
    """The records with the model's view of the controls, as an audit hands them to an attack."""
    controls = measure(loaded, CONTROLS, cache_dir=None, key=KEY)
    return replace(measure(loaded, records, cache_dir=None, key=KEY), controls=controls)


READERS = [name for name in NAMES if not MODEL_ITSELF & attack_classes()[name].needs]
"""Attacks that need no model, only its statistics."""
TARGET, OTHERS = observe(FIRST), [observe(SECOND), observe(THIRD)]


def references_of(name: str, others: Sequence[Observation]) -> Sequence[Observation]:
    """What the audit gives this attack as references."""
    needs = attack_classes()[name].needs
    if "retrained references" in needs:
        return others
    return others[:1] if "reference model" in needs else []


def score(name: str, target: Observation, others: Sequence[Observation] | None = None) -> np.ndarray:
    return select_attacks([name])[name].score(target, references_of(name, OTHERS if others is None else others))


def test_the_directories_are_the_registry() -> None:
    """Every file of a family's directory is an attack of that name, and there is no other list."""
    for family, package in (("membership", membership), ("extraction", extraction)):
        stems = sorted(path.stem for path in Path(str(package.__file__)).parent.glob("*.py") if not path.stem.startswith("_"))
        assert list(discover(package, "score")) == stems == EXPECTED[family]
    assert list(NAMES) == EXPECTED["membership"] + EXPECTED["extraction"]


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_describes_itself(name: str) -> None:
    """A frozen dataclass that can be made without arguments, with its idea, source, family, needs and unit."""
    kind = attack_classes()[name]
    attack = kind()
    assert isinstance(attack, Attack)
    assert dataclasses.fields(kind) == () or all(field.default is not dataclasses.MISSING for field in dataclasses.fields(kind))
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.anything = 1
    assert kind.family in get_args(Family)
    assert f".{kind.family}." in kind.__module__
    assert kind.needs
    assert kind.needs <= set(get_args(Need))
    assert kind.idea
    assert kind.unit
    assert "arXiv" in kind.paper
    assert kind.paper.split("(")[1].rstrip(")") in kind.__doc__, "the docstring cites what the registry cites"
    assert "score = " in kind.__doc__, "the docstring gives the formula"


@pytest.mark.parametrize("name", NAMES)
def test_one_finite_score_per_record(name: str) -> None:
    """Float64, one per record, finite also for a record of one or two tokens."""
    scores = score(name, TARGET)
    assert scores.shape == (len(RECORDS),)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_score_belongs_to_its_record(name: str) -> None:
    """Scores are the same in any order and any company, and the same each time."""
    whole = score(name, TARGET)
    np.testing.assert_array_equal(score(name, TARGET), whole)
    if name in ("lira", "dataset_inference", "hidden_state"):
        return  # they learn from all records on purpose: a pooled variance, a rule fitted on the others
    for index in range(len(RECORDS)):
        alone = [observe(one, RECORDS[index : index + 1]) for one in (FIRST, SECOND, THIRD)]
        np.testing.assert_allclose(score(name, alone[0], alone[1:]), whole[index : index + 1], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_controls_are_scored_too(name: str) -> None:
    """An audit scores the controls like the rest; an attack that learns from them leaves out the one it scores."""
    own = []
    for observation in (TARGET, *OTHERS):
        assert observation.controls is not None
        own.append(replace(observation.controls, controls=observation.controls, members=observation))
    scores = score(name, own[0], own[1:])
    assert scores.shape == (len(CONTROLS),)
    assert np.isfinite(scores).all()


def entry(log_probability: float, tokens: int) -> TokenStatistics:
    """Statistics of a record all of whose tokens have the same log-probability, everything else being equal."""
    size = {"shape": tokens, "dtype": np.float32}
    return TokenStatistics(
        log_probability=np.full(fill_value=log_probability, **size),
        mean=np.full(fill_value=-2.0, **size),
        deviation=np.full(fill_value=0.5, **size),
        rank=np.full(tokens, int(log_probability < -0.7), dtype=np.int32),
        greedy=np.full(tokens, log_probability >= -0.7),
        secret=np.full(tokens, True),
    )


@pytest.mark.parametrize("name", [name for name in READERS if name != "dataset_inference"])
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_higher_is_more_like_a_member(name: str, tokens: int) -> None:
    """Of two records alike in everything else, the one the model finds likelier has the higher score."""
    records = [Record("a", completion="same text"), Record("b", completion="same text")]
    controls = [Record(str(number), completion=f"other text {number}") for number in range(8)]
    unseen = [entry(-3.0 - number / 10, tokens) for number in range(8)]

    def view(*values: float) -> Observation:
        return Observation(records, [entry(value, tokens) for value in values], controls=Observation(controls, unseen))

    likely, unlikely = score(name, view(-0.01, -5.0), [view(-3.0, -3.0), view(-3.2, -3.2)])
    assert likely > unlikely


@pytest.mark.parametrize("name", [name for name in NAMES if attack_classes()[name].unit.startswith("share")])
def test_shares_are_shares(name: str) -> None:
    """A share lies between 0 and 1."""
    scores = score(name, TARGET)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_missing_needs_are_named(name: str) -> None:
    """An attack without what it needs is an input error; without what it does not need, it scores the same."""
    kind = attack_classes()[name]
    whole = score(name, TARGET)
    if kind.references:
        with pytest.raises(InputError, match="--references"):
            score(name, TARGET, OTHERS[: kind.references - 1])
    elif "reference model" in kind.needs:
        with pytest.raises(InputError, match="--base"):
            score(name, TARGET, [])
    if "controls" in kind.needs:
        with pytest.raises(InputError, match="--holdout"):
            score(name, replace(TARGET, controls=None))
    else:
        np.testing.assert_array_equal(score(name, replace(TARGET, controls=None)), whole)
    if MODEL_ITSELF & kind.needs:
        with pytest.raises(InputError, match="needs the model itself"):
            score(name, TARGET.without_model())
    else:
        np.testing.assert_array_equal(score(name, TARGET.without_model()), whole)


def test_nothing_to_score_is_an_error() -> None:
    """No records, or one without tokens, never become a score."""
    with pytest.raises(InputError, match="no records"):
        Observation([], [])
    with pytest.raises(InputError, match="record 2 has no scored token"):
        Observation(RECORDS[:2], [entry(-1.0, 1), entry(-1.0, 0)])


def test_attacks_are_chosen_by_name() -> None:
    """In the order asked for, each once; by level; standard by default; an unknown name is answered with those there are."""
    assert list(select_attacks(["zlib", "loss", "zlib"])) == ["zlib", "loss"]
    assert tuple(select_attacks(["full"])) == NAMES
    quick, standard = list(select_attacks(["quick"])), list(select_attacks())
    assert all(not MODEL_ITSELF & attack_classes()[name].needs or name in ("dc_pdd", "verbatim") for name in quick)
    assert set(quick) < set(standard) < set(NAMES)
    assert list(select_attacks(["standard"])) == standard
    assert list(select_attacks(["recall", "quick"])) == ["recall", *quick]
    with pytest.raises(InputError, match=r"no attack called guess.*quick, standard, full, dataset_inference.*loss"):
        select_attacks(["loss", "guess"])


GOOD = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Good:\n    def score(self): ...\n"


def package_of(folder: Path, name: str, **modules: str) -> ModuleType:
    (folder / name).mkdir()
    for module, source in {"__init__": "", **modules}.items():
        (folder / name / f"{module}.py").write_text(source)
    return importlib.import_module(name)


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder whose packages can be imported, forgotten again afterwards."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_new_file_is_found_by_existing(importable: Path) -> None:
    """One file, one entry, called as the file is; shared and private files are no entries, nor are imported classes."""
    package = package_of(
        importable,
        "found",
        b=GOOD,
        a=f"from found.b import Good as Other\n{GOOD}",
        _help=GOOD,
        base=GOOD,
        c=GOOD.replace("score", "edit"),
    )
    entries = discover(package, "score", "edit")
    assert list(entries) == ["a", "b", "c"]
    assert entries["a"].__module__ == "found.a"
    assert discover(package, "score", "edit") is entries


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "it defines none"),
        (GOOD.replace("class Good", "class _Good"), "it defines none"),
        (GOOD.replace("score", "other"), "it defines none"),
        (GOOD.split("\n", 2)[2].replace("@dataclass(frozen=True)\n", ""), "it defines none"),
        (GOOD + GOOD.split("\n", 1)[1].replace("Good", "Better"), "it defines Good, Better"),
    ],
)
def test_a_file_without_one_entry_is_an_error(source: str, message: str, importable: Path) -> None:
    """A file with no entry, or with two, is named with what it holds."""
    package = package_of(importable, f"broken{abs(hash(source))}", entry=source)
    with pytest.raises(TypeError, match=message):
        discover(package, "score")
