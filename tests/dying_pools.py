"""Making a level table in a process that kills itself, for processes of their own."""

from pathlib import Path
from typing import Any

from killed_runs import kill_oneself

import unlearn.pool.model
import unlearn.pool.table


def make_and_die(model: str, moment: str) -> None:
    """Make a table of four models, and die when the second model comes to a step, or the table to its end."""
    last = hasattr(unlearn.pool.table, moment) and not hasattr(unlearn.pool.model, moment)
    module: Any = unlearn.pool.table if last else unlearn.pool.model
    owner: Any = module.SealedNumbers if moment == "keep" else module
    real, calls = getattr(owner, moment), [0]

    def deadly(*arguments: Any, **named: Any) -> Any:
        if moment == "keep" and arguments[0].path is None:
            return real(*arguments, **named)
        calls[0] += 1
        if last or calls[0] == 2:
            kill_oneself()
        return real(*arguments, **named)

    setattr(owner, moment, deadly)
    unlearn.pool.table.make_level_table(Path(model), models=4, seed=5)
