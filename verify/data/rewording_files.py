"""Files of rewordings, and files of templates that make them.

A file of rewordings has one JSON object a line, for every forget record and every control:

    {"record": "ID", "rewordings": ["another question", {"prompt": "another question", "completion": "the answer in other words"}]}

`record` is the record's identifier; `sha256` instead of it is its fingerprint. A text stands for another prompt, or for another
first user's turn of a chat; a plain text is reworded as {"text": "..."}. Where records are structured, a file of templates makes
them:

    templates:
      - prompt: 'When was (?P<name>.+) born\\?'
        completion: '.* on (?P<date>.+)\\.'
        rewordings:
          - 'What is the birthday of {name}?'
          - {prompt: 'On which day was {name} born?', completion: 'It was {date}.'}

The first template whose regular expressions match the whole prompt and the whole completion (or `text`) rewords a record.
"""

import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from verify.data.canonical import canonical
from verify.data.records import Record
from verify.data.rewordings import Rewordings, Source, asked_as, plain_words, question
from verify.data.sources import stream_rows
from verify.errors import InputError
from verify.io.documents import Frozen
from verify.io.files import no_file
from verify.io.strict_json import NotStrictError, parse_json

MOST = 20
"""Largest number of rewordings of a record."""

Form = TypeVar("Form", bound=Frozen)
RewordingSource = str | Path | Sequence[Mapping[str, Any]]
"""A file of rewordings or of templates, or the rows of a file of rewordings."""


class Wording(Frozen):
    """One rewording, or the pattern of one: another prompt, with the answer in other words where given, or another text."""

    prompt: str | None = None
    completion: str | None = Field(default=None, min_length=1)
    text: str | None = Field(default=None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        return {"prompt": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.text is None) == (self.prompt is None) or (self.text is not None and self.completion is not None):
            raise ValueError('a rewording is a text, {"prompt", "completion"} or {"text"}')
        return self

    def of(self, record: Record, where: str) -> Record:
        """Return the record in these words.

        Raises:
            InputError: the record is of another shape.
        """
        plain = not record.messages and not record.prompt
        if plain != (self.text is not None):
            raise InputError(
                f'{where}: the record is a plain text, which is reworded as {{"text": "..."}}.'
                if plain
                else f'{where}: the record has a prompt, so its rewordings are prompts, or {{"prompt", "completion"}}.'
            )
        if record.messages and self.completion is not None:
            raise InputError(f"{where}: a chat is reworded by its first user's turn alone. Give a text.")
        if self.text is not None:
            return replace(record, completion=self.text, secret=None)
        made = asked_as(record, self.prompt or "")
        return made if self.completion is None else replace(made, completion=self.completion)


class Row(Frozen):
    """One line of a file of rewordings."""

    record: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    rewordings: tuple[Wording, ...] = Field(min_length=1, max_length=MOST)

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if (self.record is None) == (self.sha256 is None):
            raise ValueError("give either `record` or `sha256`")
        return self


class Template(Frozen):
    """Regular expressions that read a record's fields, and its rewordings over these fields."""

    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    rewordings: tuple[Wording, ...] = Field(min_length=1, max_length=MOST)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        patterns = [pattern for pattern in (self.prompt, self.completion, self.text) if pattern is not None]
        if not patterns or (self.text is not None and len(patterns) > 1):
            raise ValueError("give regular expressions for `prompt` and `completion`, or for `text`")
        names: set[str] = set()
        for pattern in patterns:
            try:
                names |= re.compile(pattern).groupindex.keys()
            except re.error as error:
                raise ValueError(f"a regular expression is not one ({error.msg} at character {error.pos})") from None
        for wording in self.rewordings:
            for text in (wording.prompt, wording.completion, wording.text):
                _require_fields(text or "", names)
        return self

    def fields_of(self, record: Record) -> dict[str, str] | None:
        """Return the fields of a record by their names; None where it is of another form."""
        plain = not record.messages and not record.prompt
        if plain != (self.text is not None):
            return None
        read: dict[str, str] = {}
        parts = ((self.text, record.completion), (self.prompt, question(record)), (self.completion, record.scored_text))
        for pattern, content in parts:
            found = None if pattern is None else re.fullmatch(pattern, content, re.DOTALL)
            if pattern is not None and (found is None or None in found.groupdict().values()):
                return None
            read |= {} if found is None else found.groupdict()
        return read


class Templates(Frozen):
    """A file of templates."""

    templates: tuple[Template, ...] = Field(min_length=1)


def load_rewordings(source: RewordingSource, sets: Mapping[Any, Sequence[Record]]) -> Rewordings:
    """Read rewordings of every forget record and every control.

    Args:
        source: a file of rewordings (.jsonl), a file of templates (.yaml or .json), or rows.
        sets: the audit's sets; those of "forget" and "holdout" are reworded.

    Raises:
        InputError: the file is missing, cut off or of another form, a record has no rewordings or has them twice, a row names a
            record of neither set, or a rewording is the record's own wording.
    """
    content, name = read_source(source), _name(source)
    made = _of_templates(content, name, sets) if isinstance(content, Mapping) else _of_rows(content, name, sets)
    counts = sorted({len(wordings) for wordings in made.values()})
    if len(counts) > 1:
        raise InputError(f"{name}: some records have {counts[0]} rewordings, others {counts[-1]}. Give each the same number.")
    for role, number, record in _listed(sets):
        _require_other_words(record, made[record.fingerprint], f"{name}: {role} record {number}")
    kind: Source = "templates" if isinstance(content, Mapping) else "records"
    return Rewordings(kind, counts[0], content_digest(content), None, made)


def read_source(source: RewordingSource) -> Any:
    """Read a source of rewordings without applying it: the rows of a file of rewordings, or the mapping of a file of templates.

    Raises:
        InputError: the file is missing, cut off, or of no known kind.
    """
    if not isinstance(source, str | Path):
        return list(source)
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path} {no_file(path)}. Give a file of rewordings (.jsonl) or of templates (.yaml, .json).")
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        rows = list(stream_rows(str(path)))
        if not rows:
            raise InputError(f"{path} holds no rewordings. Give a line for every forget record and every control.")
        return rows
    if kind not in (".yaml", ".yml", ".json"):
        raise InputError(f"{path} is of an unknown kind. Give rewordings as .jsonl, or templates as .yaml or .json.")
    content = _templates_in(path, kind)
    if not isinstance(content, dict):
        raise InputError(
            f"{path} is not a file of templates, which begins with `templates:`. Give rewordings one by one as a .jsonl file."
        )
    return content


