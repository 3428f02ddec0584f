"""Level tables: what they give back, what leaves them, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from level_tables import digest_of, invented_members, rows_that_left, trained_losses, write_invented

from verify.errors import InputError
from verify.io.envelopes import load_signer, make_key
from verify.io.files import verify_manifest
from verify.provenance.level_rows import LEAVES, ROWS, merkle_root
from verify.provenance.level_table import DESIGN, HEADER, LevelTable, remove_rows
from verify.provenance.pool_design import trained_models

MEMBERS = invented_members()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """An operator's private key."""
    make_key(tmp_path / "operator.key")
    return tmp_path / "operator.key"


@pytest.fixture
def folder(tmp_path: Path, key: Path) -> Path:
    """A signed table."""
    write_invented(tmp_path / "table", MEMBERS, signer=load_signer(key))
    return tmp_path / "table"


def test_a_table_gives_each_loss_on_the_side_that_it_belongs_to(folder: Path, key: Path) -> None:
    """Losses of models that never saw a record, and of those that did, are complements; controls were seen by none."""
    table = LevelTable.open(folder, key.with_name("operator.key.pub"))
    trained = trained_models(MEMBERS, 4, 2, 7)
    keys = [member.record for member in reversed(MEMBERS)]
    unseen, seen = table.losses(keys, "exact text"), trained_losses(table, keys)
    expected = np.array([trained.get(member.subject, (False,) * 4) for member in reversed(MEMBERS)]).T
    assert (np.isnan(unseen) == expected).all()
    assert (np.isnan(seen) == ~expected).all()
    assert np.nanmin(unseen) > 2 > np.nanmax(seen)
    assert len(table.controls("method")) == len(table.controls("audit")) == 4
    assert set(table.controls()) == {member.record for member in MEMBERS if member.half}
    assert table.subjects(keys) == tuple(member.subject for member in reversed(MEMBERS))
    assert table.signer is not None
    assert (table.models, *rows_that_left(table), table.design_seed) == (4, 0, 0, 7)


def test_halves_of_the_pool_leave_out_every_subject_equally_often(folder: Path) -> None:
    """Method and auditor read disjoint models, and each finds a level for every record."""
    table = LevelTable.open(folder)
    keys = [member.record for member in MEMBERS]
    own = [table.models_of(half) for half in ("method", "audit")]
    assert sorted([*own[0], *own[1]]) == [0, 1, 2, 3]
    counts = [(~np.isnan(table.losses(keys, "exact text", models))).sum(axis=0) for models in own]
    assert (counts[0] == counts[1]).all()
    assert counts[0].min() == 1


def test_rows_leave_and_everything_else_stays_proven(folder: Path, key: Path) -> None:
    """A person's rows go, the signature stays valid, the number that left is known, and a second call changes nothing."""
    gone = [member.record for member in MEMBERS if member.subject == MEMBERS[0].subject]
    assert remove_rows(folder, gone) == len(gone) == 2
    assert remove_rows(folder, gone) == 0
    table = LevelTable.open(folder, key.with_name("operator.key.pub"))
    assert rows_that_left(table) == (2, 0)
    verify_manifest(folder)
    whole = (folder / ROWS).read_bytes()
    assert all(name.encode() not in whole for name in gone)
    with pytest.raises(InputError, match=r"no row of 2 of 3 records \(numbers 1, 3\)"):
        table.losses([gone[0], MEMBERS[5].record, gone[1]], "exact text")
    control = table.controls("audit")[0]
    remove_rows(folder, [control])
    assert rows_that_left(LevelTable.open(folder)) == (3, 1)


def test_a_table_without_rows_can_still_be_read(folder: Path) -> None:
    """When everybody has left, the header and the count stay."""
    remove_rows(folder, [member.record for member in MEMBERS])
    assert rows_that_left(LevelTable.open(folder))[0] == len(MEMBERS)


def test_another_models_table_is_refused(folder: Path) -> None:
    """Original, tokenizer and recipe must be the table's."""
    table, own = LevelTable.open(folder), [digest_of(name) for name in ("original", "tokenizer", "recipe")]
    table.require_fits(own[0], own[1], own[2])
    table.require_fits(own[0], own[1])
    for place, word in enumerate(("model before unlearning", "tokenizer", "recipe")):
        with pytest.raises(InputError, match=f"another.* {word}"):
            table.require_fits(*(digest_of("other") if number == place else digest for number, digest in enumerate(own)))


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows' file as somebody with the code could."""
    table = pq.read_table(folder / ROWS)
    changed = change(table)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), folder / ROWS)


def doubled(table: pa.Table) -> pa.Table:
    """The losses doubled."""
    place = table.column_names.index("channel: exact text")
    values = [[2 * loss for loss in row] for row in table["channel: exact text"].to_pylist()]
    return table.set_column(place, "channel: exact text", pa.array(values, pa.list_(pa.float64())))


