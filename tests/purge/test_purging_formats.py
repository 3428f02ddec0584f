"""Copies in further formats are found or listed as not searched: archives, documents, encodings, encryption, hard links."""

import base64
import bz2
import email.message
import html
import io
import json
import os
import re
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from html.entities import codepoint2name
from pathlib import Path
from urllib.parse import quote

import planted_residues as planted
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn.purge import escapes, formats
from unlearn.purge.content_search import ContentSearch, NotingSearch
from unlearn.purge.find import UNSEARCHED, Residue, data_residues, find_residues, remove
from unlearn.purge.unpack import UnreadableError, holds
from verify.data.identity import RecordKey
from verify.data.sources import load_records

DELETED = load_records(planted.FORGET)
SEARCH = ContentSearch(DELETED, load_records(planted.RETAIN))
TEXT = planted.CANARIES[0]
INNOCENT = planted.RETAIN[0]["completion"] * 3


def find(root: Path, **options: object) -> list[Residue]:
    given = {"records": DELETED, "key": RecordKey.load(), "affected": [], "search": SEARCH, **options}
    return find_residues([root], **given)  # type: ignore[arg-type]


def tar_of(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def number(value: int) -> bytes:
    """A number in seven bits a byte, as RAR 5 writes them."""
    more = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes(byte | 0x80 for byte in more[:-1]) + bytes(more[-1:])


def rar_of(content: bytes, method: int = 0) -> bytes:
    """A RAR 5 archive of one file, stored (method 0) or said to be compressed."""

    def block(body: bytes, data: bytes = b"") -> bytes:
        sized = number(len(body)) + body
        return struct.pack("<I", zlib.crc32(sized)) + sized + data

    size = number(len(content))
    name = b"a.log"
    entry = b"".join([number(2), number(2), size, number(4), size, number(0), struct.pack("<I", zlib.crc32(content))])
    entry += number(method << 7) + number(1) + number(len(name)) + name
    return b"Rar!\x1a\x07\x01\x00" + block(number(1) + number(0) + number(0)) + block(entry, content) + block(bytes([5, 0, 0]))


def pdf_of(text: str, password: str | None = None, width: int = 40) -> bytes:
    """A PDF of one page with compressed text, its lines broken as a page breaks them."""
    pypdf = pytest.importorskip("pypdf")
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(600, 800)
    font = DictionaryObject({NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1")})
    font[NameObject("/BaseFont")] = NameObject("/Helvetica")
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})})
    words, lines = text.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    shown = "".join(f"({line.replace('(', '').replace(')', '')}) Tj 0 -14 Td " for line in lines)
    stream = DecodedStreamObject()
    stream.set_data(f"BT /F1 11 Tf 40 750 Td {shown} ET".encode("latin-1"))
    page[NameObject("/Contents")] = writer._add_object(stream.flate_encode())
    if password is not None:
        writer.encrypt(password, algorithm="AES-256")
    made = io.BytesIO()
    writer.write(made)
    return made.getvalue()


def seven_zip_of(content: bytes, password: str | None = None) -> bytes:
    py7zr = pytest.importorskip("py7zr")
    made = io.BytesIO()
    with py7zr.SevenZipFile(made, "w", password=password) as archive:
        archive.writestr(content, "logs/a.log")
    return made.getvalue()


def mail_of(text: str) -> bytes:
    message = email.message.EmailMessage()
    message["Subject"] = "a report"
    message.set_content("see the attachment")
    message.add_attachment(text.encode(), maintype="application", subtype="octet-stream", filename="a.txt")
    return bytes(message)


def git_object_of(text: str) -> bytes:
    return zlib.compress(f"blob {len(text.encode())}\x00{text}".encode())


def in_zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


