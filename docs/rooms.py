"""Draw the rooms of both packages from the layers that import-linter holds; `docs/generate.py` writes `docs/images/rooms.svg`."""

import configparser
from collections.abc import Sequence
from pathlib import Path

CAPTIONS = {
    "unlearn": {
        "cli": "commands and flags",
        "requests": "from receipt to certificate",
        "experiments": "demo, sweep, reproduction",
        "pool": "the models of a level table",
        "forgetting": "the verb forget",
        "methods": "one file each",
        "level": "never-trained loss",
        "finetuning": "the verb finetune",
        "purge": "find and remove copies",
        "defenses": "DP, federated",
        "scan": "people in data sets",
        "training": "loop, log, checkpoints, shards",
    },
    "verify": {
        "cli": "commands and flags",
        "measures": "robustness, triggers: numbers without a verdict",
        "auditing": "the verbs audit and register",
        "reexecution": "a training executed again",
        "judging": "gates, claims, verdict",
        "scores": "models to scores",
        "report": "HTML, PDF, letter",
        "probes": "one file each",
        "attacks": "one file each",
        "certificate": "sign and check",
        "training": "training steps that can be taken again",
        "provenance": "training logs and their history; holdout split; level tables",
        "models": "load, digest, score, generate",
        "data": "records, identifiers, encoding",
        "schema": "what is written down",
        "io": "files, strict readers, plug-ins",
        "statistics": "numpy and scipy only",
        "errors": "what the user can fix, and what failed",
    },
}
"""What is in every room, in a few words."""
PACKAGES = (
    ("unlearn", "unlearn: changes models", 20, 410, "#e8eaf6", "#5c6bc0"),
    ("verify", "verify: measures and judges", 500, 480, "#e0f2f1", "#26a69a"),
)
NOTES = (
    "A room imports only from rooms below it.",
    "verify never imports unlearn: an auditor can",
    "run it without trusting what it audits.",
    "import-linter holds both rules (make lint).",
)
STEP, HEIGHT, GAP = 54, 46, 10


def layers(settings: Path, package: str) -> list[list[str]]:
    """Rooms of a package, layer by layer from the top, as its import contract lists them."""
    read = configparser.ConfigParser()
    read.read(settings)
    text = read[f"importlinter:contract:rooms-of-{package}"]["layers"]
    return [[room.strip() for room in line.split(":")] for line in text.strip().splitlines()]


def rooms(settings: Path) -> str:
    """Figure of the rooms of both packages, as SVG."""
    drawn: list[str] = []
    depth = 0
    for package, title, left, width, fill, stroke in PACKAGES:
        drawn.append(_text(left + width / 2, 34, 19, title, bold=True))
        found = layers(settings, package)
        depth = max(depth, len(found))
        for row, names in enumerate(found):
            drawn += _row(names, CAPTIONS[package], left, width, 56 + STEP * row, f'fill="{fill}" stroke="{stroke}"')
    below = 56 + STEP * len(layers(settings, "unlearn")) + 40
    drawn += ['<path d="M436 295 L494 295" stroke="#37474f" stroke-width="2.5" fill="none" marker-end="url(#a)"/>']
    drawn += [_text(465, 283, 12, "imports", colour="#37474f")]
    drawn += [_text(225, below + 24 * number, 14, note, colour="#37474f") for number, note in enumerate(NOTES)]
    return _page("\n".join(drawn), 56 + STEP * depth + 12)


def _row(names: Sequence[str], captions: dict[str, str], left: float, width: float, top: float, paint: str) -> list[str]:
    each = (width - GAP * (len(names) - 1)) / len(names)
    drawn = []
    for number, name in enumerate(names):
        x = left + number * (each + GAP)
        drawn += [
            f'<rect x="{x:g}" y="{top}" width="{each:g}" height="{HEIGHT}" rx="6" {paint}/>',
            _text(x + each / 2, top + 20, 15, name, bold=True),
            _text(x + each / 2, top + 37, 12, captions[name], colour="#455a64"),
        ]
    return drawn


def _text(x: float, y: float, size: int, words: str, *, bold: bool = False, colour: str = "#212121") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight} fill="{colour}" text-anchor="middle">{words}</text>'


def _page(drawn: str, height: int) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {height}" font-family="Helvetica, Arial, sans-serif"'
            ' role="img" aria-labelledby="t d">',
            '<title id="t">Rooms of the two packages</title>',
            '<desc id="d">Each package is a stack of rooms; a room imports only from rooms below it. unlearn imports verify,'
            " never the other way round.</desc>",
            '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
            '<path d="M0 0 L10 5 L0 10 z" fill="#37474f"/></marker></defs>',
            f'<rect width="1000" height="{height}" fill="#ffffff"/>',
            drawn,
            "</svg>",
            "",
        ]
    )
