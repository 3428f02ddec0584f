"""Account of the audits that used the same never-trained controls: an unlucky draw of controls is unlucky for all of them."""

from collections.abc import Iterable, Sequence

from verify.data.identity import RecordKey, set_digest
from verify.data.records import Record
from verify.errors import InputError
from verify.schema.evidence import Evidence
from verify.schema.judged_by import ControlsAccount
from verify.schema.settings import Settings


def controls_digest(holdout: Sequence[Record] | None, level_table: str | None, key: RecordKey) -> str | None:
    """Return what identifies an audit's controls: its level table, else the set of holdout records; None without controls.

    Controls leave a level table when they ask for deletion themselves; those that stay are the same.

    Args:
        holdout: the holdout records; None without a holdout set.
        level_table: digest of the header of the level table that judges; None where none does.
        key: the record key.
    """
    if level_table is not None or holdout is None:
        return level_table
    return set_digest(key.of(record.fingerprint) for record in holdout)


def controls_of(evidence: Evidence) -> str | None:
    """Return what identifies the controls of an earlier audit, as `controls_digest` does."""
    if evidence.level_table is not None:
        return evidence.level_table.digest
    return next((entry.digest for entry in evidence.sets if entry.role == "holdout"), None)


def account_of(
    settings: Settings,
    controls: str | None,
    deletions: Sequence[Evidence],
    looks: Sequence[Evidence],
    audited_before: int | None = None,
    *,
    canaries: bool = False,
) -> ControlsAccount | None:
    """Count the audits against the same controls up to this one; None without controls or without a count.

    Args:
        settings: alpha, and the number of audits that was planned for.
        controls: what identifies the controls of this audit; None without controls.
        deletions: evidence of earlier deletions.
        looks: evidence of earlier audits of the same weights; those against other controls do not count.
        audited_before: how many earlier audits a ledger counted, those in the evidence included; None where the evidence is to be
            counted.
        canaries: whether this audit has canaries, among which earlier deletions may count instead.

    Raises:
        InputError: a negative number, one below what the evidence shows, an earlier deletion that counts neither here nor among the
            canaries, or one against the same controls that used another level.
    """
    if audited_before is not None and audited_before < 0:
        raise InputError(
            f"audited_before is the number of earlier audits against the same controls, 0 or more; got {audited_before}."
        )
    _require_of_use(deletions, controls, canaries)
    if controls is None or settings.rule == 1:
        return None
    same = [one for one in (*deletions, *looks) if controls_of(one) == controls]
    require_same_plan(((one.settings.alpha, one.settings.expected_audits) for one in same), settings)
    named, shown = _audits_shown(same)
    if audited_before is not None:
        if audited_before < shown:
            raise InputError(
                f"audited_before counts {audited_before} earlier audits against the same controls, and the evidence that was given "
                f"shows at least {shown}. Give the ledger's number, which includes these, or leave audited_before out."
            )
        return ControlsAccount.of(settings.alpha, settings.expected_audits, controls, audited_before + 1)
    if not same and settings.expected_audits is None:
        return None
    return ControlsAccount.of(settings.alpha, settings.expected_audits, controls, shown + 1, tuple(sorted(named)))


def audits_shown(earlier: Iterable[Evidence], controls: str | None) -> int:
    """Return how many audits against some controls there were at least, by the evidence of some of them and what it counts."""
    return _audits_shown([one for one in earlier if controls_of(one) == controls])[1]


def _audits_shown(same: Sequence[Evidence]) -> tuple[set[str], int]:
    """Return the evidence that audits against the same controls are or name, and their number at least."""
    accounts = [one.account for one in same if one.account is not None]
    named = {one.digest for one in same}.union(*(account.earlier for account in accounts))
    return named, max(len(named), *(account.number for account in accounts), 0)


def require_same_plan(earlier: Iterable[tuple[float, int | None]], settings: Settings) -> None:
    """Require that earlier audits against the same controls accused at the levels that the account of this one says.

    Levels are fixed before the first audit: whoever accused at all of alpha has no shares of it to give away afterwards.

    Args:
        earlier: alpha and planned number of each earlier audit.
        settings: settings of this audit; nothing is required where it plans for no number.

    Raises:
        InputError: one of them had another plan.
    """
    own = settings.alpha, settings.expected_audits
    other = next((plan for plan in earlier if plan != own), None)
    if settings.expected_audits is None or other is None:
        return
    said, remedy = planned_levels(*other)
    raise InputError(
        f"the controls were used by an earlier audit with {said}: the levels of accusations are fixed before the first. {remedy}, "
        "or use other controls."
    )


def planned_levels(alpha: float, expected: int | None) -> tuple[str, str]:
    """Describe the levels of another audit against the same controls, and how to plan for the same, each in words.

    Args:
        alpha, expected: its level, and the number of audits that it was planned for, or None.
    """
    if expected is None:
        return f"alpha = {alpha:g} and no number planned", "Leave --expected-audits out"
    return f"alpha = {alpha:g} and {expected} planned", f"Give --alpha {alpha:g} --expected-audits {expected}"


def _require_of_use(given: Sequence[Evidence], controls: str | None, canaries: bool) -> None:
    """Refuse earlier deletions that count nowhere: neither among the canaries nor against the same controls."""
    for number, one in enumerate(given, 1):
        if (controls is None or controls_of(one) != controls) and not (canaries and one.process is not None):
            raise InputError(
                f"earlier audit {number} was made against other controls than this one, and "
                + ("it has no canaries" if canaries else "this one has no canaries for it to add to")
                + ". Leave it out of --earlier; the same controls are the same --holdout or --level-table."
            )
