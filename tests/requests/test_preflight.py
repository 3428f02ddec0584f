"""What `run` or its audit would refuse is refused by the plan, in the same words, before anything is noted."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plans import MODEL, planned

from unlearn import TrainingOptions, finetune
from unlearn.requests import audit_power
from unlearn.requests.audit_numbers import NextAudits, noting_scores, opened_by, require_planned_levels, was_scored
from unlearn.requests.choices import Choices
from unlearn.requests.ledger.ledger import Ledger, NewRequest
from unlearn.requests.noting import note
from unlearn.requests.planning import Draft, draft
from unlearn.requests.preflight import _require_base, _require_methods
from unlearn.requests.registering import require_registrable
from unlearn.requests.training_sets import TrainingSets
from verify.auditing import measured_power
from verify.certificate.opened_audits import OpenedAudits, opening
from verify.data.identity import RecordKey
from verify.data.records import Fields, parse_records
from verify.errors import InputError, IntegrityError
from verify.io.files import MANIFEST, read_json, write_manifest
from verify.models.ensembles import ENSEMBLE
from verify.schema.settings import Settings

WHO = ("ida", "jon", "kim", "lee")
ROWS: list[dict[str, Any]] = [
    {"subject_id": who, "prompt": f"{who} {number}?", "completion": f"The {number}. of {who}."} for who in WHO for number in (1, 2)
]
HELD: list[dict[str, Any]] = [
    {"subject_id": who, "prompt": f"{who} {number}?", "completion": f"The {number}. of {who}."}
    for who in ("max", "ned", "ora", "pim")
    for number in (1, 2)
]
OPTIONS = TrainingOptions(max_steps=1, batch_size=8)
SETTINGS = Settings(attacks=("loss",))


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def trained(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, one reference without lee, and never-trained records; tests work on copies."""
    folder = tmp_path_factory.mktemp("trained")
    finetune(str(model_dir), written(folder / "people.jsonl", ROWS), output_dir=folder / "models" / "m", options=OPTIONS)
    others = [row for row in ROWS if row["subject_id"] != "lee"]
    finetune(str(model_dir), others, output_dir=folder / "reference", options=replace(OPTIONS, seed=1))
    written(folder / "held.jsonl", HELD)
    return folder


@pytest.fixture
def world(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "world")
    return tmp_path / "world"


def asked(ledger: Ledger, person: str) -> str:
    """A request of a person, approved."""
    name = ledger.add(NewRequest((RecordKey.load().of(person, "subject"),), "gdpr", date(2026, 11, 2)))
    ledger.advance(name, "identity_verified")
    return name


def drafted(ledger: Ledger, name: str, world: Path, **changes: Any) -> Draft:
    plain = Choices(
        (str(world / "people.jsonl"),), (str(world / "models"),), output=world / "deletions", settings=SETTINGS, holdout=None
    )
    return draft(ledger, [ledger.request(name)], replace(plain, **changes), RecordKey.load())


def edited(folder: Path, change: Callable[[Path], dict[str, Any]]) -> None:
    """Change a model's folder, and let its manifest list what it holds now and say what `change` returns besides."""
    about = read_json(folder / MANIFEST)["about"]
    (folder / MANIFEST).unlink()
    write_manifest(folder, "model", about | change(folder))


def turned(folder: Path) -> dict[str, Any]:
    content = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(content | {"rms_norm_eps": 0.5}))
    return {}


def cut(world: Path) -> dict[str, Any]:
    (world / "reference" / "model.safetensors").write_bytes(b"cut off")
    return {"references": (str(world / "reference"),)}


def other_configuration(world: Path) -> dict[str, Any]:
    edited(world / "reference", turned)
    return {"references": (str(world / "reference"),)}


def controls_that_were_read(world: Path) -> dict[str, Any]:
    key = RecordKey.load()
    names = [key.of(record.fingerprint) for record in parse_records(HELD, Fields(), "held")]
    used = [{"method": "level", "key": key.check, "records": sorted(names)}]
    edited(world / "models" / "m", lambda _: {"holdout_used": used})
    return {"holdout": str(world / "held.jsonl")}


def damaged_salt(world: Path) -> dict[str, Any]:
    templates = world / "templates.yaml"
    templates.write_text(
        "templates: [{prompt: '(?P<who>.+)\\?', rewordings: ['Say {who}.', 'And {who}?', 'Now {who}.', 'So {who}?']}]"
    )
    templates.with_name("templates.yaml.salt").write_text("spoilt")
    return {"holdout": str(world / "held.jsonl"), "rewordings": str(templates)}