def content_digest(content: Any) -> str:
    """Compute the SHA-256 of what `read_source` gave, in canonical form: layout and order of names do not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _of_rows(rows: Sequence[Any], name: str, sets: Mapping[Any, Sequence[Record]]) -> dict[str, tuple[Record, ...]]:
    """Return the rewordings by the record's fingerprint, as rows give them record by record."""
    listed = _listed(sets)
    named = {canonical(record.example_id): record for _, _, record in listed if record.named}
    printed = {record.fingerprint: record for _, _, record in listed}
    made: dict[str, tuple[Record, ...]] = {}
    first: dict[str, int] = {}
    for number, content in enumerate(rows, 1):
        where = f"{name}, row {number}"
        row = _validated(Row, content, where)
        record = named.get(canonical(row.record)) if row.record is not None else printed.get(row.sha256 or "")
        if record is None:
            raise InputError(f"{where} names a record that is neither in the forget set nor among the controls. Remove the row.")
        if record.fingerprint in first:
            raise InputError(f"{name}: rows {first[record.fingerprint]} and {number} are about the same record. Keep one of them.")
        first[record.fingerprint] = number
        made[record.fingerprint] = tuple(wording.of(record, where) for wording in row.rewordings)
    _require_all(made, listed, name, "Add a row for each.")
    return made


def _of_templates(content: Mapping[str, Any], name: str, sets: Mapping[Any, Sequence[Record]]) -> dict[str, tuple[Record, ...]]:
    """Return the rewordings by the record's fingerprint, made by the first template that reads the record."""
    templates = _validated(Templates, content, name).templates
    listed = _listed(sets)
    made: dict[str, tuple[Record, ...]] = {}
    for role, number, record in listed:
        for template in templates:
            read = template.fields_of(record)
            if read is not None:
                filled = [wording.model_copy(update=_filled(wording, read)) for wording in template.rewordings]
                where = f"{name}: {role} record {number}"
                made[record.fingerprint] = tuple(wording.of(record, where) for wording in filled)
                break
    _require_all(made, listed, name, "Add a template that matches them; `prompt: '(?P<question>.+)'` matches every prompt.")
    return made