def shorter(table: pa.Table) -> pa.Table:
    """One model less in the first row."""
    place = table.column_names.index("channel: exact text")
    values = table["channel: exact text"].to_pylist()
    return table.set_column(place, "channel: exact text", pa.array([values[0][1:], *values[1:]], pa.list_(pa.float64())))


def twice(table: pa.Table) -> pa.Table:
    """The first row instead of the second, with its own number."""
    return pa.concat_tables([table.slice(0, 1), table.slice(0, 1), table.slice(2)])


def trusting(table: pa.Table) -> pa.Table:
    """A training record becomes a control."""
    changed = [True, *table["control"].to_pylist()[1:]]
    table = table.set_column(table.column_names.index("control"), "control", pa.array(changed))
    return table.set_column(table.column_names.index("half"), "half", pa.array(["audit", *table["half"].to_pylist()[1:]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (doubled, "24 of 32 rows|32 of 32 rows"),
        (shorter, "not a whole table"),
        (twice, "not a whole table"),
        (trusting, "not a whole table"),
        (lambda table: table.drop_columns(["channel: instruction"]), "lacks the column 'channel: instruction'"),
        (lambda table: table.append_column("name", pa.array(["x"] * len(table))), "columns that its header does not list"),
        (lambda table: table.slice(1).set_column(0, "row", pa.array(range(len(table) - 1))), "rows of"),
        (lambda table: table.set_column(0, "row", pa.array([99, *range(1, len(table))])), "more rows"),
    ],
)
def test_changed_rows_are_refused(folder: Path, change: Callable[[pa.Table], pa.Table], message: str) -> None:
    """Whatever is changed in the rows contradicts the signed root."""
    rewrite(folder, change)
    with pytest.raises(InputError, match=message):
        LevelTable.open(folder)


def test_damaged_files_are_refused(folder: Path) -> None:
    """Every truncation of every file is refused with a message, and so are empty and missing files."""
    for name in (ROWS, LEAVES, DESIGN, HEADER):
        whole = (folder / name).read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 2):
            (folder / name).write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"Restore|make the table again|Make the table again|restore"):
                LevelTable.open(folder)
        (folder / name).unlink()
        with pytest.raises(InputError):
            LevelTable.open(folder)
        (folder / name).write_bytes(whole)
    LevelTable.open(folder)


def test_the_signature_is_the_given_keys_or_none(folder: Path, tmp_path: Path, key: Path) -> None:
    """Another key, a changed header, and the header of an unsigned table are refused where a key is given."""
    make_key(tmp_path / "other.key")
    with pytest.raises(InputError, match="not by the key that you gave"):
        LevelTable.open(folder, tmp_path / "other.key.pub")
    envelope = json.loads((folder / HEADER).read_text())
    signature = envelope["signatures"][0]["sig"]
    envelope["signatures"][0]["sig"] = ("B" if signature[0] != "B" else "C") + signature[1:]
    (folder / HEADER).write_text(json.dumps(envelope))
    with pytest.raises(InputError, match="does not match the content"):
        LevelTable.open(folder, key.with_name("operator.key.pub"))
    write_invented(tmp_path / "unsigned", MEMBERS)
    assert LevelTable.open(tmp_path / "unsigned").signatures == ()
    with pytest.raises(InputError, match="signed by nobody"):
        LevelTable.open(tmp_path / "unsigned", key.with_name("operator.key.pub"))


@pytest.mark.parametrize(
    "content", ["[]", "{}", "3", '{"payload": 3}', '{"payload": "e30=", "payloadType": "x", "signatures": []}']
)
def test_a_hostile_header_is_refused(folder: Path, content: str) -> None:
    """JSON that is no envelope, or an envelope of something else, raises nothing but InputError."""
    (folder / HEADER).write_text(content)
    with pytest.raises(InputError):
        LevelTable.open(folder)


def test_another_design_is_refused(folder: Path, tmp_path: Path) -> None:
    """A design with another seed is not the one that the header names."""
    write_invented(tmp_path / "other", MEMBERS, seed=8)
    (folder / DESIGN).write_bytes((tmp_path / "other" / DESIGN).read_bytes())
    with pytest.raises(InputError, match="not the design that the table's header names"):
        LevelTable.open(folder)


def test_merkle_root_depends_on_every_leaf_and_its_place() -> None:
    """Against a tree written out by hand; odd nodes go up as they are."""
    import hashlib

    leaves = [digest_of(str(number)) for number in range(5)]
    one, two, three, four, five = map(bytes.fromhex, leaves)

    def node(left: bytes, right: bytes) -> bytes:
        return hashlib.sha256(b"\x01" + left + right).digest()

    assert merkle_root(leaves) == node(node(node(one, two), node(three, four)), five).hex()
    assert len({merkle_root(leaves), merkle_root(leaves[::-1]), merkle_root(leaves[:4])}) == 3
    with pytest.raises(ValueError, match="at least one"):
        merkle_root([])