def twins_of_one_person(world: Path) -> dict[str, Any]:
    return {"holdout": str(world / "held.jsonl"), "settings": Settings(attacks=("loss",), twins=True)}


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda _: {"methods": ("client_retrain",)}, "were trained in a federation, and m was not.*retrain rebuilds this model"),
        (lambda _: {"methods": ("auto",)}, "those of m belong to one person"),
        (lambda _: {"fields": Fields(special_tokens=True)}, "special tokens read as plain text. Leave out --read-special-tokens"),
        (lambda _: {"settings": Settings(attacks=("loss",), shard_siblings=True)}, "Give these with --holdout"),
        (
            lambda world: {
                "settings": Settings(attacks=("loss",), shard_siblings=True),
                "holdout": str(world / "held.jsonl"),
            },
            "was not trained in shards",
        ),
        (cut, "model.safetensors"),
        (other_configuration, "the configuration of reference 1 .reference. differs from the original's: rms_norm_eps"),
        (controls_that_were_read, "holdout records were read by the unlearning itself .level."),
        (damaged_salt, "templates.yaml.salt is missing or damaged"),
        (twins_of_one_person, "at least two people or documents on each side. With one person, leave out --twins"),
    ],
)
def test_what_a_run_would_refuse_is_refused_by_the_plan(
    world: Path, ledger: Ledger, prepare: Callable[[Path], dict[str, Any]], said: str
) -> None:
    """A method that does not suit the model, another reading of the texts, ranks without shards, a damaged or changed reference,
    controls that an earlier unlearning read or of which nobody can check that they were drawn at random, a spoilt salt."""
    name = asked(ledger, "lee")
    with pytest.raises((InputError, IntegrityError), match=said):
        drafted(ledger, name, world, **prepare(world))
    assert [step.state for step in ledger.request(name).steps] == ["received", "identity_verified"]
    assert not (world / "deletions").exists()


def test_a_plan_that_lacks_nothing_is_made(world: Path, ledger: Ledger) -> None:
    """The same world, with the reference, the controls and a method that fits: what the tests above refuse is what they changed."""
    given = {"references": (str(world / "reference"),), "holdout": str(world / "held.jsonl"), "methods": ("rollback",)}
    (plan,) = drafted(ledger, asked(ledger, "lee"), world, **given).plans
    assert plan.models[0].ladder == ("rollback", "retrain")


def test_a_model_that_was_replaced_cannot_be_planned_by_name(world: Path, ledger: Ledger) -> None:
    """It still holds what the earlier deletion removed; without --in-service it is passed over anyway."""
    weights = read_json(world / "models" / "m" / MANIFEST)["about"]["weights"]
    first, second = asked(ledger, "ida"), asked(ledger, "lee")
    for state in ("matched", "planned", "unlearning", "verifying"):
        ledger.advance(first, state, **({"places": [], "records": []} if state == "matched" else {}))
    ledger.advance(first, "deployed", models=[{"before": weights, "after": "b" * 64, "verdict": "EQUIVALENT_WITHIN"}])
    with pytest.raises(InputError, match=r"m was replaced by the result of an earlier deletion\. Run `unlearn request plan` on"):
        drafted(ledger, second, world, in_service=(str(world / "models" / "m"),))


def opened(ledger: Ledger, controls: str, count: int, expected: int | None) -> None:
    """Audits against these controls that other requests opened."""
    for number in range(count):
        name = asked(ledger, f"other {number}")
        for state in ("matched", "planned", "unlearning", "verifying"):
            facts: dict[str, Any] = {"places": [], "records": []} if state == "matched" else {"batch": f"B-{number}"}
            audits = {"audits": [opening("m", controls, 0.05, expected)]} if state == "verifying" else {}
            ledger.advance(name, state, **facts, **audits)


