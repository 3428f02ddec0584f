"""Settings of an audit: everything that was decided before looking."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationInfo, model_serializer, model_validator

from verify.io.arguments import checked
from verify.io.documents import Frozen
from verify.schema.parts import Share

LATER_SETTINGS: Mapping[str, Any] = MappingProxyType(
    {"rule": 1, "special_tokens": False, "channels": None, "relearning_rate": None, "utility_ceiling": None}
    | {"expected_audits": None, "shard_siblings": False}
)
"""Settings that earlier versions lack, with the values that their files are read with."""

ChannelGroup = Literal["exact", "rewordings", "instruction", "few-shot", "no-prompt", "layers", "int8", "int4", "relearned"]
"""Ways of asking a model, as they are chosen; "exact" alone asks in no other way."""
STANDARD_CHANNELS: tuple[ChannelGroup, ...] = (
    "rewordings",
    "instruction",
    "few-shot",
    "no-prompt",
    "layers",
    "int8",
    "int4",
    "relearned",
)
"""The channels of an audit that has never-trained controls and retrained references, besides the exact text."""


@checked
class Settings(Frozen):
    """Everything that was decided before looking."""

    rule: Literal[1, 2, 3, 4] = Field(
        default=2,
        description=(
            "rule of the record claim. 1: the exact texts alone. 2: also in other ways of asking, each subject tested, and the "
            "target's noise measured on controls. 3: as 2, by a level table in place of retrained references. 4: as 3, the spread "
            "of a record following its level, and the target's losses on controls compared by level. Files without it are of rule 1"
        ),
    )
    margin: float = Field(default=0.10, gt=0, lt=1, description="rho*: largest residual fraction that counts as forgotten")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="level of every test")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="level of every interval")
    fpr: tuple[Share, ...] = (0.01, 0.10)
    utility_tolerance: float = Field(default=0.10, ge=0, lt=1, description="largest loss of retain utility that is accepted")
    utility_ceiling: float | None = Field(
        default=1.25,
        ge=1,
        description=(
            "largest retain utility relative to the references' for a certificate; above it they were not trained on the retain "
            "set as the model was. None for no limit, as in files without it and by rule 1"
        ),
    )
    planted_share: float = Field(default=0.20, gt=0, lt=1, description="share of records planted back in the positive control")
    planted_draws: int = Field(default=200, ge=20)
    retain_records: int = Field(default=400, ge=2, description="largest number of retain records that are scored, drawn by seed")
    attacks: tuple[str, ...] = ()
    twins: bool = Field(default=False, description="the holdout was drawn at random from the same records, before training")
    shard_siblings: bool = Field(default=False, description="rebuilt shards are ranked among the shards that never saw the records")
    canary_guesses: int = Field(default=100, ge=1, description="r: guesses about the pairs with the clearest scores")
    epsilon: float = Field(default=1.0, gt=0, description="epsilon*: largest leak of the process that counts as deleted, nats")
    delta: float = Field(default=0.0, ge=0, lt=1, description="delta of the process claim")
    bet: float = Field(default=0.2, gt=0, lt=1, description="stake of the e-value that accumulates over deletions")
    seed: int = 0
    overflow: Literal["refuse", "split"] = "refuse"
    dtype: str = "auto"
    special_tokens: bool = Field(default=False, description="spelled-out special tokens are read as such")
    channels: tuple[ChannelGroup, ...] | None = Field(
        default=None, min_length=1, description="ways of asking; None for all of them where there are controls and references"
    )
    relearning_rate: float | None = Field(
        default=None, gt=0, lt=1, description="learning rate of the channel `relearned`; None for a tenth of the fine-tuning's"
    )
    expected_audits: int | None = Field(
        default=None,
        ge=1,
        description="audits planned for against the same controls, which share alpha for accusations; None: each has all of it",
    )

    @model_validator(mode="after")
    def _rule_of_the_file(self, info: ValidationInfo) -> Self:
        """Read files that name no rule as of rule 1; these and others without a ceiling had none to name, and have none."""
        unnamed = {"rule", "utility_ceiling"} - self.model_fields_set if info.mode == "json" else set()
        found = self.model_copy(update={"rule": 1}) if "rule" in unnamed else self
        if found.rule == 1 or "utility_ceiling" in unnamed:
            found.__dict__["utility_ceiling"] = None  # in place: a constructor does not return what its validator returns
        return found

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what earlier versions did not know: registrations are identified by digests of what they wrote."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name not in LATER_SETTINGS or value != LATER_SETTINGS[name]}
