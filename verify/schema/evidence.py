"""Evidence of an audit: what was judged, how, with what, and everything it found."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from verify.errors import InputError
from verify.io.documents import Frozen, invalid_field
from verify.io.files import no_file, read_json, write_text
from verify.schema.attack_results import AttackResult, ChannelNotRun, NotRun, Utility
from verify.schema.channels import (
    OTHERWISE,
    ChannelResult,
    SubjectFinding,
    channels_accusing,
    channels_asked,
    contradiction,
    verdict_phrase,
)
from verify.schema.claims import HeldOutClaim, ProcedureClaim, UserLevelClaim, WithoutAdapter
from verify.schema.figures import Figures
from verify.schema.inputs import (
    AuditedModel,
    AuditedSet,
    ConfigurationDifference,
    HoldoutCheck,
    ReferenceCheck,
    Registered,
    RewordingsUsed,
)
from verify.schema.judged_by import TABLE_RULES, ControlsAccount, LevelTableUsed, Look
from verify.schema.near_duplicates import NearDuplicatesLeft
from verify.schema.parts import Gate, RecordFinding, RecordHash, SetRole, Share, Test, Tier, Value, VerdictWord
from verify.schema.representation import Representation
from verify.schema.settings import Settings
from verify.schema.siblings import ShardChecked, Siblings
from verify.schema.threat_model import ThreatModel

SCHEMA: Literal["unlearn-verify/evidence/1"] = "unlearn-verify/evidence/1"
_SCHEMA = re.compile(r"unlearn-verify/[a-z-]{1,40}/[0-9]{1,4}")
"""What the name of a schema looks like; anything else that stands in its place is not repeated."""
LATER_FIELDS = frozenset(
    {
        *("references_checked", "holdout_checked", "channels_not_run", "rewordings", "configuration_differences"),
        *("without_adapter", "level_table", "looks", "account", "near_duplicates", "siblings", "shards_checked"),
    }
)
"""Fields that evidence of earlier versions lacks."""
SECOND_RULE = frozenset({"channels", "subjects", "noise_ratio", "smallest_margin", "weak", "representation"})
"""Fields that verdicts by rule 1 lack."""


class Environment(Frozen):
    """Software versions and device of an audit."""

    unlearn_verify: str
    python: str
    torch: str
    transformers: str
    numpy: str
    scipy: str
    platform: str
    device: str


class Judgement(Frozen):
    """The part of the evidence that follows from the scores: the same score table and settings always give the same.

    Attributes:
        verdict: one of the four words.
        explanation: why, one plain sentence each.
        scope: which claim the verdict is about, and the statistics it was shown for.
        not_shown: what this audit does not show, one plain sentence each.
        next_step: what would settle the verdict where it is INCONCLUSIVE or NOT_TESTABLE.
        tiers: what could accuse, strongest first; their error probabilities share alpha.
        accused_by: what did accuse, where the verdict is NOT_FORGOTTEN.
        gates: validity checks, each with its outcome.
        residual: rho = N/G, the fraction of the set's memorization that is left.
        tests: C1, C2, A1 and A2 with their intermediate values; empty with fewer than two references.
        accused: records that the per-record test finds beyond the margin, corrected for multiplicity. It does not count all
            records beyond it: a weak trace is missed more often than not.
        blind: AUC of the blind baseline (texts only) between forget and holdout records. It is an input: with the scores and
            settings, all that the verdict follows from.
        blind_p: its permutation p-value, where the holdout is declared exchangeable.
        siblings: rebuilt shards ranked among the others; None where that was not asked for.
        process, twins, people: claims from canaries (Tier A), held-out controls (Tier C) and at user level, where examined.
        channels: every way of asking that was judged, "exact text" among them; empty without never-trained controls.
        subjects: subjects whose records together were found beyond the margin, corrected for their number.
        noise_ratio: lambda, the target's variance on controls over that of a further retraining; None without controls.
        smallest_margin: the smallest rho* at which the same tests would certify; None where none up to one half would.
        weak: records that were hardly memorized, or that the references know as well, by keyed hash.
        representation: the claim about hidden states, where examined.
        without_adapter: the target with its adapter switched off; None where it has none.
        attacks: every attack against every model.
        utility: retain-set utility of every model.
        figures: the data of the report's figures.
    """

    verdict: VerdictWord
    explanation: tuple[str, ...]
    scope: str
    not_shown: tuple[str, ...]
    next_step: str | None
    tiers: tuple[Tier, ...]
    accused_by: tuple[Tier, ...]
    gates: tuple[Gate, ...]
    residual: Value | None
    tests: tuple[Test, ...]
    accused: tuple[RecordFinding, ...]
    blind: Value | None = None
    blind_p: Share | None = None
    process: ProcedureClaim | None = None
    twins: HeldOutClaim | None = None
    people: UserLevelClaim | None = None
    siblings: Siblings | None = None
    channels: tuple[ChannelResult, ...] = ()
    subjects: tuple[SubjectFinding, ...] = ()
    noise_ratio: float | None = Field(default=None, gt=0)
    smallest_margin: float | None = Field(default=None, gt=0)
    weak: tuple[RecordHash, ...] = ()
    representation: Representation | None = None
    without_adapter: WithoutAdapter | None = None
    attacks: tuple[AttackResult, ...]
    utility: tuple[Utility, ...]
    figures: Figures


WRITTEN_BEFORE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "verdict": ("schema", "created", "duration_seconds"),
        "gates": (
            "registration",
            "level_table",
            "looks",
            "account",
            "references_checked",
            "holdout_checked",
            "shards_checked",
            "near_duplicates",
            "settings",
            "models",
            "configuration_differences",
            "sets",
        ),
        "utility": ("not_run", "channels_not_run", "rewordings", "threats"),
    }
)
"""Order of `evidence.json`: the fields that stand in front of a field of `Judgement`; the others come last.

