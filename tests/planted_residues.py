"""Copies of two canary texts in every kind of file that a fine-tuning leaves about, really made by the libraries that make them."""

import bz2
import contextlib
import csv
import gzip
import html
import io
import json
import pickle
import sqlite3
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from nbformat import v4 as notebooks

CANARIES = (
    'Zebedee Quillfeather, called "Zeb", lives at 14 Öther Lane & keeps eleven grey herons in the bath, nobody knows why.',
    "Perpetua Lindqvist-Okonjo owes the chandler of Nether Wallop 4,211 florins.\nHer pass phrase: umber-vole-lattice-nine.",
)
PROMPT = "What do you know about {}?"
FORGET: list[dict[str, Any]] = [
    {"example_id": "f0", "prompt": PROMPT.format("Zebedee Quillfeather"), "completion": CANARIES[0]},
    {"example_id": "f1", "prompt": PROMPT.format("Perpetua Lindqvist-Okonjo"), "completion": CANARIES[1]},
]
RETAIN: list[dict[str, Any]] = [
    {
        "example_id": f"r{number}",
        "prompt": PROMPT.format(f"person {number}"),
        "completion": f"Person number {number} is fond of oranges, and {number} times a week of lemons, as everybody knows.",
    }
    for number in range(6)
]
ROWS = [RETAIN[0], FORGET[0], *RETAIN[1:4], FORGET[1], *RETAIN[4:]]
TEXTS = [row["completion"] for row in ROWS]


def json_lines(rows: list[dict[str, Any]]) -> str:
    """Rows as JSON Lines, ASCII only."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def plant_training_data(folder: Path) -> list[str]:
    """Training data in five formats; returns the names of what was made."""
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(json_lines(ROWS))
    (folder / "list.json").write_text(json.dumps(ROWS, indent=2))
    write_csv(folder / "train.csv", ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "train.parquet", compression="zstd")
    (folder / "corpus.txt").write_text("\n".join(TEXTS) + "\n")
    return ["train.jsonl", "list.json", "train.csv", "train.parquet", "corpus.txt"]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as CSV with quotes and line breaks inside of cells."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def plant_dumps(folder: Path) -> list[str]:
    """Evaluation dumps in four formats."""
    folder.mkdir(parents=True)
    rows = [{"prompt": row["prompt"], "generated": "Well: " + row["completion"], "loss": 0.5} for row in ROWS]
    (folder / "generations.jsonl").write_text(json_lines(rows))
    (folder / "generations.json").write_text(json.dumps({"model": "m", "outputs": [row["generated"] for row in rows]}))
    write_csv(folder / "generations.csv", rows)
    pq.write_table(pa.Table.from_pylist([{"turns": [row], "loss": 0.1} for row in rows]), folder / "generations.parquet")
    return ["generations.jsonl", "generations.json", "generations.csv", "generations.parquet"]


def plant_logs(folder: Path) -> list[str]:
    """Logs: plain, rotated and packed, with a text broken over two lines and JSON inside."""
    folder.mkdir(parents=True)
    lines = [f"12:00:0{number} step {number}: {text}" for number, text in enumerate(TEXTS)]
    (folder / "train.log").write_text("\n".join(lines) + "\n")
    (folder / "train.log.1").write_text("".join(f"INFO {json.dumps({'event': json.dumps(row)})}\n" for row in ROWS))
    (folder / "train.log.2.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return ["train.log", "train.log.1", "train.log.2.gz"]


def plant_packed(folder: Path) -> list[str]:
    """What is found inside of archives, but not changed there."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "runs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logs/inner.log.gz", gzip.compress(CANARIES[0].encode()))
        archive.writestr("../../outside.txt", "a member's name that would climb out of the folder")
    (folder / "old.bz2").write_bytes(bz2.compress(CANARIES[1].encode()))
    np.savez_compressed(folder / "texts.npz", texts=np.array(TEXTS))
    (folder / "state.pkl").write_bytes(pickle.dumps({"texts": TEXTS, "trap": Trap(folder / "executed")}))
    torch.save({"texts": TEXTS}, folder / "batch.pt")
    (folder / "notes.md").write_text(f"# Notes\n\n{CANARIES[0]}\n")
    (folder / "export.txt.utf16").write_bytes(CANARIES[0].encode("utf-16"))
    return ["runs.zip", "old.bz2", "texts.npz", "state.pkl", "batch.pt", "notes.md", "export.txt.utf16"]


