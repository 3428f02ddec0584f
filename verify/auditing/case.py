"""The case of an audit: its models, records and terms, read and checked before a model is scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from verify.attacks.base import Attack
from verify.auditing.accounts import controls_digest
from verify.auditing.audit_sets import compared_texts, draw_retain, near_duplicates_left
from verify.auditing.audited_models import Models
from verify.auditing.commitments import Wording, find_rewordings, require_opened
from verify.auditing.input_checks import CheckedInputs, check_inputs
from verify.auditing.level_tables import TableJudge
from verify.auditing.past import Past
from verify.auditing.shard_siblings import Shards, check_shards
from verify.auditing.terms import Terms
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.rewording_files import RewordingSource
from verify.judging.protocol import Aside, blind_aside
from verify.schema.judged_by import ControlsAccount
from verify.schema.near_duplicates import NearDuplicatesLeft
from verify.schema.parts import SetRole
from verify.schema.settings import Settings

Progress = Callable[[str, float], None]
"""Progress callback `(message, fraction_done)`."""


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """Everything that an audit reads and checks before it scores a model.

    Attributes:
        models: the models.
        sets: the records that are scored.
        key: the record key.
        terms: settings and registration.
        attacks: the attacks of the settings, by name.
        past: canaries, and earlier audits.
        table: the level table that judges; None where references do.
        checked: what the references were trained on, and the unlearning read.
        shards: the model's shards, where they judge; else None.
        aside: the inputs of the verdict that need no scores.
        wording: the records in other words.
        within: the channels that the level table has numbers on; None where references judge.
        near_duplicates: records to keep that are nearly forget records; None without a retain set.
    """

    models: Models
    sets: Mapping[SetRole, Sequence[Record]]
    key: RecordKey
    terms: Terms
    attacks: Mapping[str, Attack]
    past: Past
    table: TableJudge | None
    checked: CheckedInputs
    shards: Shards | None
    aside: Aside
    wording: Wording
    within: frozenset[str] | None
    near_duplicates: NearDuplicatesLeft | None

    @property
    def settings(self) -> Settings:
        """The audit's settings."""
        return self.terms.settings


def open_case(
    models: Models,
    whole: Mapping[SetRole, Sequence[Record]],
    key: RecordKey,
    terms: Terms,
    past: Past,
    table: TableJudge | None,
    rewordings: RewordingSource | None,
    rewording_model: Any,
    progress: Progress,
) -> Case:
    """Check that everything an audit was given fits together, and prepare what needs no scores.

    Args:
        models: the models.
        whole: the records, with all retain records.
        key: the record key.
        terms: settings and registration.
        past: canaries, and earlier audits.
        table: the level table that judges; None where references do.
        rewordings, rewording_model: as for `verify.audit`.
        progress: callback `(message, fraction_done)`.

    Raises:
        InputError: something is not what was registered, was used up by earlier audits, or cannot be judged.
    """
    sets = draw_retain(whole, terms.settings)
    terms = terms.judged_by(table, sets, key, past.commitment, models)
    account = past.account(terms.settings, controls_digest(sets.get("holdout"), None if table is None else table.table.digest, key))
    within = None if table is None else table.channels_in(rewordings, rewording_model, key)
    committed = require_opened(terms.committed_rewordings, rewordings, rewording_model)
    checked = check_inputs(
        models.single(), models.references, whole, past.canaries, key, models.tokenizer, models.accept, models.proofs
    )
    shards = check_shards(models.target, models.original, whole, key) if terms.settings.shard_siblings else None
    terms, attacks = terms.with_attacks()
    aside = _aside(sets, terms, past, account)
    words = find_rewordings(rewordings, rewording_model, sets, terms.settings, lambda message, _: progress(message, 0.0))
    progress("looking for near-duplicates among the records to keep", 0.0)
    return Case(
        models=models,
        sets=sets,
        key=key,
        terms=terms,
        attacks=attacks,
        past=past,
        table=table,
        checked=checked,
        shards=shards,
        aside=aside,
        wording=Wording(words, committed),
        within=within,
        near_duplicates=near_duplicates_left(whole, key),
    )


def _aside(sets: Mapping[SetRole, Sequence[Record]], terms: Terms, past: Past, account: ControlsAccount | None) -> Aside:
    """Return the inputs of the verdict that need no scores, the blind baseline among them."""
    return replace(
        blind_aside(*compared_texts(sets), terms.settings),
        commitment=past.commitment,
        earlier=past.batches,
        registered=None if terms.registered is None else terms.registered.named(),
        account=account,
    )
