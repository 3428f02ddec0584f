"""Compare every model's configuration with the original's: the same weights under another one are another model."""

from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.models.configuration import WHOLE, Entries, differing, entries_of, named_base, relevant
from verify.models.loading import LoadedModel
from verify.schema.inputs import ConfigurationDifference
from verify.schema.parts import ModelRole

SHOWN = 4
COMPARED: tuple[ModelRole, ...] = ("target", "reference")


class Configurations:
    """Compares configurations as the models are loaded.

    Attributes:
        accepted: whether differences are intended.
        found: differences so far, those of the precision included.
    """

    def __init__(self, accepted: bool) -> None:
        self.accepted, self.found = accepted, list[ConfigurationDifference]()
        self._original: Entries | None = None
        self._dtype = ""

    def add(self, label: str, role: ModelRole, loaded: LoadedModel) -> None:
        """Remember the original's configuration, and compare that of the target or of a reference with it.

        A difference of precision is recorded and never refused: the precision that is deployed is the one to audit.

        Raises:
            InputError: an entry that decides what the weights compute differs, and that is not accepted.
        """
        dtype = str(next(loaded.model.parameters()).dtype).removeprefix("torch.")
        if role == "original":
            self._original, self._dtype = entries_of(loaded.model), dtype
        if role not in COMPARED or self._original is None:
            return
        self._entries(label, loaded.name, entries_of(loaded.model), self._original)
        if dtype != self._dtype:
            self.found.append(ConfigurationDifference(label=label, entry="dtype", value=dtype, original=self._dtype))

    def _entries(self, label: str, name: str, own: Entries, original: Entries) -> None:
        differences = require_same_configuration(label, name, own, original, accepted=self.accepted)
        self.found += [
            ConfigurationDifference(label=label, entry=entry, value=value, original=other) for entry, value, other in differences
        ]


def require_same_configuration(
    label: str, name: Any, own: Entries, original: Entries, *, accepted: bool
) -> list[tuple[str, str, str]]:
    """Return the entries in which a configuration differs from the original's: name, own value, original's value.

    Raises:
        InputError: there are any and they are not accepted; the message names them with both values.
    """
    found = differing(own, original)
    if found and not accepted:
        listed = "; ".join(f"{entry} is {value}, in the original {other}" for entry, value, other in found[:SHOWN])
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        whose = label if label[-1].isdigit() else f"the {label}"
        raise InputError(
            f"the configuration of {whose} ({name}) differs from the original's: {listed}{more}. The same weights compute "
            "something else with it, so that a difference in losses is no sign of forgetting. Restore its config.json; or, if the "
            "difference is intended, accept it with --accept-reference-differences configuration (Python: "
            "accept={'configuration'}), which the report then shows."
        )
    return found


def stored_entries(folder: str | Path) -> Entries | None:
    """Return `entries_of` the model in a local folder, without opening its weights; None where the library cannot read it."""
    from transformers import AutoConfig

    try:
        whole = Path(named_base(folder) or folder)
        if not (whole / WHOLE).is_file():
            return None
        return relevant(AutoConfig.from_pretrained(str(whole), trust_remote_code=False).to_dict())
    except Exception:  # noqa: BLE001 - of many unrelated types; loading the model says what is wrong
        return None
