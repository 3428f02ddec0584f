"""Whether the rows of a table with vectors show the texts that the vectors were made of.

A text can be guessed from its vector, so a table whose texts lie elsewhere may hold deleted data although no deleted text is found
in it. Nothing is known of a row without a text of its own. Where rows have only short texts and refer to longer ones in another
table, the vectors may be of those; a row whose text is a part of the one that it refers to is a passage of it, and its vector is of
that.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from unlearn.purge.redact import strings_in
from verify.io.strict_json import parse_json

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

SAMPLE = 200
"""Number of rows whose texts are compared with those that they refer to."""
PARAGRAPH = 200
"""Least number of characters of a text that counts as the one that its row's vector was made of."""
_RUNNING = re.compile(r"[^\W\d_]{2,}\S*\s+\S*[^\W\d_]{2,}|[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{4,}")
"""Two words, or four characters of a script without spaces: no number, date, key or name of a model."""
_REFERRED = """
SELECT n.nspname, r.relname, has_table_privilege(r.oid, 'SELECT'),
    ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(num, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.place),
    ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(num, place)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.place),
    ARRAY(SELECT a.attname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped AND t.typcategory IN ('S', 'U', 'A', 'C'))
FROM pg_constraint k JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace n ON n.oid = r.relnamespace
    JOIN pg_class o ON o.oid = k.conrelid JOIN pg_namespace m ON m.oid = o.relnamespace
WHERE k.contype = 'f' AND r.oid <> o.oid AND m.nspname = %s AND o.relname = %s ORDER BY 1, 2
"""


def longest_text(values: Iterable[str | None]) -> str:
    """Return the longest of a row's values, or of the strings in its JSON, that reads like text; "" if none does."""
    texts = (text for value in values if value for text in _strings(value))
    return max((text for text in texts if _RUNNING.search(text)), key=len, default="")


def _strings(value: str) -> Iterator[str]:
    if value[:1] in "{[":
        try:
            yield from strings_in(parse_json(value, constants=True))
        except (
            ValueError,
            RecursionError,
        ):  # an array or a composite value of the database, or an object that gives one name twice
            pass
        else:
            return
    yield value


def bare(count: int, vectors: int) -> str:
    """Return why a table is listed in which some rows show no text."""
    return (
        f"not searched: {count} of its {vectors} vectors lie in rows without a text, so what they were made of is not known; find "
        "out through the application that owns it which belong to the deleted records, and delete those"
    )


def texts_elsewhere(connection: "Connection", schema: str, name: str, columns: Sequence[str]) -> str | None:
    """Return why the vectors of a table may be of texts in a table that its rows refer to; None where nothing speaks for that.

    Args:
        connection: an open database.
        schema, name: names of the table, unquoted.
        columns: its columns other than vectors.
    """
    for other_schema, other, readable, keys, their_keys, theirs in connection.execute(_REFERRED, (schema, name)).fetchall():
        if not theirs:
            continue
        place = f"{other_schema}.{other}"
        if not readable:
            return f"not searched: its rows refer to {place}, which this role may not read; purge as the owner of both"
        pairs = _pairs(connection, (schema, name, keys, columns), (other_schema, other, their_keys, theirs))
        if sum(_is_elsewhere(own, referred) for own, referred in pairs) * 2 > len(pairs):
            return (
                f"not searched: its rows refer to longer texts in {place}, of which its vectors may be; find out through the "
                "application that owns it which belong to the deleted records, and delete those"
            )
    return None


def _is_elsewhere(own: str, referred: str) -> bool:
    return len(own) < PARAGRAPH and len(referred) > 2 * len(own) and own not in referred


Side = tuple[str, str, Sequence[str], Sequence[str]]
"""A table's schema and name, the columns by which the two refer to each other, and those that may hold text."""


def _pairs(connection: "Connection", own: Side, other: Side) -> list[tuple[str, str]]:
    """Return the longest text of some rows, each with that of the row which it refers to."""
    from psycopg import sql

    def texts(alias: str, names: Sequence[str]) -> sql.Composed:
        return sql.SQL("ARRAY[{}]").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(alias, name)) for name in names)
        )

    same = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier("o", mine), sql.Identifier("r", theirs))
        for mine, theirs in zip(own[2], other[2], strict=True)
    )
    query = sql.SQL("SELECT {}, {} FROM ONLY {} AS o JOIN {} AS r ON {} LIMIT {}").format(
        texts("o", own[3]), texts("r", other[3]), sql.Identifier(*own[:2]), sql.Identifier(*other[:2]), same, sql.Literal(SAMPLE)
    )
    return [(longest_text(mine), longest_text(theirs)) for mine, theirs in connection.execute(query)]
