"""Shared by the tests of requests: a ledger in a file, and a real PostgreSQL server where one can be started."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from deletion_world import build_world
from postgres_server import installed, running

import unlearn.cli.main
from unlearn.requests.ledger.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger in SQLite."""
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`unlearn request ...`: its exit status, and what it printed on both streams."""

    def run(*words: str, stdin: str = "") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = unlearn.cli.main.main(["request", *words])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


@pytest.fixture
def empty_postgres(postgres_url: str) -> str:
    """The same server with no ledger in it yet."""
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS events, key_check, callbacks, ledger_layout CASCADE"))
    engine.dispose()
    return postgres_url


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of deletions; tests work on copies."""
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of its own on a Unix socket; skips where none is installed."""
    if not (found := installed()):
        pytest.skip("no PostgreSQL server is installed (apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed (pip install 'unlearn-verify[postgres]')")
    with running(found[0], tmp_path_factory.mktemp("postgres")) as (url, _):
        yield url.replace("postgresql://", "postgresql+psycopg://")
