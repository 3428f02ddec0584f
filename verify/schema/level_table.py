"""Documents of a level table: the design of its pool of models, and its header.

The design says which models leave out which subjects, and is fixed before the first of them is trained. The header says what was
trained and scored, and binds every row by a Merkle root; it is signed once, and stays valid when rows leave.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from verify.io.documents import Document, Frozen
from verify.schema.attack_results import ChannelNotRun
from verify.schema.parts import Digest, RecordHash

Half = Literal["method", "audit"]
"""Whose never-trained controls, or whose models of the pool: the unlearning method's or the auditor's."""

REMEDY = "Make the table again: `unlearn train ... --level-table M`."
LARGEST_SEED = 2**48
"""Seeds lie below this: canonical JSON has no integers beyond 2**53."""


class PoolDesign(Document):
    """Design of a pool of models that each leave out a part of the subjects, fixed before the first of them is trained.

    Every subject is left out of exactly `left_out` of the `models` models; which, follows from `seed`
    (`verify.provenance.pool_design`).

    Attributes:
        created: time by the writer's clock. Proof is the digest that was sent to somebody else.
        models: number of models, M.
        left_out: number of models, R, that leave out each subject.
        seed: determines the assignment of subjects to models, and the models' training seeds.
        holdout_share: share of the subjects that were drawn as never-trained controls; None where a file of controls was given.
        original: digest of the weights of the model that the table is for.
        base: digest of the weights that its training started from.
        tokenizer: digest of the tokenizer.
        recipe: digest of the training's recipe (`verify.provenance.recipe`).
        key_check: check value of the record key of the hashes.
        records, subjects: number of training records, and of the groups of records that are left out together.
        controls: number of never-trained controls.
        data: digest of the training records and controls, with subjects and halves (`verify.provenance.pool_design`).
        assignment: digest of which models are trained on which record.
    """

    called: ClassVar[str] = "design of a level table of this version (unlearn-verify/level-table-design/1)"
    remedy: ClassVar[str] = REMEDY

    schema_: Literal["unlearn-verify/level-table-design/1"] = Field(default="unlearn-verify/level-table-design/1", alias="schema")
    created: str
    models: int = Field(ge=2, le=1024)
    left_out: int = Field(ge=1)
    seed: int = Field(ge=0, lt=LARGEST_SEED)
    holdout_share: float | None = Field(gt=0, lt=1)
    original: Digest
    base: Digest
    tokenizer: Digest
    recipe: Digest
    key_check: RecordHash
    records: int = Field(ge=1)
    subjects: int = Field(ge=1)
    controls: int = Field(ge=0)
    data: Digest
    assignment: Digest

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.left_out >= self.models:
            raise ValueError("every subject is left out of all models")
        return self

    @property
    def share(self) -> float:
        """Share of the models that leave out each subject, phi."""
        return self.left_out / self.models

    @property
    def method_models(self) -> tuple[int, ...]:
        """Numbers of the models that an unlearning method may read: the first half; none where R is odd.

        Every subject is left out of equally many models of either half, so that both are tables of their own.
        """
        return tuple(range(self.models // 2)) if self.left_out % 2 == 0 else ()


class PoolModel(Frozen):
    """One model of the pool, as it was before it was destroyed.

    Attributes:
        weights: digest of its weights. Whoever has the data can train it again from the design, and compare.
        seed: seed of its training.
        records, tokens: training records, and tokens that went through the model.
    """

    weights: Digest
    seed: int = Field(ge=0)
    records: int = Field(ge=1)
    tokens: int = Field(ge=0)


class LevelTableHeader(Document):
    """Header of a level table: what was trained and scored, and the Merkle root over its rows.

    Attributes:
        created: time by the writer's clock at which the table was finished.
        design: digest of the design.
        original, base, tokenizer, recipe: as in the design.
        pool: the pool's models, in the order of the columns.
        destroyed: time by the writer's clock at which no file of the pool was left; it was checked.
        dtype: precision in which the pool was scored.
        channels: ways of asking that every model was scored on, "exact text" first.
        not_run: ways of asking that could not be measured, and why.
        wordings: keyed hash of the file of rewordings; None where none was given.
        rows: number of rows when the table was made.
        controls: number of controls for the method, and for the audit.
        root: Merkle root over the rows (`verify.provenance.level_rows`).
        original_tokens: tokens of the original's own training, for the cost; None where unknown.
    """

    called: ClassVar[str] = "header of a level table of this version (unlearn-verify/level-table/1)"
    remedy: ClassVar[str] = REMEDY

    schema_: Literal["unlearn-verify/level-table/1"] = Field(default="unlearn-verify/level-table/1", alias="schema")
    created: str
    design: Digest
    original: Digest
    base: Digest
    tokenizer: Digest
    recipe: Digest
    pool: tuple[PoolModel, ...] = Field(min_length=2)
    destroyed: str
    dtype: str
    channels: tuple[str, ...] = Field(min_length=1)
    not_run: tuple[ChannelNotRun, ...] = ()
    wordings: RecordHash | None = None
    rows: int = Field(ge=1)
    controls: tuple[int, int]
    root: Digest
    original_tokens: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("a channel is listed twice")
        if min(self.controls) < 0 or sum(self.controls) >= self.rows:
            raise ValueError("it has no rows but controls")
        if len({model.weights for model in self.pool}) < len(self.pool):
            raise ValueError("two models of the pool have the same weights")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a table does not have."""
        content: dict[str, Any] = handler(self)
        empty = {"not_run": (), "wordings": None, "original_tokens": None}
        return {name: value for name, value in content.items() if name not in empty or value not in (empty[name], [])}

    @property
    def share_of_training(self) -> float | None:
        """Tokens of the pool's training as a share of the original's; None where the original's are unknown."""
        spent = sum(model.tokens for model in self.pool)
        return spent / self.original_tokens if self.original_tokens else None
