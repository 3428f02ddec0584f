"""Inputs and options of a plan, which are flags of `unlearn request plan` and fields of `unlearn.requests.choices.Choices`.

Light to import, as the command line is read before anything else is loaded.
"""

from dataclasses import dataclass
from pathlib import Path

from verify.schema.differences import ReferenceDifference


@dataclass(frozen=True)
class PlanInputs:
    """Inputs and options of a plan, as the operator gives them."""

    data: tuple[str, ...]
    """The training files."""
    models: tuple[str, ...]
    """Folders to search for models that saw the records, and for copies of deleted data."""
    search: tuple[str, ...] = ()
    """Further folders to search for copies: caches, logs, notebooks, experiment trackers."""
    in_service: tuple[str, ...] = ()
    """The models that answer users; needed if more than one affected model is found."""
    references: tuple[str, ...] = ()
    """Models trained without the records, with different seeds, for a statistical audit: at least three. An exact rebuild that is
    executed again needs none."""
    level_table: str | None = None
    """Level table that judges in place of --references, if it is not in a model's folder, where it is found by itself."""
    level_table_key: str | None = None
    """Public key of whoever signed the level table; without it the signature is not checked, as page 1 then says."""
    base: str | None = None
    """The model before fine-tuning, if the models' manifests do not name it."""
    holdout: str | None = None
    """Records that no model was trained on; split by subject, half for the method and half for the audit."""
    rewordings: str | None = None
    """Templates that word the records differently, in whose words the audit also asks; needs --holdout and --references."""
    accept_reference_differences: tuple[ReferenceDifference, ...] = ()
    """Accepted ways in which references differ from retrainings of the model without the records; named in the report."""
    methods: tuple[str, ...] = ()
    """Methods to try before the exact rebuild."""
    commitments: tuple[str, ...] = ()
    """Files that `verify-unlearning commit` wrote for the models, before the requests. Those to models that earlier deletions made
    are found in --output."""
    reexecution: bool = True
    """Execute an exact rebuild again, bit for bit, as its proof; without it, only the statistical audit judges."""
    window: int = 14
    """Largest number of days between the deadlines of requests that are answered together."""
    output: Path = Path("deletions")
    """Folder for the batches."""
