"""Packs what a world's models were scored as into one file: numbers and the design, no record and no weight."""

from collections.abc import Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

from benchmarks.level_table.worlds import DESIGN
from verify.errors import InputError
from verify.io.files import atomic_file


def pack(folders: Sequence[Path], to: Path) -> None:
    """Write designs and losses of some worlds into a zip file.

    Raises:
        InputError: there is no world.
    """
    if not folders:
        raise InputError("no world was trained there. Name the folder that train was given with --output.")
    with atomic_file(to) as stream, ZipFile(stream, "w", ZIP_DEFLATED, compresslevel=9) as packed:
        for folder in folders:
            for path in (folder / DESIGN, *sorted((folder / "losses").glob("*.npz"))):
                packed.write(path, Path(folder.name) / path.relative_to(folder))


def unpack(path: Path, to: Path) -> None:
    """Unpack the worlds of a zip file into a folder.

    Raises:
        InputError: it is no zip file, is cut off, or holds something else than designs and losses.
    """
    try:
        with ZipFile(path) as packed:
            for name in packed.namelist():
                place = Path(name)
                design = len(place.parts) == 2 and place.name == DESIGN
                losses = len(place.parts) == 3 and place.parts[1] == "losses" and place.suffix == ".npz"
                if not (design or losses) or place.is_absolute() or ".." in place.parts:
                    raise InputError(f"{path.name} was not written by pack. Move it out of the folder.")
            packed.extractall(to)
    except BadZipFile:
        raise InputError(f"{path.name} is no zip file, or is cut off. Copy it again.") from None
