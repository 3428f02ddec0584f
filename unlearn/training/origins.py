"""Origins of an unlearned model: the models that it is made from as they were given, and as its manifest names them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unlearn.training import distributed
from unlearn.training.inputs import inputs_of, made_from, place_of
from unlearn.training.log import LOG_NAME, TrainingLog
from unlearn.training.roles import Roles, Sources
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.io.files import MANIFEST, read_json
from verify.models.loading import LoadedModel, load_model
from verify.provenance.descent import BASE, MADE_FROM, NamedBase, named_base_of, trained_records, write_remaining
from verify.provenance.holdout import used_before
from verify.provenance.training_history import HOLDOUT_USED, UNLEARNED_FROM


@dataclass(frozen=True, eq=False, repr=False)
class Start:
    """Models that an unlearning starts from, as given: folders, Hub names or models in memory.

    Attributes:
        model: the model before unlearning.
        base: the model before fine-tuning, or None.
        tokenizer: for a model in memory.
        dtype: precision to load them in.
        quantize: "4bit", "8bit" or None.
    """

    model: Any
    base: Any
    tokenizer: Any
    dtype: str
    quantize: str | None

    @cached_property
    def folder(self) -> Path | None:
        """The folder of the model before unlearning; None for one in memory or on the Hub."""
        return Path(self.model) if isinstance(self.model, (str, Path)) and Path(self.model).is_dir() else None

    def load(self) -> LoadedModel:
        """Load the model before unlearning."""
        return load_model(self.model, tokenizer=self.tokenizer, dtype=self.dtype, quantize=self.quantize)

    def load_base(self, tokenizer: Any) -> LoadedModel | None:
        """Load the model before fine-tuning; None where none was given."""
        return None if self.base is None else load_model(self.base, tokenizer=tokenizer, dtype=self.dtype)

    def base_digests(self, loaded: LoadedModel | None, recorded: Collection[str]) -> frozenset[str]:
        """Return digests of the base that was given, also as stored and as the training loaded it where its own is not recorded.

        Args:
            loaded: the base; None where none was given.
            recorded: digests of the bases that the model before came from.
        """
        if loaded is None:
            return frozenset()
        if not recorded or loaded.digest in recorded:  # there is nothing to compare, or it is the recorded one
            return frozenset({loaded.digest})
        if not isinstance(self.base, (str, Path)):  # one that was loaded in another precision cannot be compared
            return frozenset({loaded.digest} if self.dtype == "auto" else recorded)
        trained = (self._about().get("inputs") or {}).get("dtype", "auto")
        others = {"auto", str(trained)} - {self.dtype}
        return frozenset({loaded.digest, *(load_model(self.base, tokenizer=loaded.tokenizer, dtype=one).digest for one in others)})

    def training_log(self) -> TrainingLog | None:
        """Read the training log in the model's folder; None where there is none."""
        if isinstance(self.model, (str, Path)) and (Path(self.model) / LOG_NAME).is_file():
            return TrainingLog.read(Path(self.model) / LOG_NAME)
        return None

    def origins(self, roles: Roles, method: str) -> dict[str, Any]:
        """Return the manifest's entries on the models and holdout records that a result rests on.

        Args:
            roles: the records, whose holdout set knows what the method read of it.
            method: the method's name.
        """
        before = self._about()
        return {
            **_made_from_before(before),
            MADE_FROM: made_from({"model": self.model, "base": self.base}),
            HOLDOUT_USED: [*used_before(before), *roles.holdout.described(method, RecordKey.load())],
        }

    def inputs(self, sources: Sources) -> dict[str, Any] | None:
        """Return the manifest's entry of paths and digests; None if a model or record set exists in memory only."""
        models = {"model": self.model, "base": self.base}
        return inputs_of(models, sources.named(), sources.fields, self.dtype, self.quantize)

    def named_base(self, loaded: LoadedModel | None, digests: Collection[str], recorded: Collection[str]) -> dict[str, Any]:
        """Return the manifest's entry on the base that the next deletion may start from; empty where nothing names one.

        Args:
            loaded: the base, where one was given; else it is the one that the model before unlearning names.
            digests: its digests, by `base_digests`.
            recorded: digests of the bases that the model before came from; no other is named in place of these.
        """
        if loaded is not None and (not recorded or not set(digests).isdisjoint(recorded)):
            return {BASE: NamedBase(place_of(self.base), loaded.digest).described()}
        named = None if self.folder is None else named_base_of(self.folder)
        return {} if named is None else {BASE: named.described()}

    def list_remaining(self, output: Path, forgotten: Sequence[Record]) -> None:
        """List the records that a result without a training log rests on: those of the model before, without the forgotten."""
        before = frozenset() if self.folder is None else trained_records(self.folder)
        if before and distributed.is_main() and not trained_records(output):
            key = RecordKey.load()
            write_remaining(output, key.check, before - {key.of(record.fingerprint) for record in forgotten})

    def _about(self) -> dict[str, Any]:
        """Return what the manifest of the model before unlearning says of it; nothing without a manifest."""
        if self.folder is None or not (self.folder / MANIFEST).is_file():
            return {}
        about: dict[str, Any] = read_json(self.folder / MANIFEST).get("about", {})
        return about


def _made_from_before(about: dict[str, Any]) -> dict[str, Any]:
    """Return digests of the models that earlier unlearnings started from; nothing if the model was trained."""
    return {UNLEARNED_FROM: [about["weights_before"], *about.get(UNLEARNED_FROM, [])]} if "method" in about else {}
