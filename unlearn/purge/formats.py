"""Archives and documents that other libraries open (7z, RAR, PDF), tar archives, and files whose content cannot be searched.

What is encrypted, or packed in a way that nothing here opens, is reported as not searched, never passed over: a file that was not
searched may hold what was to be deleted.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from verify.io.extras import install

HEAD_BYTES = 512
"""Bytes at the start of a file by which its format is recognized; a tar archive is recognized at byte 257."""
LARGEST_IN_MEMORY = 64 << 20
"""Largest size to which a 7z archive may unpack, since its members are held in memory; larger ones are not searched."""

ENCRYPTED = {
    b"Salted__": "openssl",
    b"age-encryption.org/": "age",
    b"-----BEGIN AGE ENCRYPTED": "age",
    b"-----BEGIN PGP MESSAGE": "OpenPGP",
    b"LUKS\xba\xbe": "LUKS",
    b"\x03\xd9\xa2\x9a": "KeePass",
    b"$ANSIBLE_VAULT;": "ansible-vault",
    b"\x00GITCRYPT\x00": "git-crypt",
}
"""How encrypted files begin, and with what they were encrypted."""
NOT_OPENED = {
    b"LZIP": "compressed with lzip",
    b"\x1f\x9d": "compressed with compress",
    b"\x89LZO": "compressed with lzop",
    b"\xff\x06\x00\x00sNaPpY": "compressed with Snappy",
    b"MSCF": "a cabinet archive",
    b"xar!": "a xar archive",
    b"PACK\x00\x00\x00\x02": "a part of the history of a Git repository",
}
"""How files begin that hold packed content which nothing here opens."""
SEVEN_ZIP, RAR, PDF, TAR = b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"%PDF-", b"ustar"
_PGP_SUFFIXES = (".gpg", ".pgp")
_PGP_TAGS = {1, 3, 9, 18, 20}
"""OpenPGP packets with which an encrypted message begins (RFC 9580, section 5)."""
COMPOUND, ENCRYPTED_OFFICE = b"\xd0\xcf\x11\xe0", "EncryptedPackage".encode("utf-16-le")
"""How a compound file begins (the old Office format), and the name that its table of contents has where it holds a new Office
document that is encrypted (MS-OFFCRYPTO, section 2.3)."""
_WRAPPED_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{60,76}\r?\n)+[A-Za-z0-9+/]{0,76}={0,2}")


class UnreadableError(Exception):
    """A file, or part of it, could not be read, so its content is unknown. The message completes "it ..."."""


def obstacle(head: bytes, name: str) -> str | None:
    """Return why a file cannot be searched, in words that complete "it ..."; None where nothing is known against it.

    Args:
        head: its first bytes, `HEAD_BYTES` of them.
        name: its name, by whose suffix OpenPGP files are recognized; "" for what is packed in another file.
    """
    for start, tool in ENCRYPTED.items():
        if head.startswith(start):
            return f"is encrypted ({tool})"
    for start, what in NOT_OPENED.items():
        if head.startswith(start):
            return f"is {what}, which is not opened"
    if name.lower().endswith(_PGP_SUFFIXES) and head[:1] >= b"\x80" and _pgp_tag(head[0]) in _PGP_TAGS:
        return "is encrypted (OpenPGP)"
    return None


def _pgp_tag(first: int) -> int:
    """Return the packet's tag: six bits in the current form, four in the old one."""
    return first & 0x3F if first & 0x40 else (first & 0x3C) >> 2


def is_tar(head: bytes) -> bool:
    """Return whether a file is a tar archive."""
    return head[257:262] == TAR