def _filled(wording: Wording, read: Mapping[str, str]) -> dict[str, str]:
    """Return the parts of a template's wording with the fields filled in."""
    parts = {name: getattr(wording, name) for name in ("prompt", "completion", "text")}
    return {name: text.format_map(read) for name, text in parts.items() if text is not None}


def _require_fields(text: str, names: set[str]) -> None:
    """Raise ValueError unless a pattern uses plain fields that the regular expressions name."""
    try:
        parsed = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"a rewording cannot be read ({error}); write a brace as {{{{ or }}}}") from None
    for name, spec, conversion in parsed:
        if name not in names or spec or conversion:
            known = ", ".join(f"{{{known}}}" for known in sorted(names)) or "none"
            raise ValueError(f"a rewording uses {{{name}}}, but the regular expressions name {known}")


def _listed(sets: Mapping[Any, Sequence[Record]]) -> list[tuple[str, int, Record]]:
    """Return the records that are asked in other words, each with its set and its number there."""
    return [(role, number, record) for role in ("forget", "holdout") for number, record in enumerate(sets.get(role, ()), 1)]


def _require_all(made: Mapping[str, Any], listed: Sequence[tuple[str, int, Record]], name: str, remedy: str) -> None:
    missing = [(role, number) for role, number, record in listed if record.fingerprint not in made]
    if missing:
        role, number = missing[0]
        raise InputError(
            f"{name}: {len(missing)} of {len(listed)} forget records and controls have no rewording (the first is {role} record "
            f"{number}). {remedy}"
        )


def _require_other_words(record: Record, wordings: Sequence[Record], where: str) -> None:
    """Refuse a rewording that is the record's own wording, or the same as another one of it."""
    texts = [plain_words(f"{question(one)} {one.scored_text}") for one in (record, *wordings)]
    for number, text in enumerate(texts[1:], 1):
        if text in texts[:number]:
            other = texts.index(text)
            same = "the record's own wording" if other == 0 else f"the same as its rewording {other}"
            raise InputError(f"{where}: rewording {number} is {same}. Word it differently.")


def _validated(kind: type[Form], content: Any, where: str) -> Form:
    """Check a row or a file against its form.

    Raises:
        InputError: it has another one; the message repeats no value.
    """
    try:
        # Through JSON, which has no tuples: everything else stays strict.
        return kind.model_validate_json(json.dumps(content, ensure_ascii=True))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}{f', {place}' if place else ''}: {said}. Correct it.") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} holds something that JSON cannot ({type(error).__name__}). Correct it.") from None


def _templates_in(path: Path, kind: str) -> Any:
    """Parse a file of templates; neither format may give a name twice."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return parse_json(text) if kind == ".json" else _yaml(text)
    except NotStrictError as error:
        raise InputError(f"{path} gives a name twice in one object ({error.reason}). Keep one of them.") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as {kind[1:]} ({type(error).__name__}); it may be cut off. Restore it.") from None


def _yaml(text: str) -> Any:
    """Parse YAML of plain texts.

    Raises:
        ValueError: it is not YAML, or gives a name twice.
    """
    import yaml

    class UniqueNames(yaml.BaseLoader):
        """A loader that reads every scalar as text and refuses a name that is given twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [self.construct_object(name, deep=True) for name, _ in node.value]
            if len({str(name) for name in names}) < len(names):
                raise NotStrictError("a name is given twice")
            made: dict[Any, Any] = super().construct_mapping(node, deep)
            return made

    try:
        return yaml.load(text, UniqueNames)  # noqa: S506 - it constructs nothing but texts
    except yaml.YAMLError as error:
        raise ValueError("not YAML") from error


def _name(source: RewordingSource) -> str:
    return str(source) if isinstance(source, str | Path) else "the rewordings"
