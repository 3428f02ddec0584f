"""Training and audit read spelled-out special tokens alike, and what was decided stands in manifest, registration and evidence."""

import json
from pathlib import Path
from typing import Any

import pytest

import unlearn.cli.main
from unlearn import NPO, TrainingOptions, finetune, forget
from verify.auditing.registration import Registration
from verify.data.reading import agreed_reading, fields_for, require_reading
from verify.data.records import Fields
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json, write_manifest
from verify.schema.settings import Settings

TOKENS = Fields(special_tokens=True)


def trained(folder: Path, reading: bool | None) -> str:
    folder.mkdir()
    fields = {} if reading is None else {"special_tokens": reading}
    write_manifest(folder, "model", {"inputs": {"fields": {"text": "text", **fields}}})
    return str(folder)


def test_settings_say_what_the_columns_say() -> None:
    """Either place switches it on, and both say so afterwards."""
    for fields, settings in ((TOKENS, Settings()), (None, Settings(special_tokens=True)), (TOKENS, Settings(special_tokens=True))):
        found, said = agreed_reading(fields, settings, ())
        assert found.special_tokens
        assert said.special_tokens
    found, said = agreed_reading(None, Settings(), ())
    assert (found, said) == (Fields(), Settings())


def test_a_model_that_was_trained_otherwise_is_refused(tmp_path: Path) -> None:
    """Its manifest decides; manifests of earlier versions mean letters; models without one say nothing."""
    tokens, letters, old = (trained(tmp_path / name, value) for name, value in (("t", True), ("l", False), ("o", None)))
    (tmp_path / "foreign").mkdir()
    for model in (letters, old, "owner/name", object(), None, tmp_path / "foreign"):
        require_reading(None, (model,))
    require_reading(TOKENS, (tokens, "owner/name"))
    with pytest.raises(InputError, match=r"read as tokens\. Give --read-special-tokens"):
        agreed_reading(None, Settings(), (letters, tokens))
    for model in (letters, old):
        with pytest.raises(InputError, match=r"read as plain text\. Leave out --read-special-tokens"):
            require_reading(TOKENS, (model,))


def test_a_registration_fixes_the_reading() -> None:
    """What was registered as letters is not audited as tokens; the registered reading needs no flag."""
    with pytest.raises(InputError, match="the registration reads special tokens as plain text"):
        agreed_reading(TOKENS, Settings(), (), registered=True)
    assert agreed_reading(None, Settings(special_tokens=True), (), registered=True)[0].special_tokens


def test_what_says_nothing_new_is_written_as_before() -> None:
    """Digests of registrations from before there was a choice stay what they were."""
    assert "special_tokens" not in Settings().model_dump()
    assert (
        "special_tokens"
        not in json.loads(Registration.model_construct(created="x", sets=(), settings=Settings()).model_dump_json())["settings"]
    )
    written = Settings(special_tokens=True).model_dump_json()
    assert Settings.model_validate_json(written) == Settings(special_tokens=True)


def test_the_manifest_says_how_it_was_read(tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training notes its reading. Where no columns are named, unlearning reads likewise; with another reading it is refused
    before anything is written."""
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"text": f"number {number}</s>"}) + "\n" for number in range(4)))
    options = TrainingOptions(max_steps=1, batch_size=2)
    finetune(str(model_dir), str(data), output_dir=tmp_path / "model", fields=TOKENS, options=options)
    assert read_json(tmp_path / "model" / MANIFEST)["about"]["inputs"]["fields"]["special_tokens"] is True
    given: dict[str, Any] = {"forget_set": str(data), "output_dir": tmp_path / "out"}
    remembered = fields_for(None, [str(tmp_path / "model")], [str(data)])
    assert remembered is not None
    assert remembered.special_tokens
    with pytest.raises(InputError, match=r"read as tokens\. Give --read-special-tokens"):
        forget(str(tmp_path / "model"), NPO(), fields=Fields(), **given)
    finetune(str(model_dir), str(data), output_dir=tmp_path / "letters", options=options)
    words = ["--model", str(tmp_path / "letters"), "--forget", str(data), "--output", str(tmp_path / "out")]
    assert unlearn.cli.main.main(["forget", "npo", *words, "--read-special-tokens"]) == 2
    assert "read as plain text. Leave out --read-special-tokens" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