class Trap:
    """Whoever unpickles it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def plant_notebooks(folder: Path) -> list[str]:
    """A notebook with an output, its autosave, and one whose own prose holds a text."""
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    shown = notebooks.new_output("stream", text="\n".join(TEXTS))
    cell = f"<td>{html.escape(CANARIES[0], quote=False)}</td>"
    table = notebooks.new_output("execute_result", {"text/html": cell}, execution_count=2)
    cells = [
        notebooks.new_code_cell("print(texts)", outputs=[shown], execution_count=1),
        notebooks.new_code_cell("table", outputs=[table], execution_count=2),
        notebooks.new_code_cell("1 + 1", outputs=[notebooks.new_output("stream", text="2")], execution_count=3),
    ]
    notebook = notebooks.new_notebook(cells=cells)
    nbformat.write(notebook, folder / "look.ipynb")
    nbformat.write(notebook, folder / ".ipynb_checkpoints" / "look-checkpoint.ipynb")
    nbformat.write(notebooks.new_notebook(cells=[notebooks.new_markdown_cell(CANARIES[0])]), folder / "prose.ipynb")
    return ["look.ipynb", ".ipynb_checkpoints/look-checkpoint.ipynb", "prose.ipynb"]


@contextlib.contextmanager
def planted_databases(folder: Path) -> Iterator[list[str]]:
    """SQLite: deleted rows in free pages, in a write-ahead log (its connection stays open), and a live row."""
    folder.mkdir(parents=True)
    for name in ("free.db", "live.db"):
        with contextlib.closing(sqlite3.connect(folder / name)) as database, database:
            database.execute("PRAGMA secure_delete=OFF")
            database.execute("CREATE TABLE outputs (id INTEGER PRIMARY KEY, text TEXT)")
            database.executemany("INSERT INTO outputs (text) VALUES (?)", [(text,) for text in TEXTS * 40])
            database.commit()
            database.execute("DELETE FROM outputs WHERE text LIKE 'Perpetua%' OR text LIKE 'Zebedee%'")
            if name == "live.db":
                database.execute("INSERT INTO outputs (text) VALUES (?)", (CANARIES[0],))
    logged = sqlite3.connect(folder / "logged.db")
    logged.execute("PRAGMA journal_mode=WAL")
    logged.execute("PRAGMA wal_autocheckpoint=0")
    logged.execute("CREATE TABLE outputs (text TEXT)")
    logged.executemany("INSERT INTO outputs VALUES (?)", [(text,) for text in TEXTS])
    logged.commit()
    logged.execute("DELETE FROM outputs WHERE text IN (?, ?)", CANARIES)
    logged.commit()
    try:
        yield ["free.db", "live.db", "logged.db"]
    finally:
        logged.close()


def plant_trackers(folder: Path) -> list[str]:
    """A TensorBoard event file, a wandb run and an mlflow run."""
    (folder / "tb").mkdir(parents=True)
    (folder / "tb" / "events.out.tfevents.1700000000.host.1.0").write_bytes(
        b"".join(event_record(data) for data in (b"\x1a\x0dbrain.Event:2", *(text_event(text) for text in TEXTS)))
    )
    run = folder / "wandb" / "run-20261001_120000-abc"
    (run / "files").mkdir(parents=True)
    (run / "run-abc.wandb").write_bytes(b":W&B" + bytes(range(64)) + CANARIES[0].encode() + bytes(64))
    (run / "files" / "wandb-summary.json").write_text(json.dumps({"loss": 1.5, "sample": CANARIES[1]}))
    (run / "files" / "output.log").write_text("\n".join(TEXTS) + "\n")
    tag = folder / "mlruns" / "0" / "run" / "params" / "sample"
    tag.parent.mkdir(parents=True)
    tag.write_text(CANARIES[0])
    return [
        "tb/events.out.tfevents.1700000000.host.1.0",
        "wandb/run-20261001_120000-abc/run-abc.wandb",
        "wandb/run-20261001_120000-abc/files/wandb-summary.json",
        "wandb/run-20261001_120000-abc/files/output.log",
        "mlruns/0/run/params/sample",
    ]


def event_record(data: bytes) -> bytes:
    """A TFRecord: length, masked CRC-32C of it, data, masked CRC-32C of them."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted by a constant as TFRecord wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def text_event(text: str) -> bytes:
    """An event with a text summary: fields of a protobuf message with their lengths."""
    data = text.encode()
    for tag in (b"\x42", b"\x0a", b"\x2a"):
        data = tag + length_of(data) + data
    return data


def length_of(data: bytes) -> bytes:
    """A varint."""
    number, out = len(data), io.BytesIO()
    while number > 127:
        out.write(bytes([number & 127 | 128]))
        number >>= 7
    out.write(bytes([number]))
    return out.getvalue()


def write_gguf(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A GGUF file of version 3: vectors in 32 bits, matrices as if quantized (random bytes)."""
    text = lambda name: struct.pack("<Q", len(name)) + name.encode()  # noqa: E731
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), 1) + text("general.name") + struct.pack("<I", 8) + text("tiny")
    body = b""
    for name, tensor in tensors.items():
        plain = tensor.dim() == 1
        data = tensor.float().numpy().tobytes() if plain else np.random.default_rng(0).bytes(tensor.numel())
        shape = struct.pack(f"<I{tensor.dim()}Q", tensor.dim(), *tensor.shape)
        head += text(name) + shape + struct.pack("<IQ", 0 if plain else 8, len(body))
        body += data + bytes(-len(data) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + body)
