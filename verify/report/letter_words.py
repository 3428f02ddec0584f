"""The words of the letters: one template folder of sentences by language, in which a company replaces what it words differently.

`verify/report/letters/` holds `LANGUAGE.yaml` (every sentence by its name), `company.yaml` (what a company says about itself, once
for all letters) and `letter.html.j2` (the layout). A folder given with `--templates`, or in $UNLEARN_VERIFY_LETTERS, may hold files
of the same names: its sentences replace those of the package one by one. A sentence may use only the places of the one it replaces,
so that no letter breaks off.
"""

import os
import re
import shutil
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.io.strict_yaml import read_yaml

LETTERS = Path(__file__).parent / "letters"
FOLDER_VARIABLE = "UNLEARN_VERIFY_LETTERS"
DEFAULT_LANGUAGE = "en"
COMPANY, LAYOUT = "company.yaml", "letter.html.j2"
FACTS = ("sender", "contact", "authority", "signature", "elsewhere", "retention", "keeping_basis", "backups", "verification")
"""What `company.yaml` says about the sender, besides the language; blanks of the same names stand in for what it leaves out."""
_CODE = re.compile(r"[a-z]{2}(-[a-z]{2,4})?")


@dataclass(frozen=True)
class Words:
    """The sentences of one language.

    Attributes:
        language: its code, such as "de".
        texts: sentences by name, such as "heading.done", with places in braces.
        company: what the company says about itself, or the blanks for it, by the names in `FACTS`.
    """

    language: str
    texts: Mapping[str, str]
    company: Mapping[str, str]

    def say(self, name: str, **values: object) -> str:
        """Return a sentence with its places filled in."""
        text = self.texts[name].format_map({**self.company, **values})
        space = "\N{NO-BREAK SPACE}"
        if self.language == "fr":  # in front of these marks, and inside quotation marks
            return re.sub(r" ([:;?!»])|(«) ", rf"\2{space}\1", text)
        if self.language == "de":  # a reference to a law stays on one line
            return re.sub(r"(\bArt\.|\bAbs\.|§) (?=\d)", rf"\1{space}", text)
        return text

    def counted(self, name: str, count: int, **values: object) -> str:
        """Return the sentence for one or for several."""
        return self.say(f"{name}.{'one' if count == 1 else 'many'}", count=count, **values)

    def below(self, name: str) -> list[str]:
        """Return all sentences below a name, in the order of the file."""
        return [self.say(key) for key in self.texts if key.startswith(f"{name}.")]

    def day(self, day: date) -> str:
        """Write a day in words."""
        form = "first_day" if day.day == 1 else "day"
        return self.say(form, day=day.day, month=self.texts[f"months.{day.month}"], year=day.year)

    def kind(self, kind: str) -> str:
        """Name a kind of copy, without the count that some kinds carry; one that has no word here stays as it was recorded."""
        return self.texts.get(f"kind.{re.sub(r', [0-9]+ rows?$', '', kind)}", kind)


def templates_folder(given: Path | None = None) -> Path | None:
    """Return the company's folder of templates: the given one, else that of $UNLEARN_VERIFY_LETTERS, else None.

    Raises:
        InputError: it is not a folder.
    """
    named = given or (Path(os.environ[FOLDER_VARIABLE]) if os.environ.get(FOLDER_VARIABLE) else None)
    if named is not None and not named.is_dir():
        raise InputError(
            f"{named} is not a folder of letter templates. Give a folder with --templates DIR or ${FOLDER_VARIABLE}; "
            "`verify-unlearning letter-templates DIR` makes one."
        )
    return named


def languages(folder: Path | None = None) -> tuple[str, ...]:
    """Return the codes of all languages that letters can be written in."""
    found = [path.stem for place in (LETTERS, folder) if place is not None for path in sorted(place.glob("*.yaml"))]
    return tuple(dict.fromkeys(code for code in found if _CODE.fullmatch(code)))


