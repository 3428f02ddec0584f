"""Plan of a batch: which models lose which records for which requests, by which methods, and by when.

Everything that `run` needs is in one file, whose digest is in the ledger, so that what runs is what was planned. Records appear as
keyed hashes; their texts stay in the training files and are read from there.
"""

from collections.abc import Collection, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from verify.data.records import Fields
from verify.errors import InputError, IntegrityError
from verify.io.documents import Frozen, invalid_field
from verify.io.files import file_digest, read_json, write_text
from verify.schema.deletion_record import DataPlace
from verify.schema.differences import ReferenceDifference
from verify.schema.parts import Digest, RecordHash
from verify.schema.settings import Settings

PLAN = "plan.json"


class PlannedProof(Frozen):
    """How a re-execution is to prove that a model was rebuilt without the records.

    Attributes:
        commitment: path of a commitment to its training that is older than the requests; None without one.
        share: expected cost as a share of a retraining; None where the rebuild cannot be executed again.
        words: cost and age of the commitment, or why it cannot be executed again.
    """

    commitment: str | None
    share: float | None = Field(ge=0)
    words: str

    @property
    def said(self) -> str:
        """The words, as a plan prints them."""
        return f"none: {self.words}" if self.share is None else self.words


class PlannedModel(Frozen):
    """One model in service, and how the records are to be removed from it.

    Attributes:
        folder: its path.
        weights: digest of its weights.
        origin: path of the folder whose training log (or shards) lists what it was trained on: its own or an ancestor's.
        records: keyed hashes of the records to remove that it was trained on.
        people: number of people these records are about.
        ladder: candidate methods in the order in which they are tried; the last is an exact rebuild.
        base: the model before fine-tuning, or None if unknown.
        share: expected cost as a share of a retraining, or None if unknown beforehand.
        cost: the same in words.
        shown: what the audit will be able to show, in words.
        proof: how its exact rebuild is executed again; None where it is not to be, and in plans of earlier versions.
        level_table: folder of the level table that judges its audits in place of references, or None.
        level_table_key: file of the public key that its signature is checked with, or None.
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
    proof: PlannedProof | None = None
    level_table: str | None = None
    level_table_key: str | None = None

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return Path(self.folder).name

    def learned_from(self, matched: Mapping[str, Collection[str]]) -> tuple[str, ...]:
        """Return the ids of the requests whose records the model was trained on.

        Args:
            matched: request id -> keyed hashes of the records that it was matched with.
        """
        return tuple(request for request, names in matched.items() if not set(self.records).isdisjoint(names))

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a proof or table that is not planned: earlier versions can read such a plan."""
        content: dict[str, Any] = handler(self)
        later = ("proof", "level_table", "level_table_key")
        return {name: value for name, value in content.items() if name not in later or value is not None}


class Plan(Frozen):
    """Plan for a batch of requests that are answered together.

    Attributes:
        batch: its random id.
        requests: ids of the requests.
        subjects: keyed hashes of the persons who asked.
        answer_by: the earliest of their deadlines.
        data: paths of the training files.
        places: what was found in each of them.
        fields: names of their columns.
        models: the models in service that saw the records.
        roots: folders that are searched for models and for copies of deleted data.
        references: models trained without the records, for the audit.
        holdout: records that no model was trained on, or None.
        holdout_divided: whether they are divided by subject, half for the method and half for the audit. Release 0.1.0 did not
            divide them: there both use all of them, and the audit's evidence says so.
        rewordings: file of rewordings or templates, in whose words the audits with never-trained records also ask, or None.
        accept: accepted differences between references and retrainings, by their names in `verify.audit`.
        settings: settings of the audit, and the precision to load models in.
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
    rewordings: str | None = None
    accept: tuple[ReferenceDifference, ...] = ()
    settings: Settings

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    @property
    def records(self) -> frozenset[str]:
        """Return keyed hashes of all records that are removed from any model."""
        return frozenset(name for model in self.models for name in model.records)

    @property
    def columns(self) -> Fields:
        """Return the column names of the training files."""
        return Fields(**cast(dict[str, Any], self.fields))

    def save(self, folder: Path) -> str:
        """Write the plan into the batch's folder, which only its owner may read, atomically, and return its digest."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(folder / PLAN, self.model_dump_json(indent=2, by_alias=True) + "\n", mode=0o600)
        return file_digest(folder / PLAN)

    @classmethod
    def load(cls, folder: Path, digest: str) -> Self:
        """Read the plan of a batch.

        Args:
            folder: the batch's folder.
            digest: the plan's digest in the ledger.

        Raises:
            InputError: the plan is missing or of another version.
            IntegrityError: it is not the plan that the ledger names.
        """
        path = folder / PLAN
        if not path.is_file():
            raise InputError(
                f"{path} is missing. Use --output with the folder of the batches, or run `unlearn request plan` again."
            )
        if file_digest(path) != digest:
            raise IntegrityError(
                f"{path} is not the plan in the ledger: it was edited. Restore it, or run `unlearn request plan` again."
            )
        try:
            read_json(path)
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            field, _ = invalid_field(error, cls)
            raise InputError(f"{path} is a plan of another version ({field}). Run `unlearn request plan` again.") from None

    def facts(self, digest: str, matched: Mapping[str, Collection[str]] | None = None) -> Mapping[str, Any]:
        """Return what the ledger records of the plan.

        Args:
            digest: digest of its file.
            matched: request id -> keyed hashes of the records that it was matched with; needed where several are answered
                together, so that `check --ledger` can say whose data a model had learned.
        """
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
                    **({} if model.proof is None else {"proof": model.proof.said}),
                    **({} if model.level_table is None else {"level_table": True}),
                    **({"requests": list(model.learned_from(matched))} if matched and len(self.requests) > 1 else {}),
                }
                for model in self.models
            ],
        }