def tar_members(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield the files in a tar archive; nothing is unpacked to disk."""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for entry in archive:
            member = archive.extractfile(entry) if entry.isreg() else None
            if member is not None:
                yield member


def seven_zip_members(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield the files in a 7z archive, held in memory.

    Raises:
        UnreadableError: py7zr is missing, or the archive is encrypted, damaged or too large.
    """
    try:
        import py7zr
        from py7zr.io import BytesIOFactory
    except ImportError:
        raise UnreadableError(f"is a 7z archive; to open it: {install('formats')}") from None
    file.seek(0)
    try:
        with py7zr.SevenZipFile(file, "r") as archive:
            if archive.needs_password():
                raise UnreadableError("is an encrypted 7z archive")
            if len(set(archive.getnames())) != len(archive.getnames()):
                raise UnreadableError("is a 7z archive that names a file twice")
            if sum(entry.uncompressed or 0 for entry in archive.list()) > LARGEST_IN_MEMORY:
                raise UnreadableError(f"is a 7z archive of more than {LARGEST_IN_MEMORY >> 20} MiB; unpack it and search again")
            factory = BytesIOFactory(LARGEST_IN_MEMORY)
            archive.extractall(factory=factory)  # noqa: S202 - into memory
    except UnreadableError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged archive may fail in any way in a foreign parser
        raise UnreadableError(f"is a 7z archive that cannot be opened ({type(error).__name__})") from None
    for member in factory.products.values():
        member.seek(0)
        yield io.BytesIO(member.read())


def rar_members(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield the files in a RAR archive; compressed ones are unpacked by the program unrar, unar or bsdtar, if there is one.

    Raises:
        UnreadableError: rarfile or such a program is missing, or the archive is encrypted or damaged.
    """
    try:
        import rarfile
    except ImportError:
        raise UnreadableError(f"is a RAR archive; to open it: {install('formats')}") from None
    file.seek(0)
    try:
        with rarfile.RarFile(file) as archive:
            if archive.needs_password():
                raise UnreadableError("is an encrypted RAR archive")
            for entry in archive.infolist():
                if entry.is_file():
                    with archive.open(entry) as member:
                        yield member
    except (rarfile.RarCannotExec, rarfile.RarExecError):
        raise UnreadableError("is a RAR archive; to open it, install unrar, unar or bsdtar") from None
    except rarfile.Error as error:
        raise UnreadableError(f"is a RAR archive that cannot be opened ({type(error).__name__})") from None


def pdf_texts(file: IO[bytes]) -> Iterator[str]:
    """Yield the text of each page of a PDF, as it stands and with line breaks as spaces, then its notes, fields and attachments.

    Raises:
        UnreadableError: pypdf is missing, the file is encrypted or damaged, or pages are pictures without text.
    """
    try:
        import pypdf
    except ImportError:
        raise UnreadableError(f"is a PDF; to read it: {install('formats')}") from None
    file.seek(0)
    pictures = 0
    try:
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("is an encrypted PDF")
        for page in reader.pages:
            text = page.extract_text()
            yield text
            yield " ".join(text.split())
            pictures += not text.strip() and bool(len(page.images))
        yield from _pdf_extras(reader)
    except UnreadableError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way in a foreign parser
        raise UnreadableError(f"is a PDF that cannot be read ({type(error).__name__})") from None
    if pictures:
        raise UnreadableError(f"has {pictures} pages that are pictures without text")


def _pdf_extras(reader: Any) -> Iterator[str]:
    """Yield what a PDF holds besides its pages' text."""
    yield "\n".join(str(value) for value in (reader.metadata or {}).values())
    yield "\n".join(str(field.get("/V", "")) for field in (reader.get_fields() or {}).values())
    for page in reader.pages:
        yield "\n".join(str(note.get_object().get("/Contents", "")) for note in page.get("/Annots") or ())
    for contents in reader.attachments.values():
        yield from (content.decode("utf-8", "replace") for content in contents)


def wrapped_base64(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what a text encodes in wrapped Base64, as mails do; a window of text does not fit on one of its lines.

    Raises:
        UnreadableError: the file is too large to be held in memory.
    """
    import base64

    file.seek(0)
    content = file.read(LARGEST_IN_MEMORY + 1)
    if len(content) > LARGEST_IN_MEMORY:
        raise UnreadableError(f"has parts in Base64 and more than {LARGEST_IN_MEMORY >> 20} MiB")
    for block in _WRAPPED_BASE64.finditer(content):
        packed = b"".join(block[0].split()).rstrip(b"=")
        yield base64.b64decode(packed[: len(packed) // 4 * 4])


def is_git_object(path: Path) -> bool:
    """Return whether a file is a loose object of a Git repository, which is compressed without a recognizable beginning."""
    return ".git" in path.parts and "objects" in path.parts and re.fullmatch(r"[0-9a-f]{38,62}", path.name) is not None