def load_words(language: str | None = None, folder: Path | None = None) -> Words:
    """Read the sentences of a language, and the company's facts.

    Args:
        language: its code; None for the company's own, else English.
        folder: the company's folder; see `templates_folder`.

    Raises:
        InputError: there is no such language, or a file of the company's names an unknown sentence or place.
    """
    own = None if folder is None or not (folder / COMPANY).is_file() else folder / COMPANY
    facts: Mapping[str, Any] = {} if own is None else _company(own)
    code = language or facts.get("language") or DEFAULT_LANGUAGE
    if not isinstance(code, str) or code not in languages(folder):
        raise InputError(f"there are no letters in {str(code)[:20]!r}. Use one of: {', '.join(languages(folder))}.")
    texts = _sentences(code, folder)
    company = {name: _fact(facts.get(name), code) or texts[f"blank.{name}"] for name in FACTS}
    # An address keeps its lines; everything else stands in a sentence.
    company = {name: text if name == "sender" else " ".join(text.split()) for name, text in company.items()}
    return Words(code, texts, company)


def copy_templates(folder: Path) -> list[Path]:
    """Copy the template folder of the package, for a company to edit.

    Raises:
        InputError: the folder already holds one of the files.
    """
    files = sorted(path for path in LETTERS.iterdir() if path.is_file())
    if taken := next((path.name for path in files if (folder / path.name).exists()), None):
        raise InputError(f"{folder / taken} exists already. Name a new folder, or edit the files in this one.")
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(path, folder / path.name)) for path in files]


def _sentences(code: str, folder: Path | None) -> dict[str, str]:
    """Return all sentences of a language; those of the company's folder replace those of the package."""
    packaged, own = LETTERS / f"{code}.yaml", None if folder is None else folder / f"{code}.yaml"
    known = _flat(_read(packaged if packaged.is_file() else LETTERS / f"{DEFAULT_LANGUAGE}.yaml"))
    if own is None or not own.is_file():
        return known
    given = _flat(_read(own))
    for name, text in given.items():
        if name not in known:
            raise InputError(f"{own}: {name[:60]!r} is not a sentence of the letters. Take the names from {LETTERS / 'en.yaml'}.")
        allowed = {*places(known[name]), *FACTS}
        if unknown := sorted(_own_places(text, own, name) - allowed):
            raise InputError(
                f"{own}: {name} has the place {{{unknown[0]}}}. It may have: {', '.join(f'{{{one}}}' for one in sorted(allowed))}."
            )
    if not packaged.is_file() and (missing := [name for name in known if name not in given and not name.startswith("kind.")]):
        raise InputError(f"{own} is a language of its own and lacks {len(missing)} sentences, first {missing[0]}. Add them.")
    return {**known, **given}


def places(text: str) -> frozenset[str]:
    """Return the names of the places in a sentence.

    Raises:
        ValueError: its braces do not pair up, or a place is more than a name.
    """
    found = [(name, form, conversion) for _, name, form, conversion in string.Formatter().parse(text) if name is not None]
    if any(form or conversion or not name.isidentifier() for name, form, conversion in found):
        raise ValueError(text)
    return frozenset(name for name, _, _ in found)


def _own_places(text: str, path: Path, name: str) -> frozenset[str]:
    try:
        return places(text)
    except ValueError:
        raise InputError(f"{path}: the braces of {name} are not places like {{day}}. Write {{{{ for a brace.") from None


def _read(path: Path) -> Mapping[str, Any]:
    form = "Write `name: sentence`, a sentence with a colon in quotation marks."
    content = read_yaml(path, purpose="Give a text file in UTF-8.", form=form)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no sentences. {form}")
    return content


def _flat(content: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return sentences by their dotted names; the members of a list are numbered from 1."""
    found: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, list):
            value = {str(number): one for number, one in enumerate(value, 1)}
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": str(value).strip()}
    return found


def _company(path: Path) -> Mapping[str, Any]:
    content = _read(path)
    if unknown := next((name for name in content if name not in ("language", *FACTS)), None):
        raise InputError(f"{path}: {unknown[:60]!r} is not asked for. Use: language, {', '.join(FACTS)}.")
    return content


def _fact(value: Any, language: str) -> str:
    """Return what a company says, in a language; "" where it says nothing."""
    text = value.get(language, "") if isinstance(value, dict) else value
    return text.strip() if isinstance(text, str) else ""
