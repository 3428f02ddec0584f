"""Inputs and options of a plan, as the operator gives them."""

from dataclasses import dataclass, field
from pathlib import Path

from verify.data.records import Fields
from verify.schema.differences import ReferenceDifference
from verify.schema.evidence import Settings


@dataclass(frozen=True)
class Choices:
    """Inputs and options of a plan, as the operator gives them.

    Attributes:
        data: training files.
        models: folders to search for models.
        search: further folders to search for copies of deleted data.
        in_service: the models that answer users; may be empty if only one affected model is found.
        output: folder of the batches; searched for models as well.
        references: models trained without the records; without any, a model's level table judges its audits, if it has one.
        level_table: folder of that table, if it is not in the folder of a model.
        level_table_key: file of the public key of whoever is trusted to have signed it; None does not check the signature.
        base: the model before fine-tuning; None if the models' manifests name it.
        holdout: records that no model was trained on; divided by subject, half for the method and half for the audit.
        rewordings: file of rewordings or templates, in whose words the audit also asks.
        accept_reference_differences: how references may differ from retrainings, by their names in `verify.audit`.
        methods: methods to try before the exact rebuild.
        commitments: files of commitments to the models' trainings, written before the requests.
        reexecution: whether an exact rebuild is executed again as its proof.
        window: requests whose deadlines are at most this many days apart are answered together.
        settings: settings of the audit.
        fields: column names of the training files.
    """

    data: tuple[str, ...]
    models: tuple[str, ...]
    search: tuple[str, ...] = ()
    in_service: tuple[str, ...] = ()
    output: Path = Path("deletions")
    references: tuple[str, ...] = ()
    level_table: str | None = None
    level_table_key: str | None = None
    base: str | None = None
    holdout: str | None = None
    rewordings: str | None = None
    accept_reference_differences: tuple[ReferenceDifference, ...] = ()
    methods: tuple[str, ...] = ()
    commitments: tuple[str, ...] = ()
    reexecution: bool = True
    window: int = 14
    settings: Settings = field(default_factory=Settings)
    fields: Fields = field(default_factory=Fields)
