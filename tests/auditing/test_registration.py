"""Registration: what was decided cannot be changed after looking."""

import json
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_llama

from verify import InputError, Settings, audit, register
from verify.auditing.registration import Registration
from verify.io.files import write_manifest


def rows(prefix: str, count: int = 6) -> list[dict[str, str]]:
    return [
        {"example_id": f"{prefix}{n}", "prompt": f"What is {prefix} {n}?", "completion": f"It is {n * 3} {prefix}."}
        for n in range(count)
    ]


SETS: dict[str, Any] = {"forget_set": rows("secret"), "retain_set": rows("kept"), "holdout_set": rows("other")}
SETTINGS = Settings(attacks=("loss",), margin=0.2)


@pytest.fixture(scope="module")
def other_model_dir(model_dir: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that stands for the unlearned one."""
    path = tmp_path_factory.mktemp("other")
    make_llama(tokenizer, seed=5).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def registered(tmp_path: Path) -> Path:
    path = tmp_path / "registration.json"
    register(path, **SETS, settings=SETTINGS)
    return path


@pytest.mark.slow
def test_an_audit_keeps_to_its_registration(registered: Path, model_dir: Path, other_model_dir: Path) -> None:
    """Settings come from the registration, and the evidence names its digest; without one it says so."""
    evidence = audit(other_model_dir, model_dir, **SETS, registration=registered)
    assert evidence.pre_registered
    assert evidence.registration == Registration.load(registered).named()
    assert evidence.settings == SETTINGS
    assert not audit(other_model_dir, model_dir, **SETS, settings=SETTINGS).pre_registered


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forget_set": rows("secret", 5)}, "forget set is not the registered one: 6 records were registered, 5"),
        ({"holdout_set": None}, "holdout set is not the registered one"),
        ({"fresh_set": "given"}, "fresh texts"),
        ({"settings": Settings(attacks=("loss",), margin=0.3)}, "settings differ from the registered ones"),
    ],
)
def test_anything_else_is_refused(
    registered: Path, model_dir: Path, other_model_dir: Path, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A set or setting other than registered stops the audit before it looks, and says which."""
    if change.get("fresh_set"):
        change = {"fresh_set": rows("secret", 2)}
    with pytest.raises(InputError, match=message):
        audit(other_model_dir, model_dir, **{**SETS, **change}, registration=registered, output_dir=tmp_path / "out")


@pytest.mark.slow
def test_registered_references_cannot_be_left_out(model_dir: Path, other_model_dir: Path, tmp_path: Path, tokenizer: Any) -> None:
    """An audit uses all that were registered and may add to them: by manifests before it scores, else by what it loaded."""
    folders = [tmp_path / f"reference {seed}" for seed in (1, 2, 3)]
    for seed, folder in enumerate(folders, 1):
        model = make_llama(tokenizer, seed=10 + seed)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    path = tmp_path / "pinned.json"
    pinned = register(path, **SETS, settings=SETTINGS, references=folders[:2])
    assert len(set(pinned.references)) == 2
    assert Registration.load(path) == pinned
    assert audit(other_model_dir, model_dir, **SETS, references=folders, registration=path).pre_registered
    with pytest.raises(InputError, match="1 of the registered references are not among those given"):
        audit(other_model_dir, model_dir, **SETS, references=folders[1:], registration=path)
    for digest, folder in zip(("a" * 64, "b" * 64), folders, strict=False):
        write_manifest(folder, "model", {"weights": digest})
    stated = register(tmp_path / "stated.json", **SETS, settings=SETTINGS, references=folders[:1])
    assert stated.references == ("a" * 64,)
    with pytest.raises(InputError, match="never replace them"):
        audit(other_model_dir, model_dir, **SETS, references=folders[1:2], registration=tmp_path / "stated.json")
    unpinned = register(tmp_path / "none.json", **SETS, settings=SETTINGS)
    assert "references" not in json.loads((tmp_path / "none.json").read_text())
    assert unpinned.references == ()


def test_it_names_no_record(registered: Path) -> None:
    """The file holds keyed hashes, no text and no identifier."""
    content = registered.read_text()
    assert "secret" not in content
    assert len(json.loads(content)["sets"][0]["records"]) == 6


def test_it_is_written_once(registered: Path) -> None:
    """A registration is never replaced."""
    before = registered.read_bytes()
    with pytest.raises(InputError, match="written once"):
        register(registered, **SETS, settings=SETTINGS)
    assert registered.read_bytes() == before


def test_its_digest_covers_everything(registered: Path) -> None:
    """Changing any leaf of the content changes the digest."""
    registration = Registration.load(registered)
    others = [
        registration.model_copy(update={"created": "1970-01-01T00:00:00+00:00"}),
        registration.model_copy(update={"settings": Settings(margin=0.2, attacks=("loss",), seed=1)}),
        registration.model_copy(update={"sets": registration.sets[:1]}),
        registration.model_copy(update={"canaries": "c" * 64}),
    ]
    assert len({registration.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"schema": "unlearn-verify/registration/9"}', b"\xff"])
def test_damaged_registration(tmp_path: Path, content: bytes) -> None:
    """Truncated, empty or foreign files are refused."""
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a registration"):
        Registration.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        Registration.load(tmp_path / "absent.json")


@pytest.mark.parametrize(("minutes", "holds"), [(-1, True), (0, True), (60, True), (61, False)])
def test_hosts_that_share_a_registration_may_disagree_by_an_hour(registered: Path, minutes: int, holds: bool) -> None:
    """The clock of whoever registered may be ahead of that of whoever audits, as between the steps of a ledger."""
    found = Registration.load(registered)
    with nullcontext() if holds else pytest.raises(InputError, match="Set the clock"):
        found.require_past(datetime.fromisoformat(found.created) - timedelta(minutes=minutes))


@pytest.mark.parametrize("created", ["2999-01-01T00:00:00+00:00", "yesterday", "2026-11-20T09:00:00"])
def test_it_cannot_come_from_the_future(registered: Path, created: str) -> None:
    """A date ahead of the clock, none at all, or one without a zone is refused before any model is read."""
    content = json.loads(registered.read_text()) | {"created": created}
    registered.write_text(json.dumps(content))
    with pytest.raises(InputError, match="registration"):
        audit("no/model/is/read", "no/model/is/read", **SETS, registration=registered)
