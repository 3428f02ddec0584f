"""Markdown page of `deletion_sequence.py`."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.demo_world import machine

Found = Mapping[str, Mapping[str, Any]]
"""What the steps of the run returned, by name."""


def page(found: Found, same: bool, requests: int, sets: Mapping[int, int]) -> str:
    """Format the results.

    Args:
        found: by step.
        same: whether every adapter after the last request equals that of a training without those who asked.
        requests: number of requests.
        sets: number of people -> number of audited sets of that size.
    """
    return "\n".join(
        [
            "# Ten deletions in sequence",
            "",
            "Made by `python -m benchmarks.deletion_sequence --demo DEMO --output DIR`;",
            f"{machine()}, one thread, processor seconds, other work on the other core.",
            "The demo's world: 180 invented people of four records, a model of 280 thousand weights. Ten ask, one after another.",
            "*sisa*: 4 shards of 2 slices, adapters of rank 16; each deletion rests on a commitment to the result before it.",
            "*retrain*: all who asked so far leave the demo's model. *npo* goes on from its own last result.",
            "",
            *_exact(found, same, requests),
            "",
            *_approximate(found, requests),
            "",
            *_honest(found, sets),
            "",
        ]
    )


def _exact(found: Found, same: bool, requests: int) -> list[str]:
    """Return the section of the exact deletions."""
    names = [f"sisa-{number}" for number in range(1, requests + 1)] + [name for name in found if name.startswith("retrain-")]
    rows = []
    for name in names:
        one, (method, number) = found[name], name.split("-")
        cells = (number, method, f"{one['share']:.3f}", f"{one['deletion']:.1f}", f"{one['proof']:.1f}", f"`{one['outcome']}`")
        rows.append(f"| {' | '.join(cells)} |")
    return [
        "## Exact, and executed again",
        "",
        f"After the last request every adapter of sisa {'equals, byte for byte,' if same else 'DIFFERS FROM'} that of a training",
        f"without the {requests}. Share: tokens of the deletion, of those of a retraining. The other stages of sisa",
        "are taken from the commitment, which is older than the request; retrain is executed whole.",
        "",
        "| request | method | share | deletion, s | executed again, s | outcome |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
    ]


def _approximate(found: Found, requests: int) -> list[str]:
    """Return the section of the approximate deletions."""
    spent = [found[f"npo-{number}"]["deletion"] for number in range(1, requests + 1)]
    rows = [
        f"| {name.rpartition('-')[2]} | {one['phrase']} | {one['residual'] or '-'} | {one['utility']} |"
        for name, one in found.items()
        if name.startswith("npo-audit-")
    ]
    return [
        "## Approximate: npo after npo",
        "",
        f"Each took {min(spent):.1f} to {max(spent):.1f} seconds. Audited on everybody deleted so far, in every way of asking,",
        "against the demo's four references.",
        "",
        "| after request | verdict | residual fraction | utility |",
        "| --- | --- | --- | --- |",
        *rows,
    ]


def _honest(found: Found, sets: Mapping[int, int]) -> list[str]:
    """Return the section of the honest deletions of few people."""
    rows = []
    for people, count in sets.items():
        audits = [one for number in range(count) for one in found[f"honest-{people}-{number}"]["audits"]]
        words = Counter(one["verdict"] for one in audits)
        others = ", ".join(f"{count} {word}" for word, count in words.items() if word not in ("EQUIVALENT_WITHIN", "NOT_FORGOTTEN"))
        asked = sorted(one["asked"] for one in audits if one["verdict"] == "EQUIVALENT_WITHIN")
        ways = " to ".join(map(str, dict.fromkeys((asked[0], asked[-1])))) if asked else "-"
        certified, accused = words["EQUIVALENT_WITHIN"], words["NOT_FORGOTTEN"]
        rows.append(f"| {people} | {count} | {certified} of {len(audits)} | {accused} | {others or '-'} | {ways} |")
    return [
        "## How few people suffice",
        "",
        "The demo's five models that never saw the twenty (four references and the retraining), each audited against the other",
        "four, at the defaults, on disjoint sets of people. All audits share these five models and the original. A",
        "certificate names the ways of asking that are precise enough at this size, the exact text among them.",
        "",
        "| people | sets | certified | accused | otherwise | ways that the certificates name |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
