"""A level table as the judge of an audit: what it must have, whose model it belongs to, and the numbers that the audit takes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.rewording_files import RewordingSource, content_digest, read_source
from verify.errors import InputError
from verify.judging.protocol import Aside
from verify.provenance.level_table import LevelTable, ancestors_by_deletion
from verify.provenance.recipe import recipe_digest
from verify.provenance.training_history import history_of, level_table_used
from verify.schema.judged_by import TABLE_RULE, TABLE_RULES, LevelTableUsed
from verify.schema.level_table import REMEDY
from verify.schema.parts import SetRole
from verify.schema.settings import Settings
from verify.scores.scorer import Scorer
from verify.scores.table import EXACT_TEXT, POOL, ScoreBlock, ScoreTable

REWORDED = "rewording "
"""Beginning of the names of channels in other words."""
SIDES: tuple[SetRole, ...] = ("forget", "holdout")


@dataclass(frozen=True, eq=False)
class TableJudge:
    """An opened level table that fits an audit's records.

    Attributes:
        table: the table.
        models: numbers of the models whose losses are read, from 0: all, or those that the unlearning method could not read.
    """

    table: LevelTable
    models: tuple[int, ...]

    @property
    def channels(self) -> frozenset[str]:
        """Channels that it has numbers on, besides the exact text."""
        return frozenset(self.table.channels) - {EXACT_TEXT}

    def channels_in(self, rewordings: RewordingSource | None, model: Any, key: RecordKey) -> frozenset[str]:
        """Return the channels that it has numbers on in the words that the audit asks in.

        Args:
            rewordings, model: as for `verify.audit`.
            key: the record key, under which the table names the rewordings that it was made with.

        Raises:
            InputError: a model would word the records, in other words than the table's.
        """
        if model is not None:
            raise InputError(
                "a level table knows the records in the words that it was made with, so no model can word them now. Give the file "
                "of rewordings that it was made with (--rewordings), or leave them out."
            )
        name = None if rewordings is None else key.of(content_digest(read_source(rewordings)), "rewordings")
        same = name is not None and name == self.table.header.wordings
        return self.channels if same else frozenset(name for name in self.channels if not name.startswith(REWORDED))

    def used_on(self, original: str) -> LevelTableUsed:
        """Return what the evidence says of it.

        Args:
            original: digest of the weights before unlearning.
        """
        table, header, design = self.table, self.table.header, self.table.design
        return LevelTableUsed(
            digest=table.digest,
            signer=table.signer or next(iter(table.signatures), None),
            trusted=table.signer is not None,
            created=header.created,
            destroyed=header.destroyed,
            design=header.design,
            seed=table.design_seed,
            models=table.models,
            judging=len(self.models),
            left_out=design.share,
            references=design.left_out * len(self.models) // table.models,
            original=header.original,
            descended=header.original != original,
            rows=len(table.rows.records),
            rows_signed=header.rows,
            controls=len(table.controls("audit")),
            controls_signed=header.controls[1],
        )

    def require_original(self, weights: str, tokenizer: str, original: Any) -> None:
        """Refuse the table of another model, once the original's weights are known.

        The original may itself have been made from the table's by earlier deletions, which add no data.

        Raises:
            InputError: weights, tokenizer or recipe are not those that the table names.
        """
        if weights != self.table.header.original:
            self.table.require_fits((weights, *ancestors_by_deletion(original)), tokenizer)
            return
        history = history_of(original)
        self.table.require_fits(weights, tokenizer, None if history is None else recipe_digest(history.stages))

    def blocks(self, scored: Mapping[tuple[str, SetRole], ScoreBlock]) -> dict[tuple[str, SetRole], ScoreBlock]:
        """Return the table's numbers on the audit's records as blocks "pool 1", "pool 2", ..., with the subjects that it names.

        Args:
            scored: the audit's own blocks; the numbers come in their order, on the channels that they have.
        """
        found: dict[tuple[str, SetRole], ScoreBlock] = {}
        losses: dict[tuple[str, SetRole], np.ndarray] = {}
        subjects = {role: self.table.subjects(scored["target", role].records) for role in SIDES}
        for role in SIDES:
            own = scored["target", role]
            asked = [EXACT_TEXT, *(name for name in own.channels if name in self.channels)]
            losses |= {(name, role): self.table.losses(own.records, name, self.models) for name in asked}
        for place, number in enumerate(self.models):
            for role in SIDES:
                own = scored["target", role]
                channels = {name: losses[name, role][place] for name in own.channels if (name, role) in losses}
                loss = losses[EXACT_TEXT, role][place]
                found[f"{POOL}{number + 1}", role] = replace(
                    own, subjects=subjects[role], loss=loss, scores={}, channels=channels, included=None
                )
        return found


def with_table(judging: TableJudge | None, scorer: Scorer, aside: Aside) -> tuple[ScoreTable, Aside]:
    """Return what is judged: the scores with the level table's numbers, and the aside with its facts; neither without a table.

    Args:
        judging: the table; None without one.
        scorer: after all models were scored.
        aside: the other inputs of the verdict.
    """
    if judging is None:
        return ScoreTable(scorer.blocks), aside
    original = next(model.weights for model in scorer.models if model.role == "original")
    table = ScoreTable({**scorer.blocks, **judging.blocks(scorer.blocks)})
    return table, replace(aside, level_table=judging.used_on(original))


def require_unread_controls(judging: TableJudge | None, accept: Collection[str]) -> None:
    """Refuse to accept that the unlearning read the auditor's controls: by a level table every test is a contrast with them.

    Raises:
        InputError: the audit accepted it.
    """
    if judging is not None and "used_holdout" in accept:
        raise InputError(
            "a level table judges by its controls, so an unlearning that read them cannot be judged by it. Leave "
            "--accept-used-holdout out, and unlearn with the method's half (holdout-method.jsonl)."
        )


def table_judge(
    folder: str | Path | None,
    key_file: str | Path | None,
    references: Sequence[Any],
    target: Any,
    sets: Mapping[SetRole, Sequence[Record]],
    key: RecordKey,
) -> TableJudge | None:
    """Open the level table of an audit and check that it has what the audit needs; None without one.

    Args:
        folder: folder of the table.
        key_file: public key of whoever is trusted to have signed it.
        references: references of the audit; a table takes their place.
        target: the unlearned model, whose manifest says whether the method also read the table.
        sets: the audit's records.
        key: the record key.

    Raises:
        InputError: there are references too, the table is damaged, was made under another key, lacks records or losses, or does
            not leave the records out of as many models as its design says.
    """
    if folder is None:
        if key_file is not None:
            raise InputError("--level-table-key checks the signature of a level table, but there is none. Give --level-table DIR.")
        return None
    if references:
        raise InputError(
            "--level-table and --references are two judges of the same claim. Give one of them: retrained references judge one "
            "deletion more precisely, a level table costs no training."
        )
    table = LevelTable.open(folder, key_file)
    if table.design.key_check != key.check:
        raise InputError(
            f"the level table {folder} was made under another record key, so no record can be found in it. Name the key file that "
            "it was made with in $UNLEARN_VERIFY_KEY_FILE."
        )
    _require_controls(table, sets, key)
    _require_rows(table, sets["forget"], key)
    history = history_of(target)
    shared = history is not None and table.digest in level_table_used(history)
    models = table.models_of("audit") if shared else tuple(range(table.models))
    _require_losses(table, sets["forget"], key, models)
    return TableJudge(table, models)


def by_table(settings: Settings, judge: TableJudge | None, *, registered: bool = False) -> Settings:
    """Return the settings with the rule of a level table, where one judges.

    Args:
        settings: settings of the audit.
        judge: the level table; None where references judge.
        registered: whether a registration fixed them, so that an older rule of a table stays.

    Raises:
        InputError: the settings name such a rule, and there is no table.
    """
    if judge is not None:
        fixed = registered and settings.rule in TABLE_RULES
        return settings if fixed or settings.rule == TABLE_RULE else settings.model_copy(update={"rule": TABLE_RULE})
    if settings.rule in TABLE_RULES:
        raise InputError(
            f"rule {settings.rule} is that of a level table. Give its folder with --level-table, or leave the rule out."
        )
    return settings


def _require_controls(table: LevelTable, sets: Mapping[SetRole, Sequence[Record]], key: RecordKey) -> None:
    """Require exactly the table's controls for the audit as the holdout set: a choice among them could be made by the result."""
    ours = set(table.controls("audit"))
    if "holdout" not in sets:
        raise InputError(
            f"a level table judges by its {len(ours)} never-trained controls for the audit. Give their records with --holdout: the "
            "file holdout-audit.jsonl that `unlearn train --level-table` wrote."
        )
    given = [key.of(record.fingerprint) for record in sets["holdout"]]
    foreign = [number for number, name in enumerate(given, 1) if name not in ours]
    if foreign:
        raise InputError(
            f"{len(foreign)} of {len(given)} holdout records (the first in row {foreign[0]}) are not controls for the audit of "
            f"{table.folder}. Give exactly those: the file holdout-audit.jsonl that `unlearn train --level-table` wrote, without "
            "records that were deleted since."
        )
    if lacking := len(ours - set(given)):
        raise InputError(
            f"{lacking} of the level table's {len(ours)} controls for the audit are not in the holdout set. Give all of them: a "
            "choice among controls can be made to fit a verdict."
        )


