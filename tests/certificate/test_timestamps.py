"""Time stamps: what an authority signed verifies here as with openssl, and everything else is named for what it is."""

import contextlib
import shutil
from pathlib import Path

import pytest
from certificates import broken, check
from time_authority import answered, make_authority, openssl, serving

import verify.cli.main
from verify.certificate.timestamps import check_stamp, stamp_file, stamp_query
from verify.errors import InputError, IntegrityError, RunError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("authority") / "a")


@pytest.mark.slow
def test_a_stamp_verifies_here_and_with_openssl(authority: Path, tmp_path: Path) -> None:
    """The same file, by both programs; on another content, with another root, cut off or without a reply: an error for each."""
    content = b"a certificate"
    (tmp_path / "file").write_bytes(content)
    with serving(authority) as url:
        stamp = stamp_file(tmp_path / "file", url)
    assert stamp_file(tmp_path / "file", "http://nowhere.invalid/") == stamp, "it is there"
    (tmp_path / "file").write_bytes(content + b".")
    with pytest.raises(InputError, match="not a time stamp on"):
        stamp_file(tmp_path / "file", "http://nowhere.invalid/")
    (tmp_path / "file").write_bytes(content)
    openssl(authority, "ts", "-verify", "-in", str(stamp), "-data", str(tmp_path / "file"), "-CAfile", "root.pem")
    root = authority / "root.pem"
    found = check_stamp(stamp, content, [root])
    assert found.authority == "CN=Time of Day"
    assert found.at.utcoffset() is not None
    with pytest.raises(IntegrityError, match="on another file"):
        check_stamp(stamp, content + b".", [root])
    other = make_authority(tmp_path / "other")
    with pytest.raises(IntegrityError, match="not signed by an authority that you trust"):
        check_stamp(stamp, content, [other / "root.pem"])
    assert check_stamp(stamp, content, [other / "root.pem", root]) == found
    (other / "serial").write_text("09\n")
    forged = tmp_path / "forged"
    forged.write_bytes(answered(other, stamp_query(content).as_bytes()))
    with pytest.raises(IntegrityError, match="not signed by an authority that you trust"):
        check_stamp(forged, content, [root])
    whole = stamp.read_bytes()
    for place in range(0, len(whole), 7):
        forged.write_bytes(whole[:place])
        with pytest.raises(IntegrityError):
            check_stamp(forged, content, [root])
        forged.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(IntegrityError):
            assert check_stamp(forged, content, [root]).at == found.at, "only what is not signed can be changed"
    with pytest.raises(InputError, match="holds no certificate"):
        check_stamp(stamp, content, [tmp_path / "file"])


def test_answers_that_are_no_stamp(authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection, a foreign stamp in the authority's place and a URL that is none: said, and nothing is written."""
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(RunError, match="cannot be reached"):
        stamp_file(tmp_path / "file", "http://127.0.0.1:9/")
    with pytest.raises(InputError, match="is not a URL"):
        stamp_file(tmp_path / "file", "file:///etc/passwd")
    earlier = answered(authority, stamp_query(b"content").as_bytes())
    monkeypatch.setattr("time_authority.answered", lambda *_: earlier)
    with serving(authority) as url, pytest.raises(RunError, match="did not answer with a stamp on this file"):
        stamp_file(tmp_path / "file", url)
    assert not (tmp_path / "file.tsr").exists()


def test_a_certificate_with_a_stamp(
    house: dict[str, Path], authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the shell, with the query sent by other means; the check names the time, and an edited certificate is another file."""
    certificate = shutil.copy(house["certificate.json"], tmp_path / "certificate.json")
    query, stamp, root = tmp_path / "q.tsq", tmp_path / "certificate.json.tsr", str(authority / "root.pem")
    assert verify.cli.main.main(["timestamp", str(certificate), "--query", str(query)]) == 0
    stamp.write_bytes(answered(authority, query.read_bytes()))
    assert verify.cli.main.main(["timestamp", str(certificate), "--check", str(stamp), "--authority", root]) == 0
    assert "existed on 20" in capsys.readouterr().out
    assert verify.cli.main.main(["timestamp", str(certificate)]) == 2
    checked = check(house, certificate, timestamp=stamp, authorities=[root])
    assert checked.holds, broken(checked)
    assert "the certificate existed on" in checked.findings[-1].detail
    certificate.write_text(certificate.read_text() + "\n")
    assert "on another file" in broken(check(house, certificate, timestamp=stamp, authorities=[root]))
    with pytest.raises(InputError, match="--authority"):
        check(house, certificate, timestamp=stamp)