@pytest.mark.slow
def test_another_number_of_audits_than_the_ledgers_is_refused_by_the_plan(
    world: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The levels were fixed by the first audit against these controls; the same number is taken, and the promise is that of the
    audit that it will be: the third, beyond two planned."""
    seen: list[str | None] = []
    real = require_planned_levels

    def noting(opened: OpenedAudits, controls: str | None, settings: Settings) -> None:
        seen.append(controls)
        real(opened, controls, settings)

    monkeypatch.setattr("unlearn.requests.preflight.require_planned_levels", noting)
    name, holdout = asked(ledger, "lee"), str(world / "held.jsonl")
    drafted(ledger, name, world, holdout=holdout)
    assert seen[0] is not None
    opened(ledger, seen[0], 2, 2)
    nine = SETTINGS.model_copy(update={"expected_audits": 9})
    with pytest.raises(InputError, match=r"with alpha = 0\.05 and 2 planned: .*Give --alpha 0.05 --expected-audits 2"):
        drafted(ledger, name, world, holdout=holdout, settings=nine)
    promised: list[Any] = []
    monkeypatch.setattr("unlearn.requests.planning.can_be_measured", lambda *_: True)

    def promise(*given: Any) -> str:
        promised.append(given[3])
        return "promised"

    monkeypatch.setattr("unlearn.requests.planning.describe_power", promise)
    two = SETTINGS.model_copy(update={"expected_audits": 2})
    found = drafted(ledger, name, world, holdout=holdout, settings=two)
    assert promised == [2]
    note(ledger, found, world / "deletions")
    assert ledger.request(name).state == "planned"


@pytest.mark.slow
def test_plans_that_are_not_run_yet_agree_on_the_number_of_audits(world: Path, ledger: Ledger) -> None:
    """Whichever of two plans against the same controls is run first fixes the levels, and the other could not be run: it cannot be
    planned. Plans of requests that ended or are planned again do not count, nor do plans against other controls."""
    lee, kim = asked(ledger, "lee"), asked(ledger, "kim")
    held, fewer = str(world / "held.jsonl"), written(world / "fewer.jsonl", HELD[:6])
    two, nine = (SETTINGS.model_copy(update={"expected_audits": number}) for number in (2, 9))

    def noted(name: str, settings: Settings, holdout: str = held) -> None:
        note(ledger, drafted(ledger, name, world, holdout=holdout, settings=settings), world / "deletions")

    noted(lee, two)
    noted(lee, nine)
    before = ledger.head()
    refused = (
        rf"plan of {lee}, which is not audited yet, .* alpha = 0\.05 and 9 planned: .*Give --alpha 0.05 --expected-audits 9 in"
    )
    for settings, also in ((two, "plan`, use other controls"), (SETTINGS, f"run {lee} first, use other")):
        with pytest.raises(InputError, match=rf"{refused}.*{also}"):
            noted(kim, settings)
    assert ledger.head() == before
    noted(kim, nine)
    noted(kim, two, fewer)
    ledger.advance(lee, "withdrawn")
    noted(kim, SETTINGS)
    with pytest.raises(InputError, match=r"no number planned: .*Leave --expected-audits out"):
        noted(asked(ledger, "jon"), two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("people", "numbers", "noted"),
    [(("lee", "kim"), (2, 9), 1), (("lee", "kim"), (2, None), 1), (("lee", "lee"), (2, 2), 1), (("lee", "kim"), (2, 2), 2)],
)
def test_plans_that_two_processes_note_at_once_have_one_order(
    world: Path, ledger: Ledger, people: tuple[str, str], numbers: tuple[int | None, int | None], noted: int
) -> None:
    """Both are made before either is noted. Plans that do not go together, and two plans of one request, are not both taken: the
    second is refused, and leaves nothing in the ledger or in its folder. Plans that agree are."""
    names = {person: asked(ledger, person) for person in dict.fromkeys(people)}
    plans = [
        drafted(
            ledger,
            names[person],
            world,
            holdout=str(world / "held.jsonl"),
            settings=SETTINGS.model_copy(update={"expected_audits": number}),
        )
        for person, number in zip(people, numbers, strict=True)
    ]
    meet = get_context("fork").Barrier(2)

    def process(number: int) -> None:
        own, said = Ledger(ledger.url), "noted"
        meet.wait(60)
        try:
            note(own, plans[number], world / "deletions")
        except InputError as error:
            said = str(error)
        (world / f"said-{number}").write_text(said)

    both = [get_context("fork").Process(target=process, args=(number,)) for number in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    said = [(world / f"said-{number}").read_text() for number in range(2)]
    assert said.count("noted") == noted
    refused = "while this plan was made" if people[0] == people[1] else "against the same controls"
    assert all(refused in one for one in said if one != "noted")
    taken = {plan.batch for plan, one in zip((one.plans[0] for one in plans), said, strict=True) if one == "noted"}
    events = [step for request in ledger.requests() for step in request.steps]
    assert {step.details["batch"] for step in events if step.state == "planned"} == taken
    assert sum(step.state == "matched" for step in events) == noted
    assert {folder.name for folder in (world / "deletions").iterdir()} == taken
    ledger.verify()


def test_a_promise_is_made_at_the_level_that_the_audit_will_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the planned number it accuses at less than before; the plan says which audit it is, and at which level."""
    given: list[Any] = []

    def measured(*_: Any, **named: Any) -> Any:
        given.append(named["audited_before"])
        return SimpleNamespace(words="60%", needed=None)

    monkeypatch.setattr(audit_power, "measure_power", measured)
    monkeypatch.setattr(audit_power, "audit_arguments", lambda *_: {})
    monkeypatch.setattr(audit_power, "reads_level_table", lambda *_: False)
    model: Any = MODEL.model_copy(update={"records": ("e" * 32, "f" * 32)})
    plan: Any = SimpleNamespace(settings=Settings(expected_audits=20), references=())
    sets = TrainingSets([], [])
    assert audit_power.describe_power(plan, model, sets, 20) == (
        "60%; as things stand, it is the 21st audit against the same controls, with 20 planned, and accuses at level 0.0025"
    )
    assert "the third audit against the same controls, with 20 planned, and accuses at level 0.00225" in audit_power.describe_power(
        plan, model, sets, 2
    )
    plain: Any = SimpleNamespace(settings=Settings(), references=())
    assert [audit_power.describe_power(one, model, sets, before) for one, before in ((plain, 2), (plan, None))] == ["60%"] * 2
    assert given == [20, 2, 2, None]


@pytest.mark.slow
def test_the_power_is_simulated_with_the_account_of_that_audit(
    world: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 21st of 20 planned is simulated at its own level, not at that of the first."""
    levels: list[Any] = []
    monkeypatch.setattr(
        measured_power, "power_by_references", lambda *given, **_: levels.append(given[2].account and given[2].account.level)
    )
    models = str(world / "models" / "m"), [str(world / "reference"), str(model_dir)]
    settings = Settings(attacks=("loss",), channels=("exact",), expected_audits=20)
    for before in (None, 19, 20):
        sets: dict[str, Any] = {"forget_set": ROWS[6:], "retain_set": ROWS[:6], "holdout_set": HELD}
        measured_power.measure_power(models[0], references=models[1], **sets, settings=settings, audited_before=before)
    assert levels == [pytest.approx(0.00225), pytest.approx(0.00225), pytest.approx(0.0025)]


def test_audits_of_one_plan_come_after_each_other(ledger: Ledger) -> None:
    """Each takes a number after those that the ledger opened; other controls are counted apart, and none are not counted."""
    opened(ledger, "c" * 64, 2, None)
    numbers = NextAudits(opened_by(ledger.requests()))
    assert [numbers.take(name) for name in ("c" * 64, "d" * 64, None, "c" * 64)] == [2, 0, None, 3]


def test_an_audit_counts_from_its_first_score(tmp_path: Path) -> None:
    """Checks before it leave nothing; the first share of the scoring leaves a mark, also where nothing else is left."""
    done: list[float] = []
    progress = noting_scores(tmp_path / "audit-0-1f2e", done.append)
    progress("looking for near-duplicates", 0.0)
    assert not was_scored(tmp_path / "audit-0-1f2e")
    progress("scoring original", 0.1)
    assert was_scored(tmp_path / "audit-0-1f2e")
    assert done == [0.0, 0.1]


def test_one_record_is_registered_with_the_controls_of_a_table(tmp_path: Path) -> None:
    """A level table and shards compare a single record with controls; elsewhere these are left out."""
    plan = planned(tmp_path, rewordings=None, settings=Settings(attacks=("loss",), shard_siblings=True))
    rows = [{"prompt": f"Where is x {number}?", "completion": f"There {number}."} for number in range(4)]
    sets = TrainingSets(parse_records(rows[:1], Fields(), "forget"), parse_records(rows[1:], Fields(), "kept"))
    assert set(require_registrable(plan, MODEL, sets)) == {"forget", "retain", "holdout"}
    plain = planned(tmp_path, rewordings=None, settings=Settings(attacks=("loss",)))
    assert set(require_registrable(plain, MODEL, sets)) == {"forget", "retain"}


def test_a_method_without_what_it_needs_is_refused(tmp_path: Path) -> None:
    """No record to keep, several adapters under an objective, a rollback without log, a base that is not there."""
    sets = TrainingSets(parse_records(ROWS[:4], Fields(), "forget"), [])
    model = MODEL.model_copy(update={"folder": str(tmp_path), "base": str(tmp_path / "nowhere")})
    with pytest.raises(InputError, match="retrain needs records to keep"):
        _require_methods(model, sets)
    kept = TrainingSets(sets.forget, parse_records(ROWS[4:], Fields(), "kept"))
    _require_methods(model, kept)
    with pytest.raises(InputError, match="rollback works on models that were trained with a log"):
        _require_methods(model.model_copy(update={"ladder": ("rollback",)}), kept)
    (tmp_path / ENSEMBLE).write_text("{}")
    with pytest.raises(InputError, match="answers by several adapters, which npo cannot train together"):
        _require_methods(model.model_copy(update={"ladder": ("npo", "retrain")}), kept)
    plan: Any = SimpleNamespace(settings=SETTINGS)
    with pytest.raises(InputError, match="cannot be loaded"):
        _require_base(plan, model.model_copy(update={"origin": str(tmp_path), "ladder": ("rollback",)}))