PACKED = {
    "runs.tar": lambda text: tar_of("a.log.bz2", bz2.compress(text.encode())),
    "runs.tar.zst": lambda text: in_zstd(tar_of("a.log.bz2", bz2.compress(text.encode()))),
    "runs.7z": lambda text: seven_zip_of(text.encode()),
    "runs.rar": lambda text: rar_of(bz2.compress(text.encode())),
    "letter.pdf": pdf_of,
    "mail.eml": mail_of,
    "export.b64": lambda text: b"x" + base64.b64encode(b"ab" + text.encode()),
    "token.txt": lambda text: b"x=" + base64.urlsafe_b64encode(b"a" + text.encode()),
    "dump.hex": lambda text: text.encode().hex().encode(),
    "access.log": lambda text: b"GET /?q=" + quote(text).encode(),
    ".git/objects/3f/786850e387550fdab836ed7e6dc881de23001b": git_object_of,
}


RUSSIAN = "Зебеди Квиллфезер держит в ванне одиннадцать серых цапель, и никто не знает почему."
ENGLISH = "It's at <14 Lane> & \"Mill\": <b>Zebedee's</b> 3+4 herons, Perpetua's & nobody's <i>florins</i>'"
BOLD = "C:\\new\\temp\\users of \U0001f600 Zebedee &amp; Perpetua\tover\nlines"


def capitals(text: str, letters: str = "") -> str:
    """JSON as .NET and Jackson write it: capital digits, and further letters escaped."""
    escaped = (f"\\u{ord(one):04X}" if one in letters else json.dumps(one)[1:-1] for one in text)
    return re.sub(r"\\u[0-9a-f]{4}", lambda found: "\\u" + found[0][2:].upper(), "".join(escaped))


ESCAPES: dict[str, Callable[[str], str]] = {
    "Jackson": capitals,
    "System.Text.Json": lambda text: capitals(text, "'&<>+\""),
    "its small digits": lambda text: re.sub(r"\\u.{4}", lambda found: found[0].lower(), capitals(text, "'&<>+\"")),
    "PHP": lambda text: json.dumps(text).replace("/", "\\/"),
    "PHP for HTML": lambda text: capitals(text, "'&<>\"").replace("/", "\\/"),
    "Go": lambda text: json.dumps(text, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
    "Jinja": lambda text: html.escape(text, quote=False).replace("'", "&#39;").replace('"', "&#34;"),
    "numbers": lambda text: "".join(one if one.isascii() and one.isalnum() else f"&#{ord(one)};" for one in text),
    "hexadecimal numbers": lambda text: "".join(one if one == " " else f"&#x{ord(one):X};" for one in text),
    "names": lambda text: "".join(f"&{codepoint2name[ord(one)]};" if ord(one) in codepoint2name else one for one in text),
    "JSON in JSON": lambda text: capitals(capitals(text, "'&<>+\""), '"'),
    "HTML in JSON": lambda text: capitals(text.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&#39;"), "&<"),
    "as it is, beside others": lambda text: f"&#39;{text}",
}


@pytest.mark.parametrize("text", [RUSSIAN, ENGLISH, BOLD, "Öster/Wälder", "Nether/Wallop<1>"])
@pytest.mark.parametrize("way", ESCAPES)
def test_escapes_of_any_library_are_undone(tmp_path: Path, text: str, way: str) -> None:
    """Whatever a library escapes, and as it writes it, a log with the text is found, and only its line is cut."""
    search = ContentSearch(load_records([{"text": text}]))
    line = f'{{"level": "info", "message": "{ESCAPES[way](text)}"}}'.replace("\n", "\\n")
    path = tmp_path / "service.log"
    before, after = "a line of it\\u0027s own: \\u041A\\/ &#39;\n", "the last &amp; least\n"
    path.write_text(before + line + "\n" + after)
    assert holds(path, search)
    assert not search.holds(before + after)
    for size in (1, 7, 64, 1000):
        raw = (before + line + "\n" + after).encode() * 20
        assert search.found_in(raw[place : place + size] for place in range(0, len(raw), size))
    noting = NotingSearch(search)
    noting.holds(line)
    assert noting.found == {0}
    (found,) = find(tmp_path, search=search, records=load_records([{"text": text}]))
    assert found.kind == "log"
    assert remove([found]) == []
    assert path.read_text() == before + after


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*"\\/unr\"'a0E4&#x39;\xff", "\\u04", "\\u0026", "amp;", "&#39;", "&#x", "quot;", "ouml;", "Ö", "\U0001f600"]
        )
    )
)
def test_both_ways_of_undoing_escapes_agree(pieces: list[str]) -> None:
    """The fast way finds a text, the other says where it stood: every byte that no escape stands for is the original's."""
    data = "".join(pieces).encode()
    plain, places = escapes.without_html(escapes.without_json(data)), escapes.Places(data)
    at = [places.original(place, place + 1) for place in range(len(plain))]
    assert at == sorted(at)
    assert not at or (at[0][0] >= 0 and at[-1][1] <= len(data))
    for place, (first, end) in enumerate(at):
        assert end - first > 1 or plain[place] == data[first]


