"""The evidence of an audit: everything it writes down, and everything that was decided before it looked."""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from verify.arguments import checked
from verify.errors import InputError
from verify.files import read_json, write_text
from verify.findings import (
    AttackResult,
    AuditedModel,
    AuditedSet,
    Figures,
    Frozen,
    Gate,
    HoldoutCheck,
    NotRun,
    People,
    Process,
    RecordFinding,
    ReferenceCheck,
    Registered,
    SetRole,
    Share,
    Test,
    Tier,
    Twins,
    Utility,
    Value,
    VerdictWord,
    verdict_phrase,
)
from verify.threats import ThreatModel

LATER_FIELDS = frozenset({"references_checked", "holdout_checked"})
"""Fields that evidence of earlier versions does not have."""


@checked
class Settings(Frozen):
    """Everything that was decided before looking."""

    margin: float = Field(default=0.10, gt=0, lt=1, description="rho*: largest residual fraction that counts as forgotten")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="level of every test")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="level of every interval")
    fpr: tuple[Share, ...] = (0.01, 0.10)
    utility_tolerance: float = Field(default=0.10, ge=0, lt=1, description="largest loss of retain utility that is accepted")
    planted_share: float = Field(default=0.20, gt=0, lt=1, description="share of records planted back in the positive control")
    planted_draws: int = Field(default=200, ge=20)
    retain_records: int = Field(default=400, ge=2, description="at most so many retain records are scored, drawn by seed")
    attacks: tuple[str, ...] = ()
    twins: bool = Field(default=False, description="the holdout was drawn at random from the data when it came in")
    canary_guesses: int = Field(default=100, ge=1, description="r: guesses about the pairs with the clearest scores")
    epsilon: float = Field(default=1.0, gt=0, description="epsilon*: largest leak of the process that counts as deleted, nats")
    delta: float = Field(default=0.0, ge=0, lt=1, description="delta of the process claim")
    bet: float = Field(default=0.2, gt=0, lt=1, description="stake of the e-value that accumulates over deletions")
    seed: int = 0
    overflow: Literal["refuse", "split"] = "refuse"
    dtype: str = "auto"
    special_tokens: bool = Field(default=False, description="spelled-out special tokens are read as such")

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As earlier versions wrote it where it says nothing new: registrations are known by their digests."""
        content: dict[str, Any] = handler(self)
        return content if self.special_tokens else {name: value for name, value in content.items() if name != "special_tokens"}


class Environment(Frozen):
    """What it was run with."""

    unlearn_verify: str
    python: str
    torch: str
    transformers: str
    numpy: str
    scipy: str
    platform: str
    device: str


class Evidence(Frozen):
    """The outcome of one audit.

    Attributes:
        verdict: one of the four words.
        explanation: why, one plain sentence each.
        scope: which claim the verdict is about, and the statistics it was shown for.
        not_shown: what this audit does not show, one plain sentence each.
        next_step: what would decide, where the verdict is INCONCLUSIVE or NOT_TESTABLE.
        tiers: what could accuse, the strongest first; their error probabilities share alpha.
        accused_by: what did, where the verdict is NOT_FORGOTTEN.
        registration: the file that fixed all choices before unlearning, or None.
        references_checked: what the references' training logs showed, one entry each; None in evidence of older versions.
        holdout_checked: whether the unlearning read the audit's holdout records; None without a holdout set, and likewise.
        blind: AUC of words alone between forget and holdout texts: with the scores, all that the verdict follows from.
        blind_p: permutation p-value of the same, where the holdout is said to be twins.
        process, twins, people: the claims of Tier A, Tier C and the user level, where they were examined.
        residual: rho = N/G, the fraction of the set's memorization that is left.
        accused: the records that the test of single records finds beyond the margin, corrected for their number. How many are
            beyond it cannot be told from that: a weak trace is missed more often than not.
        threats: what the attacker sees, for every attack that was known when this was written, run or not.
    """

    schema_: Literal["unlearn-verify/evidence/1"] = Field(default="unlearn-verify/evidence/1", alias="schema")
    created: str
    duration_seconds: float = Field(ge=0)
    verdict: VerdictWord
    explanation: tuple[str, ...]
    scope: str
    not_shown: tuple[str, ...]
    next_step: str | None
    tiers: tuple[Tier, ...]
    accused_by: tuple[Tier, ...]
    registration: Registered | None = None
    references_checked: tuple[ReferenceCheck, ...] | None = None
    holdout_checked: HoldoutCheck | None = None
    settings: Settings
    models: tuple[AuditedModel, ...]
    sets: tuple[AuditedSet, ...]
    gates: tuple[Gate, ...]
    residual: Value | None
    tests: tuple[Test, ...]
    accused: tuple[RecordFinding, ...]
    blind: Value | None = None
    blind_p: Share | None = None
    process: Process | None = None
    twins: Twins | None = None
    people: People | None = None
    attacks: tuple[AttackResult, ...]
    not_run: tuple[NotRun, ...]
    threats: tuple[ThreatModel, ...] = ()
    utility: tuple[Utility, ...]
    figures: Figures
    environment: Environment

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Evidence of earlier versions is written as it was read: its digest is in certificates and deletion records."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name not in LATER_FIELDS or value is not None}

    @property
    def pre_registered(self) -> bool:
        """Whether every choice was fixed before the audit looked."""
        return self.registration is not None

    @property
    def not_asked(self) -> tuple[str, ...]:
        """Attacks that this version knows and that nobody asked for."""
        tried = {entry.attack for entry in self.attacks} | {entry.attack for entry in self.not_run}
        return tuple(threat.attack for threat in self.threats if threat.attack not in tried)

    @property
    def verdict_phrase(self) -> str:
        """The verdict as it is printed, with its parameters where it has some."""
        settings, records = self.settings, self.set("forget").records
        return verdict_phrase(self.verdict, settings.margin, settings.alpha, len(self.accused), records)

    def set(self, role: SetRole) -> AuditedSet:
        """The audited set of that role.

        Raises:
            KeyError: the audit had none.
        """
        for entry in self.sets:
            if entry.role == role:
                return entry
        raise KeyError(role)

    def attack(self, name: str, model: str) -> AttackResult | None:
        """One attack's result against one model, or None if it was not run."""
        return next((entry for entry in self.attacks if (entry.attack, entry.model) == (name, model)), None)

    def table(self) -> str:
        """A plain-text summary: the verdict, then one row per attack and model."""
        # The reports are written from evidence and stand above it; these two methods are shorthands for whoever holds one.
        from verify.report.text import summary

        return summary(self)

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML file and return its path."""
        # Here, so that reading evidence loads neither matplotlib nor jinja2.
        from verify.report.html import render

        write_text(path, render(self))
        return Path(path)

    def text(self) -> str:
        """What stands in `evidence.json`."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of `evidence.json` as an audit writes it."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write `evidence.json`, atomically."""
        write_text(path, self.text())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read `evidence.json`.

        Raises:
            InputError: the file is missing, truncated, of another version, or not what the schema allows.
        """
        content = read_json(path)
        try:
            # JSON has no tuples, so lists are accepted for them; everything else stays strict.
            return cls.model_validate_json(Path(path).read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            found = content.get("schema") if isinstance(content, dict) else None
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"{path} is not evidence of this version (it says {found!r}, expected 'unlearn-verify/evidence/1'): "
                f"{place}: {first['msg']}. Run the audit again."
            ) from None
