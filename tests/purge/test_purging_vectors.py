"""Vector indexes: real ones are searched and cleaned, other rows and vectors stay, and what is not searched is said."""

import json
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import planted_residues as planted
import pytest

from unlearn.purge.content_search import ContentSearch
from unlearn.purge.find import UNSEARCHED, Residue, find_residues, remove
from verify.data.identity import RecordKey
from verify.data.sources import load_records

DELETED = load_records(planted.FORGET)
SEARCH = ContentSearch(DELETED, load_records(planted.RETAIN))
VECTORS = np.random.default_rng(0).normal(size=(len(planted.ROWS), 8)).astype("float32")
KEPT = [number for number, row in enumerate(planted.ROWS) if row not in planted.FORGET]


def find(root: Path, **options: Any) -> list[Residue]:
    return find_residues([root], **{"records": DELETED, "key": RecordKey.load(), "affected": [], "search": SEARCH, **options})


def one(root: Path, **options: Any) -> Residue:
    (found,) = find(root, **options)
    assert (found.kind, found.removable) == ("vector index", True), found
    return found


def anywhere(root: Path) -> bool:
    return any(SEARCH.holds(path.read_bytes()) for path in root.rglob("*") if path.is_file())


@pytest.mark.slow
def test_qdrant(tmp_path: Path) -> None:
    """Points of a local collection go with their vectors, without opening a pickle; the library finds the others afterwards."""
    qdrant = pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    from qdrant_client.models import Distance, PointStruct, VectorParams

    client = qdrant.QdrantClient(path=str(tmp_path / "store"))
    client.create_collection("people", vectors_config=VectorParams(size=8, distance=Distance.COSINE))
    points = [PointStruct(id=number, vector=VECTORS[number].tolist(), payload=row) for number, row in enumerate(planted.ROWS)]
    client.upsert("people", points)
    found = one(tmp_path)
    (left,) = remove([found])
    assert "in use" in left.reason
    client.close()
    assert remove([one(tmp_path)]) == []
    assert find(tmp_path) == []
    assert not anywhere(tmp_path)
    client = qdrant.QdrantClient(path=str(tmp_path / "store"))
    shown, _ = client.scroll("people", limit=100, with_vectors=True)
    assert sorted(point.id for point in shown) == KEPT
    assert client.query_points("people", query=VECTORS[KEPT[0]].tolist(), limit=1).points[0].id == KEPT[0]
    client.close()


def test_lancedb(tmp_path: Path) -> None:
    """Rows go from every version of a table; the others keep columns and vectors. A table with an index is left, with reason."""
    lancedb = pytest.importorskip("lancedb", reason="lancedb is not installed")
    rows = [{"text": row["completion"], "id": number, "vector": VECTORS[number]} for number, row in enumerate(planted.ROWS)]
    database = lancedb.connect(tmp_path / "db")
    table = database.create_table("people", rows)
    table.delete("id = 1")  # the application has deleted it, an older version has not
    assert remove([one(tmp_path)]) == []
    assert find(tmp_path) == []
    assert not anywhere(tmp_path)
    left = lancedb.connect(tmp_path / "db").open_table("people").to_arrow().sort_by("id")
    assert left["id"].to_pylist() == KEPT
    assert np.array_equal(np.array(left["vector"].to_pylist(), dtype="float32"), VECTORS[KEPT])
    assert left.schema == table.schema
    table = database.create_table("indexed", rows)
    table.create_scalar_index("id")
    (stays,) = remove([one(tmp_path)])
    assert "search indexes" in stays.reason


def test_chroma(tmp_path: Path) -> None:
    """A collection is written again without the rows; nothing is left in queue, index or full text, and others answer as before."""
    chromadb = pytest.importorskip("chromadb", reason="chromadb is not installed")
    from chromadb.api.client import SharedSystemClient

    def opened() -> Any:
        return chromadb.PersistentClient(str(tmp_path / "store"), settings=chromadb.Settings(anonymized_telemetry=False))

    client = opened()
    people = client.create_collection(
        "people", embedding_function=None, metadata={"of": "people"}, configuration={"hnsw": {"space": "cosine"}}
    )
    for number, row in enumerate(planted.ROWS):
        whole = {"documents": [row["completion"]]} if number % 2 else {}
        people.add(ids=[f"p{number}"], embeddings=[VECTORS[number].tolist()], metadatas=[{"text": row["completion"]}], **whole)
    other = client.create_collection("other", embedding_function=None)
    other.add(ids=["x"], embeddings=[VECTORS[0].tolist()], documents=["Nothing about anybody."])
    people.delete(ids=["p1"])  # the application has deleted it, the queue has not
    client._system.stop()
    SharedSystemClient.clear_system_cache()
    folders = {path.name for path in (tmp_path / "store").iterdir()}
    assert remove([one(tmp_path)]) == []
    assert find(tmp_path) == []
    assert not anywhere(tmp_path)
    assert len({path.name for path in (tmp_path / "store").iterdir()} - folders) <= 1, "nothing lies about"
    client = opened()
    people = client.get_collection("people", embedding_function=None)
    assert people.metadata == {"of": "people"}
    assert people.configuration_json["hnsw"]["space"] == "cosine"
    left = people.get(include=["embeddings", "documents", "metadatas"])
    assert sorted(left["ids"]) == [f"p{number}" for number in KEPT]
    found = dict(zip(left["ids"], left["embeddings"], strict=True))
    assert all(np.allclose(found[f"p{number}"], VECTORS[number]) for number in KEPT)
    assert people.query(query_embeddings=[VECTORS[KEPT[1]].tolist()], n_results=1)["ids"] == [[f"p{KEPT[1]}"]]
    assert client.get_collection("other", embedding_function=None).get()["documents"] == ["Nothing about anybody."]
    client._system.stop()
    SharedSystemClient.clear_system_cache()


