"""A plan: which models lose which records for which requests, by which methods, until when.

Everything that `run` needs stands in one file, whose digest is in the ledger: what is run is what was planned. Records appear as
keyed hashes; their texts stay in the training files and are read from there.
"""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import ConfigDict, Field, ValidationError

from verify.deletion_record import DataPlace
from verify.differences import ReferenceDifference
from verify.errors import InputError, IntegrityError
from verify.evidence import Settings
from verify.files import file_digest, read_json, write_text
from verify.findings import Digest, Frozen, RecordHash
from verify.records import Fields

PLAN = "plan.json"


class PlannedModel(Frozen):
    """One model in service, and how it is to be freed of the records.

    Attributes:
        folder: where it lies; `weights` is the digest of its weights.
        origin: the folder whose training log (or shards) says what it was trained on: its own, or an ancestor's.
        records: keyed hashes of the records to remove that it was trained on.
        people: about how many people these are.
        ladder: methods in the order in which they are tried; the last is an exact rebuild.
        base: the model before fine-tuning, or None where it is not known.
        share: expected cost in retrainings, or None where it is not known beforehand.
        cost: the same in words.
        shown: what the audit will be able to show, in words.
    """

    folder: str
    weights: Digest
    origin: str
    records: tuple[RecordHash, ...] = Field(min_length=1)
    people: int = Field(ge=1)
    ladder: tuple[str, ...] = Field(min_length=1)
    base: str | None
    share: float | None = Field(default=None, ge=0)
    cost: str
    shown: str

    @property
    def name(self) -> str:
        """The folder's own name."""
        return Path(self.folder).name


class Plan(Frozen):
    """A batch of requests that are answered together.

    Attributes:
        batch: its random id.
        requests: ids of the requests.
        subjects: keyed hashes of the persons who asked.
        answer_by: the first of their deadlines.
        data: training files; `places` says what was found in each.
        fields: which columns hold what.
        models: what is to be done.
        roots: folders in which models, and copies of deleted data, are looked for.
        references: models trained without the records, for the audit.
        holdout: records that no model was trained on, or None.
        holdout_divided: whether they are divided by subject, half for the method and half for the audit; in plans of versions that
            did not divide them, both have all of them, and the audit's evidence says so.
        accept: differences between references and retrainings that are meant, by their names in `verify.audit`.
        settings: of the audit, and the precision to load with.
    """

    schema_: Literal["unlearn-verify/plan/1"] = Field(default="unlearn-verify/plan/1", alias="schema")
    batch: str = Field(pattern=r"^B-[0-9a-f]{12}$")
    requests: tuple[str, ...] = Field(min_length=1)
    subjects: tuple[str, ...]
    answer_by: date
    data: tuple[str, ...]
    places: tuple[DataPlace, ...]
    fields: dict[str, str | bool]
    models: tuple[PlannedModel, ...] = Field(min_length=1)
    roots: tuple[str, ...]
    references: tuple[str, ...]
    holdout: str | None
    holdout_divided: bool = False
    accept: tuple[ReferenceDifference, ...] = ()
    settings: Settings

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    @property
    def records(self) -> frozenset[str]:
        """Keyed hashes of everything that is removed from any model."""
        return frozenset(name for model in self.models for name in model.records)

    @property
    def columns(self) -> Fields:
        """Which columns of the training files hold what."""
        return Fields(**cast(dict[str, Any], self.fields))

    def save(self, folder: Path) -> str:
        """Write it into the batch's folder, atomically, and return its digest."""
        write_text(folder / PLAN, self.model_dump_json(indent=2, by_alias=True) + "\n", mode=0o600)
        return file_digest(folder / PLAN)

    @classmethod
    def load(cls, folder: Path, digest: str) -> Self:
        """Read the plan of a batch.

        Args:
            folder: of the batch.
            digest: of the plan, as the ledger has it.

        Raises:
            InputError: it is missing, or of another version.
            IntegrityError: it is not the plan that the ledger names.
        """
        path = folder / PLAN
        if not path.is_file():
            raise InputError(f"{path} is missing. Name the folder that `plan` wrote to with --output, or run `plan` again.")
        if file_digest(path) != digest:
            raise IntegrityError(f"{path} is not the plan that the ledger names: it was edited. Restore it, or run `plan` again.")
        try:
            read_json(path)
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise InputError(f"{path} is a plan of another version ({place}). Run `plan` again.") from None

    def facts(self, digest: str) -> Mapping[str, Any]:
        """What the ledger notes of it."""
        return {
            "batch": self.batch,
            "plan": digest,
            "answer_by": self.answer_by.isoformat(),
            "references": len(self.references),
            "models": [
                {
                    "name": model.name,
                    "weights": model.weights,
                    "records": len(model.records),
                    "ladder": list(model.ladder),
                    "cost": model.cost,
                    "shown": model.shown,
                }
                for model in self.models
            ],
        }
