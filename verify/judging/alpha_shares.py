"""Shares of alpha: the claims that can accuse divide it, so that an innocent model is accused by any of them at alpha at most."""

from dataclasses import dataclass

from verify.judging.sibling_claim import can_accuse
from verify.judging.user_level_claim import enough_people
from verify.schema.judged_by import TABLE_RULES, ControlsAccount
from verify.schema.parts import Tier
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable

SIBLINGS: Tier = "shard siblings"


@dataclass(frozen=True)
class Shares:
    """How the claims of an audit share alpha.

    Attributes:
        settings: settings of the audit, with all of alpha.
        sharing: the claims that can accuse, strongest first.
        spends: the share of alpha that accusations use, in (0, 1]: all of it, unless other audits use the same controls.
    """

    settings: Settings
    sharing: tuple[Tier, ...]
    spends: float

    @classmethod
    def of(cls, table: ScoreTable, settings: Settings, references: int, account: ControlsAccount | None) -> "Shares":
        """Find the claims that a table of scores allows.

        Args:
            table: the scores.
            settings: settings of the audit.
            references: number of retrained references.
            account: account of the audits against the same controls; None where nobody counts.
        """
        spends = _spent_share(settings, account)
        return cls(settings, _sharing_claims(table, settings, references, spends), spends)

    @property
    def of_a_claim(self) -> Settings:
        """The settings with one claim's share of alpha; the record claim divides it by itself."""
        return self.settings.model_copy(update={"alpha": self.settings.alpha / max(1, len(self.sharing))})

    @property
    def accusing(self) -> float:
        """Level at which one claim accuses."""
        return self.spends * self.of_a_claim.alpha

    @property
    def of_siblings(self) -> float:
        """Level of the ranks of shards: without a share the one that they would need, so that they cannot accuse."""
        return self.spends * self.settings.alpha / len({*self.sharing, SIBLINGS})


def _spent_share(settings: Settings, account: ControlsAccount | None) -> float:
    """Return the share of alpha that accusations use: all of it, unless other audits use the same controls."""
    return 1.0 if account is None else account.level / settings.alpha


def _sharing_claims(table: ScoreTable, settings: Settings, references: int, spends: float) -> tuple[Tier, ...]:
    """Return the claims that can accuse and share alpha, strongest first.

    The ranks of shards get a share only where there are enough shards to accuse with it.
    """
    holdout = table.block("target", "holdout") is not None
    present: dict[Tier, bool] = {
        "retrained references": references >= 2 and settings.rule not in TABLE_RULES,
        "level table": settings.rule in TABLE_RULES,
        "exchangeable twins": settings.twins and holdout,
        "canaries": table.block("target", "canary") is not None,
        "fresh texts": settings.twins and enough_people(table),
    }
    least = spends * settings.alpha / (sum(present.values()) + 1)
    present[SIBLINGS] = settings.shard_siblings and can_accuse(table, least)
    return tuple(tier for tier, there in present.items() if there)
