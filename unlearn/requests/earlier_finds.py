"""Copies that earlier searches found and nobody removed, kept under keyed hashes of their paths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn.purge import find
from unlearn.purge.residue import BY_CONTENT, Residue
from unlearn.requests.batch_folder import FOUND
from unlearn.requests.copy_names import Naming
from unlearn.requests.ownership import Ownership, noted_owners
from verify.data.identity import RecordKey
from verify.io.files import read_json, write_json

NOT_SEARCHED = "an earlier search found it, and it can no longer be searched for; remove it by hand"


class EarlierFinds:
    """Copies that earlier searches found and nobody removed since, which a new search may no longer recognize."""

    def __init__(self, folder: Path, key: RecordKey, owned: Ownership) -> None:
        self.path, self.key, self.owned = folder / FOUND, key, owned
        self.places: dict[str, dict[str, Any]] = dict(read_json(self.path)["places"]) if self.path.exists() else {}
        self.there: dict[str, Path] = {}

    def refresh(self, found: Sequence[Residue], roots: Sequence[Path], all_texts: bool) -> None:
        """Determine which earlier copies still exist although this search did not find them.

        While every text is still in the training files, a content search is as good as an earlier one, so a file that it does not
        find has been cleaned. Copies recognized by other means, such as repeated weights, count as gone when their path is.
        """
        now = {self._name(entry.place) for entry in found}
        open_ = {name for name, copy in self.places.items() if name not in now and not (all_texts and copy["by_content"])}
        there = {self._name(place): place for place in find.places(roots)} if open_ else {}
        self.there = {name: there[name] for name in open_ & there.keys()}

    def copies(self, naming: "Naming") -> list[dict[str, Any]]:
        """Return the earlier copies that still exist, as entries of `Left.residual`."""
        known = [(place, self.places[name]) for name, place in self.there.items()]
        return [naming.copy(place, copy["kind"], "", NOT_SEARCHED, copy.get("requests")) for place, copy in known]

    def save(self, found: Sequence[Residue]) -> None:
        """Write down what stays of this search and of earlier ones, by keyed hash, as a path may identify a person."""
        by_content = (BY_CONTENT, find.UNSEARCHED)
        staying = {
            self._name(entry.place): {
                "kind": entry.kind,
                "by_content": entry.how in by_content,
                **noted_owners(self.owned.of(entry)),
            }
            for entry in found
        }
        write_json(self.path, {"places": {name: self.places[name] for name in self.there} | staying}, mode=0o600)

    def _name(self, place: Path) -> str:
        return self.key.of(str(place), "place")
