"""Kills: at random moments from receipt to closing, and before every step of the clean-up."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deletion_world import build_world
from kills import Figures, kill_many
from kills_in_cleaning import kill_in_cleaning

import unlearn.requests.planning

KILLS = 200
LAST_DELETION = 30.0
"""Seconds that the deletion at hand may still take once no new kill is made."""


def at_random(output: Path, before: Mapping[str, Any], last: float) -> dict[str, Any]:
    """Kill at random moments until there are `KILLS`, or no time is left."""
    _describe_no_power()
    begun = Figures(**before["figures"]) if before else Figures()
    folder = output / f"kills-{begun.deletions}"
    folder.mkdir()
    minutes = (last - LAST_DELETION - time.monotonic()) / 60
    figures = kill_many(world(output), folder, KILLS, seed=0, tell=_tell, minutes=minutes, begun=begun)
    return {"figures": asdict(figures), "done": figures.kills >= KILLS}


def in_cleaning(output: Path, _: Mapping[str, Any], __: float) -> dict[str, Any]:
    """Kill before every step of the clean-up, in one go."""
    _describe_no_power()
    (output / "cleaning").mkdir()
    return {"figures": asdict(kill_in_cleaning(world(output), output / "cleaning", tell=_tell)), "done": True}


def _describe_no_power() -> None:
    """What an audit can show is simulated for the reader of a plan; it changes nothing that is done."""
    setattr(unlearn.requests.planning, "describe_power", lambda *_: "not simulated here")  # noqa: B010 - typed as a function of a module


def world(output: Path) -> Path:
    """Return the world that is deleted from; it is built once."""
    folder = output / "world"
    return folder if folder.is_dir() else build_world(folder)


def _tell(text: str) -> None:
    print(text, flush=True)
