"""Records of a contest by role."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Roles:
    """Records by role.

    Attributes:
        forget, retain, holdout: what the original is to forget and to keep, and the never-trained controls.
        base: texts that the base model is trained on; empty where it is a pretrained one.
        rewordings: rows of a file of rewordings of forget and holdout records; empty where there are none.
    """

    forget: Rows
    retain: Rows
    holdout: Rows
    base: Rows = ()
    rewordings: Rows = ()
