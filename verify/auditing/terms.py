"""Terms of an audit: its settings, how its records are read, and the registration that may have fixed both beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from verify.attacks import select_attacks
from verify.attacks.base import Attack
from verify.auditing.audited_models import Models
from verify.auditing.level_tables import TableJudge, by_table, require_unread_controls
from verify.auditing.pinned_references import require_pinned
from verify.auditing.registration import Registration
from verify.data.identity import RecordKey
from verify.data.reading import agreed_reading, fields_for
from verify.data.records import Fields, Record, RecordSource
from verify.errors import InputError
from verify.schema.parts import SetRole
from verify.schema.settings import Settings


@dataclass(frozen=True)
class Terms:
    """What an audit decides by.

    Attributes:
        settings: margins, levels, attacks and seed.
        fields: columns of the records.
        registered: the registration that fixed the settings; None where none did.
    """

    settings: Settings
    fields: Fields
    registered: Registration | None

    @property
    def pinned(self) -> tuple[str, ...]:
        """Weight digests of the references that the registration names."""
        return () if self.registered is None else self.registered.references

    @property
    def committed_rewordings(self) -> str | None:
        """The registered commitment to rewordings; None where there is none."""
        return None if self.registered is None else self.registered.rewordings

    def judged_by(
        self,
        table: TableJudge | None,
        sets: Mapping[SetRole, Sequence[Record]],
        key: RecordKey,
        canaries: str | None,
        models: Models,
    ) -> "Terms":
        """Return the terms with the rule of what judges, after checking that everything given is what was registered.

        Args:
            table: the level table; None where references judge.
            sets: the audit's records.
            key: the record key.
            canaries: commitment to the canary assignments, if there are any.
            models: the models.

        Raises:
            InputError: records, canaries, references or the table are not the registered ones, the unlearning read the controls
                that the table judges by, or the settings name the rule of a table that is not there.
        """
        if self.registered is not None:
            self.registered.require(sets, key, canaries)
            require_pinned(self.registered.references, models.references)
            self.registered.require_judge(None if table is None else table.table.digest)
        require_unread_controls(table, models.accept)
        return replace(self, settings=by_table(self.settings, table, registered=self.registered is not None))

    def with_attacks(self) -> tuple["Terms", Mapping[str, Attack]]:
        """Return the terms with every attack by its name, and the attacks.

        Raises:
            InputError: the settings name an unknown attack.
        """
        attacks = select_attacks(self.settings.attacks)
        return replace(self, settings=self.settings.model_copy(update={"attacks": tuple(attacks)})), attacks


def agree_on_terms(
    registration: str | Path | None,
    settings: Settings | None,
    fields: Fields | None,
    models: Models,
    sources: Sequence[RecordSource | None],
) -> Terms:
    """Take the settings of the registration, or those that were given, and read the records as the models were trained on them.

    Args:
        registration, settings, fields: as for `verify.audit`.
        models: the models.
        sources: forget, retain, holdout and fresh set, and the training data.

    Raises:
        InputError: the registration cannot be read or is dated ahead, the settings differ from it, or the models were trained with
            other columns or another reading of special tokens.
    """
    registered = _past_registration(registration)
    fields = fields_for(fields, (models.original, models.target), sources)
    settings = _settings(settings, registered)
    trained = (models.original, models.target, *models.references)
    fields, settings = agreed_reading(fields, settings, trained, registered is not None)
    return Terms(settings, fields, registered)


def _past_registration(path: str | Path | None) -> Registration | None:
    """Load the registration, which must be older than now; None without one."""
    if path is None:
        return None
    registered = Registration.load(path)
    registered.require_past(datetime.now(UTC))
    return registered


def _settings(settings: Settings | None, registered: Registration | None) -> Settings:
    """Return the registered settings, else those that were given, else the protocol's."""
    if registered is None:
        return settings or Settings()
    if settings is not None:
        attacks = tuple(select_attacks(settings.attacks))
        # The rule is no choice of its own: it follows from what judges, which the registration names.
        rule = registered.settings.rule if registered.level_table is not None else settings.rule
        if settings.model_copy(update={"attacks": attacks, "rule": rule}) != registered.settings:
            raise InputError("the settings differ from the registered ones. Leave them out: they are read from the registration.")
    return registered.settings