def _require_losses(table: LevelTable, forget: Sequence[Record], key: RecordKey, models: Sequence[int]) -> None:
    """Require losses on the exact text: of forget records under as many models as the design says, of controls under all."""
    names = [key.of(record.fingerprint) for record in forget]
    unseen = (~np.isnan(table.losses(names, EXACT_TEXT, models))).sum(axis=0)
    asked = (~np.isnan(table.losses(table.controls("audit"), EXACT_TEXT, models))).all()
    if not asked or (unseen * table.models != table.design.left_out * len(models)).any():
        raise InputError(
            f"the level table {table.folder} does not hold the losses that its design says: some records were not scored, or were "
            f"left out by other numbers of models. {REMEDY}"
        )


def _require_rows(table: LevelTable, forget: Sequence[Record], key: RecordKey) -> None:
    """Require a training row for every forget record."""
    controls = set(table.controls())
    names = [key.of(record.fingerprint) for record in forget]
    lacking = [number for number, name in enumerate(names, 1) if name not in table or name in controls]
    if lacking:
        raise InputError(
            f"{len(lacking)} of {len(names)} forget records (the first in row {lacking[0]}) have no training row in the level "
            f"table {table.folder}: they were not in its data, or left it when an earlier deletion was closed. Audit with "
            "retrained references (--references), or leave these records out."
        )
