"""Earlier audits that are counted together with an audit, and the audit's canaries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verify.auditing.accounts import account_of
from verify.auditing.audited_models import Models
from verify.auditing.looks import read_looks
from verify.data.canaries import Canaries, find_canaries
from verify.errors import InputError
from verify.schema.claims import CanaryBatch
from verify.schema.evidence import Evidence
from verify.schema.judged_by import ControlsAccount
from verify.schema.settings import Settings


@dataclass(frozen=True)
class Past:
    """Canaries of an audit, and the audits before it.

    Attributes:
        canaries: canaries of the original's training; None without canaries.
        batches: counts of the canaries of earlier deletions.
        deletions: evidence of earlier deletions.
        looks: evidence of earlier audits of the same weights.
        audited_before: number of earlier audits against the same controls, as a ledger counted them; None to count the evidence.
    """

    canaries: Canaries | None
    batches: tuple[CanaryBatch, ...]
    deletions: Sequence[Evidence]
    looks: Sequence[Evidence]
    audited_before: int | None

    @property
    def commitment(self) -> str | None:
        """The commitment to the canary assignments; None without canaries."""
        return None if self.canaries is None else self.canaries.commitment

    def account(self, settings: Settings, controls: str | None) -> ControlsAccount | None:
        """Count the audits against the same controls up to this one; see `account_of`."""
        canaries = self.commitment is not None
        return account_of(settings, controls, self.deletions, self.looks, self.audited_before, canaries=canaries)


def read_past(
    earlier: Sequence[str | Path],
    looks: Sequence[str | Path],
    audited_before: int | None,
    canaries: str | Path | None,
    models: Models,
) -> Past:
    """Read the canaries of an audit and the evidence of earlier ones.

    Args:
        earlier, looks, audited_before, canaries: as for `verify.audit`.
        models: the models.

    Raises:
        InputError: a file cannot be read, an earlier deletion used the same canaries, or a look is an audit of other weights.
    """
    deletions = [Evidence.load(path) for path in earlier]
    coins = find_canaries(models.original) if canaries is None else Canaries.load(canaries)
    batches = _earlier_batches(deletions, None if coins is None else coins.commitment)
    return Past(coins, batches, deletions, read_looks(looks, models.target), audited_before)


def _earlier_batches(earlier: Sequence[Evidence], commitment: str | None) -> tuple[CanaryBatch, ...]:
    """Return the canary counts of earlier deletions; one set of canaries may count only once in the e-value."""
    if commitment is None:
        return ()
    batches: list[CanaryBatch] = []
    for process in (one.process for one in earlier if one.process is not None):
        batches += [batch for batch in process.batches if batch not in batches]
    commitments = [commitment, *(batch.commitment for batch in batches)]
    if len(set(commitments)) < len(commitments):
        raise InputError("an earlier audit used the same canaries, which may count only once. Leave it out of --earlier.")
    return tuple(batches)