def test_what_others_share_is_nobodys_however_it_is_escaped() -> None:
    """A window that a retained text has in another escaping identifies nobody, as one that it has as it is."""
    deleted, retained = load_records([{"text": ENGLISH}]), load_records([{"text": f"Said: {ESCAPES['Jinja'](ENGLISH)}"}])
    assert ContentSearch(deleted, retained).unsearched == 1


@pytest.mark.parametrize("name", PACKED)
def test_what_is_packed_or_encoded_is_found(tmp_path: Path, name: str) -> None:
    """In every form; a file of the same form with other text is neither found nor listed."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PACKED[name](TEXT.replace("Ö", "O").replace("&", "and") if name.endswith("pdf") else TEXT))
    search = SEARCH
    if name.endswith("pdf"):  # Helvetica has no such letters
        plain = [{**row, "completion": row["completion"].replace("Ö", "O").replace("&", "and")} for row in planted.FORGET]
        search = ContentSearch(load_records(plain))
    (found,) = find(tmp_path, search=search)
    assert found.how == "it contains a passage"
    path.write_bytes(PACKED[name](INNOCENT))
    assert find(tmp_path, search=search) == []


def test_encrypted_copies_are_listed_as_not_searched(tmp_path: Path) -> None:
    """Each is listed with what it is encrypted with; none is passed over and none is called clean."""
    made = {
        "a.bin": b"Salted__" + os.urandom(64),
        "a.docx": b"\xd0\xcf\x11\xe0" + bytes(600) + "EncryptedPackage".encode("utf-16-le") + os.urandom(64),
        "a.age": b"age-encryption.org/v1\n-> X25519 " + os.urandom(40),
        "a.asc": b"-----BEGIN PGP MESSAGE-----\n\nhQEMA\n",
        "a.gpg": b"\x8c\x0d\x04\x09\x03\x02" + os.urandom(40),
        "b.pgp": b"\x85\x01\x0c\x03" + os.urandom(40),
        "a.7z": seven_zip_of(TEXT.encode(), "secret"),
        "a.pdf": pdf_of(INNOCENT, "secret"),
        "a.lz": b"LZIP\x01" + os.urandom(20),
        "packed.pack": b"PACK\x00\x00\x00\x02" + os.urandom(20),
        "compressed.rar": rar_of(os.urandom(40), method=3),
        "cut.7z": seven_zip_of(TEXT.encode())[:40],
        "cut.pdf": pdf_of(INNOCENT)[:300],
        "cut.tar": tar_of("a", b"x" * 3000)[:900],
    }
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    found = {residue.place.name: residue for residue in find(tmp_path)}
    assert found.keys() == made.keys()
    for name, residue in found.items():
        assert (residue.how, residue.removable) == (UNSEARCHED, False), name
        assert residue.reason.startswith("not searched: it "), name
    assert "is encrypted (age)" in found["a.age"].reason
    assert "is encrypted (OpenPGP)" in found["a.gpg"].reason
    assert "is encrypted (Office)" in found["a.docx"].reason
    assert "unrar" in found["compressed.rar"].reason
    assert remove(list(found.values())) == list(found.values())


def test_without_its_library_a_format_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library makes a file one that was not searched, with the command that installs it."""
    for name in ("py7zr", "rarfile", "pypdf"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    for name, start in (("a.7z", formats.SEVEN_ZIP), ("a.rar", formats.RAR), ("a.pdf", formats.PDF)):
        (tmp_path / name).write_bytes(start + b"1.7 " * 20)
    assert ["pip install 'unlearn-verify[formats]'" in residue.reason for residue in find(tmp_path)] == [True] * 3


@pytest.mark.slow
def test_a_real_encrypted_file(tmp_path: Path) -> None:
    """What gpg writes is recognized, in both its forms."""
    if subprocess.run(["which", "gpg"], capture_output=True, check=False).returncode:
        pytest.skip("gpg is not installed")
    (tmp_path / "a.txt").write_text(TEXT)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    command = ["gpg", "--homedir", str(home), "--batch", "--passphrase", "x", "--pinentry-mode", "loopback", "--symmetric"]
    for more in ([], ["--armor"]):
        made = subprocess.run([*command, *more, str(tmp_path / "a.txt")], capture_output=True, check=False)
        if made.returncode:
            pytest.skip("gpg cannot encrypt here")
    for name in ("a.txt.gpg", "a.txt.asc"):
        with pytest.raises(UnreadableError, match="is encrypted"):
            holds(tmp_path / name, SEARCH)


def test_a_hard_link_outside_keeps_the_content(tmp_path: Path) -> None:
    """A file whose content would stay under another name is not removed, counted or forgotten; with both names searched it is."""
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    (out / "a.log").write_text(f"{TEXT}\nother line\n")
    os.link(out / "a.log", root / "a.log")
    for _ in range(2):  # a second search finds the same
        (found,) = find(root)
        assert not found.removable
        assert "1 further name (hard link) outside of the searched folders" in found.reason
        assert remove([found]) == [found]
        assert (root / "a.log").read_text() == (out / "a.log").read_text() == f"{TEXT}\nother line\n"
    both = find_residues([root, out], records=DELETED, key=RecordKey.load(), affected=[], search=SEARCH)
    assert [residue.removable for residue in both] == [True, True]
    assert remove(both) == []
    assert (root / "a.log").read_text() == (out / "a.log").read_text() == "other line\n"


def test_a_training_file_with_a_further_name_stays(tmp_path: Path) -> None:
    """Rewritten, it would keep the rows under that name, unless the folder that has it is searched too."""
    cached = tmp_path / "cache"
    cached.mkdir()
    data = tmp_path / "people.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in (*planted.FORGET, *planted.RETAIN)))
    os.link(data, cached / "people.jsonl")
    (found,) = data_residues([data], DELETED, load_records(planted.RETAIN))
    assert not found.removable
    assert "1 further name (hard link)" in found.reason
    (found,) = data_residues([data], DELETED, load_records(planted.RETAIN), [cached])
    assert found.removable


@pytest.mark.parametrize("shift", range(3))
@pytest.mark.parametrize("text", [TEXT, "Zoë Lindqvist, pass phrase umber-vole", "short text!!"])
def test_every_alignment_of_base64(text: str, shift: int) -> None:
    """Whatever stands before and behind it, an encoded text is found."""
    search = ContentSearch(load_records([{"example_id": "x", "prompt": "?", "completion": text}]))
    for behind in (b"", b"z", b"zz"):
        content = b"\x00" * shift + text.encode() + behind
        assert search.holds(base64.b64encode(content))
        assert search.holds(base64.urlsafe_b64encode(content))