def plant_faiss(folder: Path, index: Any, rows: list[dict[str, Any]] | None = None) -> None:
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(folder / "people.faiss"))
    if rows is not None:
        (folder / "people.jsonl").write_text(planted.json_lines(rows))


def test_faiss(tmp_path: Path) -> None:
    """Row and vector go together, so the others still answer for themselves."""
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    index = faiss.IndexFlatL2(8)
    index.add(VECTORS)
    plant_faiss(tmp_path, index, planted.ROWS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (stays,) = remove(find(tmp_path))
    assert "only with --rewrite-data" in stays.reason, "the rows may be what a model is trained on"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert remove([one(tmp_path, rewrite_data=True)]) == []
    assert find(tmp_path) == []
    left = faiss.read_index(str(tmp_path / "people.faiss"))
    rows = [json.loads(line) for line in (tmp_path / "people.jsonl").read_text().splitlines()]
    assert rows == [planted.ROWS[number] for number in KEPT]
    _, nearest = left.search(VECTORS[KEPT], 1)
    assert nearest[:, 0].tolist() == list(range(len(KEPT)))


def test_indexes_that_are_not_searched_or_cleaned(tmp_path: Path) -> None:
    """Vectors without rows, rows that do not fit, other kinds of index, damage, a server's storage: each with its reason."""
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    flat, graph = faiss.IndexFlatL2(8), faiss.IndexHNSWFlat(8, 4)
    flat.add(VECTORS)
    graph.add(VECTORS)
    plant_faiss(tmp_path / "alone", flat)
    plant_faiss(tmp_path / "graph", graph, planted.ROWS)
    plant_faiss(tmp_path / "short", flat, planted.ROWS[:-1])
    plant_faiss(tmp_path / "clean", flat, planted.RETAIN)
    plant_faiss(tmp_path / "cut", flat, planted.ROWS)
    (tmp_path / "cut" / "people.faiss").write_bytes((tmp_path / "cut" / "people.faiss").read_bytes()[:60])
    (tmp_path / "server" / "collections").mkdir(parents=True)
    (tmp_path / "server" / "raft_state.json").write_text("{}")
    found = {residue.place.relative_to(tmp_path.resolve()).parts[0]: residue for residue in find(tmp_path, rewrite_data=True)}
    assert found.keys() == {"alone", "graph", "short", "cut", "server"}
    assert {name for name, residue in found.items() if residue.how == UNSEARCHED} == {"alone", "server"}
    left = {residue.place.parent.name: residue.reason for residue in remove(list(found.values()))}
    assert "vectors without their texts" in left["alone"]
    assert "only a flat index" in left["graph"]
    assert "8 vectors and 7 rows" in left["short"]
    assert "damaged" in left["cut"]
    assert (tmp_path / "short" / "people.jsonl").read_text() == planted.json_lines(planted.ROWS[:-1]), (
        "rows without vectors stay whole"
    )


def test_without_their_libraries_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose library is missing was not searched, and says how to."""
    (tmp_path / "people.lance" / "_versions").mkdir(parents=True)
    monkeypatch.setitem(__import__("sys").modules, "lancedb", None)
    (found,) = find(tmp_path)
    assert (found.how, "unlearn-verify[vectors]" in found.reason) == (UNSEARCHED, True)


def test_a_store_of_chroma_without_the_library_is_left(tmp_path: Path) -> None:
    """Its rows are found in the database all the same, and the reason says what would clean them."""
    if find_spec("chromadb"):
        pytest.skip("chromadb is installed")
    with closing(sqlite3.connect(tmp_path / "chroma.sqlite3")) as database, database:
        database.execute("CREATE TABLE embeddings_queue (metadata TEXT)")
        database.execute("INSERT INTO embeddings_queue VALUES (?)", (planted.CANARIES[0],))
    (found,) = find(tmp_path)
    assert (found.kind, found.removable, found.reason) == (
        "vector index",
        False,
        "it is a Chroma store; to clean it: pip install chromadb",
    )


def test_a_spared_index_is_not_changed(tmp_path: Path) -> None:
    """In a folder that must stay, an index is listed; so is one of which either file must stay, as both are changed together."""
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    index = faiss.IndexFlatL2(8)
    index.add(VECTORS)
    plant_faiss(tmp_path / "kept", index, planted.ROWS)
    for spared in (".", "people.faiss", "people.jsonl"):
        (found,) = find(tmp_path, spare=[tmp_path / "kept" / spared], rewrite_data=True)
        assert (found.removable, "must stay" in found.reason) == (False, True), spared
