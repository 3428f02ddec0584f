"""The published page of the reliability benchmark."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Sections = Mapping[str, Mapping[str, Any]]
"""What was measured, by section of the benchmark."""


def pages(sections: Sections) -> dict[str, str]:
    """Return the parts of the results file of which everything was measured, by title."""
    parts = {
        "# What a deletion survives": (("kills", "cleaning"), _kills),
        "# Hostile input": (("parsers",), _input),
        "# Load": (("http", "ledger"), _load),
        "# A million records scanned": (("scan",), _scan),
    }
    return {
        title: f"{title}\n\n{text(sections)}\n"
        for title, (needed, text) in parts.items()
        if all(sections[name].get("done") for name in needed)
    }


def _machine() -> str:
    cores = f"{os.cpu_count()} cores shared with other work, one thread"
    return f"{datetime.now(UTC).date()}, {platform.machine()}, {cores}; peak memory is that of the largest process."


def _kills(sections: Sections) -> str:
    kills, cleaned = sections["kills"]["figures"], sections["cleaning"]["figures"]
    return f"""{_machine()}
Eight records are deleted from a small Llama, from the receipt of the request to the signed certificate; a log, the training file
and the old model are cleaned up on the way. Every process that carries the request is killed with SIGKILL at a random moment.
Clean-up takes a fraction of a second, so it is killed by count: once before each of its {cleaned["deletions"]} steps (a file
opened for writing, renamed or removed, a folder made or removed, an event noted), and once more before the second step of resuming.

| killed | kills | deletions completed | lost | done twice | different from undisturbed | unsound at the end | time | peak memory |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{_killed("at random", sections["kills"])}
{_killed("in clean-up", sections["cleaning"])}

Lost: an event or request missing from the ledger, old weights gone before they were retired, new weights or record not whole. Done
twice: a method or an audit that ran to its end a second time. Different: other events or weights, after kills in clean-up also
other counts of what was removed. Unsound: the certificate does not hold against the new model, the ledger and the record, or report
or letter are missing, or a file contains a deleted text. State of the request at the kill: {_states(kills)}; in clean-up
{_states(cleaned)}."""


def _input(sections: Sections) -> str:
    return f"""{_machine()}
Requests as hypothesis makes them up, and documents with bits flipped, parts cut out or put in, and values replaced. All that is not
accepted is refused with a message (`InputError`) that repeats no value of the input (refused rows name their columns);
{_cost(sections["parsers"])}.

| parser | inputs | anything else | time |
| --- | --- | --- | --- |
{chr(10).join(_fed(name, entry) for name, entry in sections["parsers"]["parsers"].items())}"""


def _load(sections: Sections) -> str:
    """Describe the HTTP service and the ledger under load."""
    http, ledger = sections["http"], sections["ledger"]
    wait, steps, sent = http["milliseconds"], ledger["steps"], sum(http["answers"].values())
    answers = ", ".join(f"{count} with status {status}" for status, count in http["answers"].items())
    served = f"median {wait['median']:.1f} ms, 99 % within {wait['p99']:.1f} ms, longest {wait['longest']:.0f} ms"
    rows = [
        (f"{sent:,} requests to `unlearn serve`, one after another on one connection", served, http["service"]["peak"]),
        (f"{ledger['requests']:,} requests noted in one ledger, each by a write of its own", f"{steps['note']:.1f} s", None),
        (f"all of them read with their {ledger['events']:,} events", f"{steps['read']:.2f} s", None),
        ("the chain of all events verified", f"{steps['verify']:.2f} s", ledger["peak"]),
        ("`unlearn request list` of all of them", f"{steps['list']:.1f} s", ledger["list_peak"]),
    ]
    table = [f"| {what} | {time} | {'' if peak is None else f'{peak:.0f} MiB'} |" for what, time, peak in rows]
    return "\n".join(
        [
            _machine(),
            "",
            "| what | time | peak memory |",
            "| --- | --- | --- |",
            *table,
            "",
            f"Of the requests over HTTP {answers}; the ledger has {http['requests']:,} of them, as the others repeated an",
            "earlier one byte for byte, and its chain holds.",
        ]
    )


def _scan(sections: Sections) -> str:
    runs = sections["scan"]["runs"]
    size, seconds = (sum(run[name] for run in runs) for name in ("bytes", "seconds"))
    peak = max(run["peak"] for run in runs)
    return f"""{_machine()}
A million JSON Lines records of 25 random words ({size / 1e6:,.0f} MB in {len(runs)} files, one after the other) are scanned for
two people, near-duplicates included: {seconds:.0f} seconds, {peak:.0f} MiB at the most."""


def _killed(how: str, section: Mapping[str, Any]) -> str:
    figures = section["figures"]
    counts = [figures[name] for name in ("kills", "deletions", "lost", "twice", "different", "unsound")]
    return f"| {how} | {' | '.join(map(str, counts))} | {section['seconds'] / 60:.1f} min | {section['peak']:.0f} MiB |"


def _states(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{state} {count}" for state, count in sorted(figures["states"].items(), key=lambda entry: -entry[1]))


def _fed(name: str, entry: Mapping[str, Any]) -> str:
    return f"| {name} | {entry['inputs']} | 0 | {entry['seconds']:.0f} s |"


def _cost(section: Mapping[str, Any]) -> str:
    return f"{section['seconds'] / 60:.1f} minutes in all, at most {section['peak']:.0f} MiB"