Certificates hold the file's digest, so the order is part of the format.
"""


class Evidence(Judgement):
    """The outcome of one audit: the judgement, and what was judged, how, and with what.

    Attributes:
        created: ISO 8601 in UTC.
        duration_seconds: wall time of the audit.
        registration: the file that fixed all choices before unlearning, or None.
        level_table: the level table that judged in place of retrained references; None without one.
        looks: earlier audits of the same weights that the auditor was given; None where there are none.
        account: account of the audits against the same controls; None where nobody counted them, and in evidence of older versions.
        references_checked: what the references' training logs showed, one entry each; None in evidence of older versions.
        holdout_checked: whether the unlearning read the audit's holdout records; None without a holdout set and in evidence of
            older versions.
        shards_checked: the single shards that were scored, and their logs; None where none were ranked.
        near_duplicates: records to keep that are nearly a forget record; None without a retain set and in evidence of older
            versions.
        settings: everything that was decided before looking.
        models, sets: what was scored, by digest.
        configuration_differences: entries in which a model's configuration or precision differs from the original's; None in
            evidence of older versions.
        not_run: attacks that were asked for and could not be run.
        channels_not_run: ways of asking that were wanted and could not be measured; None in evidence of older versions.
        rewordings: where the rewordings came from, if the models were asked in other words.
        threats: the attacker's capabilities, for every attack that was known when this was written, run or not.
        environment: versions and device.
    """

    schema_: Literal["unlearn-verify/evidence/1"] = Field(default=SCHEMA, alias="schema")
    created: str
    duration_seconds: float = Field(ge=0)
    registration: Registered | None = None
    level_table: LevelTableUsed | None = None
    looks: tuple[Look, ...] | None = None
    account: ControlsAccount | None = None
    references_checked: tuple[ReferenceCheck, ...] | None = None
    holdout_checked: HoldoutCheck | None = None
    shards_checked: tuple[ShardChecked, ...] | None = None
    near_duplicates: NearDuplicatesLeft | None = None
    settings: Settings
    models: tuple[AuditedModel, ...]
    configuration_differences: tuple[ConfigurationDifference, ...] | None = None
    sets: tuple[AuditedSet, ...]
    not_run: tuple[NotRun, ...]
    channels_not_run: tuple[ChannelNotRun, ...] | None = None
    rewordings: RewordingsUsed | None = None
    threats: tuple[ThreatModel, ...] = ()
    environment: Environment

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the fields in the file's order; evidence of earlier versions as it was read, for its digest is in certificates."""
        content: dict[str, Any] = handler(self)
        judged = [before for name in Judgement.model_fields for before in (*WRITTEN_BEFORE.get(name, ()), name)]
        order = dict.fromkeys([*judged, *content])
        left_out = {name for name in LATER_FIELDS if content[name] is None} | (SECOND_RULE if self.settings.rule == 1 else set())
        return {name: content[name] for name in order if name in content and name not in left_out}

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        """Refuse a verdict that contradicts what it is said to follow from."""
        if self.settings.rule == 1:
            if later := next((name for name in (*sorted(SECOND_RULE), "account", "siblings") if getattr(self, name)), None):
                raise ValueError(f"a verdict by rule 1 has no {later}")
            return self
        if (self.settings.rule in TABLE_RULES) != (self.level_table is not None):
            raise ValueError("a verdict by rule 3 or 4, and no other, names the level table that it rests on")
        if self.level_table is not None and any(model.role == "reference" for model in self.models):
            raise ValueError("either a level table or retrained references judge, not both")
        original = next((model.weights for model in self.models if model.role == "original"), None)
        if self.level_table is not None and (self.level_table.original != original) != self.level_table.descended:
            raise ValueError("the level table belongs to other weights than those before unlearning")
        if self.account is not None and (wrong := self.account.wrong(self.settings.alpha, self.settings.expected_audits)):
            raise ValueError(wrong)
        found = len(self.accused) + len(self.subjects)
        references = None if self.level_table is not None else sum(model.role == "reference" for model in self.models)
        said = self.tiers, self.accused_by, found, self.tests, self.gates, references
        if wrong := contradiction(self.verdict, self.channels, *said):
            raise ValueError(f"the verdict contradicts itself: {wrong}")
        return self

    @property
    def pre_registered(self) -> bool:
        """Whether every choice was fixed before the audit looked."""
        return self.registration is not None

    @property
    def not_asked(self) -> tuple[str, ...]:
        """Known attacks that were not requested."""
        tried = {entry.attack for entry in self.attacks} | {entry.attack for entry in self.not_run}
        return tuple(threat.attack for threat in self.threats if threat.attack not in tried)

    @property
    def verdict_phrase(self) -> str:
        """The verdict as printed, with its parameters where it has any."""
        settings, records = self.settings, self.set("forget").records
        channels = None if settings.rule == 1 else self.channels
        return verdict_phrase(
            self.verdict,
            settings.margin,
            settings.alpha,
            len(self.accused),
            records,
            channels,
            len(self.subjects),
            by_table=settings.rule in TABLE_RULES,
        )

    @property
    def asked(self) -> tuple[str, ...]:
        """Channels that the verdict rests on: those a certificate was given for, or those that accuse; empty by rule 1."""
        if self.settings.rule == 1:
            return ()
        if self.verdict == "EQUIVALENT_WITHIN":
            return channels_asked(self.channels)
        return channels_accusing(self.channels) if OTHERWISE in self.accused_by else ()

    def set(self, role: SetRole) -> AuditedSet:
        """Return the audited set of a role.

        Raises:
            KeyError: the audit had no such set.
        """
        for entry in self.sets:
            if entry.role == role:
                return entry
        raise KeyError(role)

    def attack(self, name: str, model: str) -> AttackResult | None:
        """Return one attack's result against one model, or None if it was not run."""
        return next((entry for entry in self.attacks if (entry.attack, entry.model) == (name, model)), None)

    def text(self) -> str:
        """Return the content of `evidence.json`."""
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
        if not Path(path).is_file():
            raise InputError(f"{path} {no_file(path)}. Give the folder that `verify-unlearning audit` wrote.")
        content = read_json(path)
        try:
            # JSON has no tuples, so lists are accepted for them; everything else stays strict.
            return cls.model_validate_json(Path(path).read_bytes())
        except ValidationError as error:
            raise InputError(_refusal(path, content, *invalid_field(error, cls))) from None


def _refusal(path: str | Path, content: Any, place: str, reason: str) -> str:
    """Return the message for a file that is no evidence: of another version, or of this one and not what an audit writes.

    Args:
        path: the file.
        content: what it holds.
        place: the field that is wrong; empty where fields contradict one another.
        reason: what is wrong with it.
    """
    found = content.get("schema") if isinstance(content, dict) else None
    where = f"{place}: " if place else ""
    if found == SCHEMA:
        return (
            f"{path} is not what an audit writes: {where}{reason}. It was edited or damaged, or another version of this program "
            "wrote it. Restore the audit's folder, or run the audit again."
        )
    if isinstance(found, str) and _SCHEMA.fullmatch(found):
        return f"{path} is of another kind or version: it says {found!r}, and this version reads {SCHEMA!r}. Run the audit again."
    return f"{path} is not evidence: it does not say {SCHEMA!r}. Give the folder that `verify-unlearning audit` wrote."


Entry = tuple[str, Evidence, float | None]
"""A method's name, its audit, and its cost as a fraction of a retraining's time (None where unknown)."""
