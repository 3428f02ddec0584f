"""Whoever edits a certificate, with or without the key, gets findings or one clear error, and never a forged one that holds."""

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from certificates import check, rewritten
from hypothesis import given, settings
from hypothesis import strategies as st
from spoiled_documents import JSON, place_and_value, put, spoiled

from verify import InputError

ENVELOPE = st.fixed_dictionaries({"payload": JSON, "payloadType": JSON, "signatures": JSON})
EVERYDAY, THOROUGH = 60, 1_000
"""Twice the second number: two thousand certificates in the slow profile."""


def payloads(content: bytes) -> list[bytes]:
    return [base64.b64decode(envelope["payload"]) for envelope in json.loads(content)["envelopes"]]


def never_fooled(house: dict[str, Path], path: Path, content: bytes) -> None:
    """Findings or an InputError; where it holds, the signed contents are those of the whole certificate, in whatever spelling."""
    path.write_bytes(content)
    try:
        checked = check(house, path)
    except InputError:
        return
    if checked.holds:
        assert payloads(content) == payloads(house["certificate.json"].read_bytes())


def spoil_many(house: dict[str, Path], path: Path, count: int) -> None:
    @settings(max_examples=count, deadline=None)
    @given(data=st.data())
    def spoil(data: st.DataObject) -> None:
        never_fooled(house, path, data.draw(spoiled(house["certificate.json"].read_bytes())))

    spoil()


def sign_many(house: dict[str, Path], path: Path, count: int) -> None:
    @settings(max_examples=count, deadline=None)
    @given(number=st.integers(0, 1), change=place_and_value())
    def forge(number: int, change: tuple[list[float], Any]) -> None:
        def replace(statements: list[Any]) -> None:
            statements[number] = put(statements[number], *change)

        with suppress(InputError):
            check(house, rewritten(house, path, replace), ledger_head="ab" * 32, deletion=house["deletion"])

    forge()


def test_spoiled_certificates(house: dict[str, Path], tmp_path: Path) -> None:
    """Flipped bits, cuts and insertions anywhere in the file."""
    spoil_many(house, tmp_path / "c.json", EVERYDAY)


@pytest.mark.slow
def test_certificates_of_a_mad_signer(house: dict[str, Path], tmp_path: Path) -> None:
    """Any node of a statement replaced by anything, and signed by the right key: findings or an InputError, nothing else."""
    sign_many(house, tmp_path / "c.json", EVERYDAY)


@pytest.mark.slow
def test_two_thousand_certificates(house: dict[str, Path], tmp_path: Path) -> None:
    """The same, two thousand times; `python -m benchmarks.reliability` feeds ten thousand."""
    spoil_many(house, tmp_path / "c.json", THOROUGH)
    sign_many(house, tmp_path / "c.json", THOROUGH)


@settings(max_examples=EVERYDAY, deadline=None)
@given(envelopes=st.lists(JSON | ENVELOPE, min_size=1, max_size=4))
def test_hostile_envelopes(house: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, envelopes: list[Any]) -> None:
    """Whatever stands where envelopes should be, the check ends with findings and never holds."""
    path = tmp_path_factory.mktemp("hostile") / "c.json"
    path.write_text(json.dumps({"schema": "unlearn-verify/certificate/1", "envelopes": envelopes}))
    assert not check(house, path).holds


def test_nothing_of_a_certificate_reaches_the_terminal_raw(house: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    """Escapes and direction marks in a signer's name are shown by their code."""
    from verify.cli.main import main

    content = json.loads(house["certificate.json"].read_text())
    content["envelopes"][0]["signatures"][0]["keyid"] = "\x1b[2J\u202eevil"
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    assert main(["check", str(path), "--key", f"{house['key']}.pub"]) == 1
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "<U+001B>[2J<U+202E>evil" in printed
