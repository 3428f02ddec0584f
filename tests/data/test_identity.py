"""Names only the key's holder can connect."""

import hashlib
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.data.identity import KEY_VARIABLE, RecordKey
from verify.errors import InputError

KEY, OTHER = RecordKey(b"k" * 32), RecordKey(b"o" * 32)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_name_depends_on_key_purpose_and_value(value: str) -> None:
    """The same value gets the same name under one key and purpose, and another under another; never its plain hash."""
    name = KEY.of(value)
    assert name == KEY.of(value)
    assert len({name, OTHER.of(value), KEY.of(value, "subject"), KEY.of(value + "x")}) == 4
    assert name != hashlib.sha256(value.encode()).hexdigest()[:32]
    assert len(name) == 32
    assert set(name) <= set("0123456789abcdef")


def test_known_answer() -> None:
    """HMAC-SHA256 over purpose, a zero byte and the value, cut to 128 bits: worked out by hand from RFC 2104."""
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in b"k" * 32 + bytes(32)) + b"record\x00ada").digest()
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in b"k" * 32 + bytes(32)) + inner).hexdigest()
    assert KEY.of("ada") == outer[:32]


def test_key_file_is_private_and_stays(tmp_path: Path) -> None:
    """The first use makes a key readable by its owner only; later uses read the same one."""
    path = tmp_path / "new" / "record.key"
    first = RecordKey.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert RecordKey.load(path) == first
    assert RecordKey.load(tmp_path / "other.key") != first
    assert [entry.name for entry in path.parent.iterdir()] == ["record.key"]


def test_concurrent_creation_yields_one_key(tmp_path: Path) -> None:
    """Many processes that start at once all get the key of whoever was first."""
    with ProcessPoolExecutor(4) as pool:
        keys = list(pool.map(RecordKey.load, [tmp_path / "record.key"] * 24))
    assert len({key.secret for key in keys}) == 1


@pytest.mark.parametrize("content", ["", "ab" * 31, "ab" * 33, "zz" * 32, "\N{SNOWMAN}"])
def test_damaged_key_is_refused_and_kept(content: str, tmp_path: Path) -> None:
    """A damaged key is never replaced by a fresh one: that would silently break every earlier name."""
    path = tmp_path / "record.key"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="not a record key"):
        RecordKey.load(path)
    assert path.read_text(encoding="utf-8") == content


def test_the_secret_is_not_shown() -> None:
    """A key in a log line or a traceback shows nothing."""
    assert "kkk" not in repr(KEY) + str(KEY) + f"{[KEY]}"


def test_where_the_key_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable wins over the user's data folder."""
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "k"))
    assert RecordKey.default_path() == tmp_path / "k"
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert RecordKey.default_path() == tmp_path / "unlearn-verify" / "record.key"
