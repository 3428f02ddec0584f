"""Make a level table: design it, train and score its pool model by model, destroy the pool, sign what is left."""

import secrets
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from securesystemslib.signer import CryptoSigner

from unlearn.pool.members import Material, place_controls, read_material, require_same_controls
from unlearn.pool.model import PoolFolder, digest_of_words, require_same_words, require_start, run_model
from unlearn.pool.repetition import Repetition, repetition_of
from unlearn.training import distributed
from unlearn.training.checkpoints import WORK
from verify.data.identity import RecordKey
from verify.data.records import Fields
from verify.errors import InputError, RunError
from verify.io.arguments import checked
from verify.io.envelopes import load_signer
from verify.io.files import MANIFEST, alone_in, is_complete, read_json
from verify.io.jobs import Job, run_jobs
from verify.io.progress import phase
from verify.provenance.level_rows import LevelRows, merkle_root
from verify.provenance.level_table import DESIGN, FOLDER, HEADER, KIND, LevelTable, finish_table, sign_table, write_table
from verify.provenance.pool_design import SHARES, assignment_digest, data_digest, left_out_models, require_design, trained_models
from verify.schema.attack_results import ChannelNotRun
from verify.schema.level_table import LARGEST_SEED, LevelTableHeader, PoolDesign, PoolModel


@checked
def make_level_table(
    model_dir: str | Path,
    *,
    models: int = 8,
    share: float = SHARES[0],
    data: str | Path | None = None,
    base: str | Path | None = None,
    holdout: str | Path | None = None,
    fields: Fields | None = None,
    rewordings: str | Path | None = None,
    operator_key: str | Path | None = None,
    seed: int | None = None,
    workers: int = 1,
    engine: str | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> LevelTable:
    """Make the level table of a finished model, in its folder; an interrupted run resumes with the missing models.

    Args:
        model_dir: folder that `finetune` wrote.
        models: number of models to train, M. Each leaves out a part of the subjects and takes as long as its records.
        share: share of the models that leave out each subject, phi: 1/2 or 1/4.
        data: the training records; the default is the file that the model's manifest names.
        base: the model that the training started from, the first one where it was trained in several stages that have logs; the
            default is the one that the manifest names.
        holdout: records of other people that no model was trained on, where the training held out none (`holdout_share`). They are
            split by subject, half for the unlearning method and half for the audit.
        fields: the columns of the records; the default is those of the training, and no others are taken.
        rewordings: file of rewordings or templates, in whose words the models are asked as well.
        operator_key: private key that signs the header; without one the table is unsigned. A finished table that is unsigned is
            signed afterwards, under the same digest.
        seed: seed of the design; by default drawn, and written into the design before the first model is trained.
        workers: models that are trained at once on this machine.
        engine: a cluster, "dask://HOST:PORT" or "ray://HOST:PORT", whose workers see the same folders and record key.
        notify: receives the digest of the design before the first model is trained; whoever notes it then knows that the
            design was not chosen by its outcome.

    Raises:
        ArgumentError: an argument has a wrong name or type.
        InputError: the training cannot be repeated, there are too few subjects or controls, or the table that is there is another
            one, by design, key or words.
        IntegrityError: the base is not what the training started from.
        RunError: a training became non-finite, the disk is full, or a model could not be removed.
    """
    if distributed.count() > 1:
        raise InputError("a level table is made by one process, which starts others (--workers, --engine). Leave torchrun out.")
    left_out, original = left_out_models(models, share), Path(model_dir)
    signer = None if operator_key is None else load_signer(operator_key)
    how = repetition_of(original, data, fields, None if base is None else str(base))
    folder = original / FOLDER
    if is_complete(folder, KIND):
        table = LevelTable.open(folder)
        _require_as_made(table, original, how, holdout, seed)
        return _kept(table, models, left_out, rewordings, signer)
    with alone_in(folder / WORK):
        written = (folder / HEADER).is_file()  # by a run that was killed before it finished the table
        if not written:
            place_controls(original, holdout, Fields(**how.stages[-1].fields))
            words = None if rewordings is None else str(Path(rewordings).resolve())
            require_start(how)
            require_same_words(PoolFolder(folder), models, words, RecordKey.load())
            material = read_material(original, how, RecordKey.load())
            design = _design(folder, material, how, models, left_out, _share_held_out(original), seed)
            notify(f"design of the level table, fixed before its models are trained: {design.digest}")
            _run_pool(folder, original, how, models, words, workers, engine)
            rows, header = _collected(folder, material, how, design)
            write_table(folder, header, rows, signer)
        shutil.rmtree(folder / WORK, ignore_errors=True)
    table = finish_table(folder)
    if not written:
        return table
    _require_as_made(table, original, how, holdout, seed)
    return _kept(table, models, left_out, rewordings, signer)


def _require_as_made(table: LevelTable, original: Path, how: Repetition, holdout: str | Path | None, seed: int | None) -> None:
    """Require that a finished table has the controls and the seed that are asked for.

    Raises:
        InputError: it has other controls, or another seed.
    """
    if holdout is not None:
        require_same_controls(original, holdout, Fields(**how.stages[-1].fields))
    if seed not in (None, table.design_seed):
        raise InputError(
            f"{table.folder} holds a table whose design has another seed than {seed}. Leave the seed out, or remove the folder to "
            "make another."
        )


def _kept(table: LevelTable, models: int, left_out: int, rewordings: str | Path | None, signer: CryptoSigner | None) -> LevelTable:
    """Return the table that is there, if it is the one that was asked for; one that is unsigned is signed now."""
    folder = table.folder
    if (table.models, table.design.left_out) != (models, left_out):
        raise InputError(
            f"{folder} holds a table of {table.models} models, every subject left out of {table.design.left_out}. Ask for that "
            "one, or remove the folder to make another."
        )
    if rewordings is not None and digest_of_words(str(rewordings), RecordKey.load()) != table.header.wordings:
        asked = "without rewordings" if table.header.wordings is None else "in other words"
        raise InputError(
            f"{folder} holds a table whose models were asked {asked}, and they are destroyed. Leave --rewordings out, or remove "
            "the folder to make another."
        )
    if signer is None or signer.public_key.keyid in table.signatures:
        return table
    if table.signatures:
        raise InputError(
            f"{folder} holds a table that is signed by {table.signatures[0][:16]}, not by the key that you gave "
            f"({signer.public_key.keyid[:16]}). Leave --operator-key out, or give that key."
        )
    return sign_table(table, signer)


def _share_held_out(original: Path) -> float | None:
    share = read_json(original / MANIFEST)["about"].get("holdout_share")
    return float(share) if isinstance(share, float) else None


def _design(
    folder: Path, material: Material, how: Repetition, models: int, left_out: int, held_out: float | None, seed: int | None
) -> PoolDesign:
    """Return the design of an interrupted run, or write a new one.

    Raises:
        InputError: the data is not that of the design, or another design was asked for.
    """
    path = folder / DESIGN
    if path.is_file():
        design = PoolDesign.load(path)
        if (design.models, design.left_out, design.original) != (models, left_out, how.original) or seed not in (None, design.seed):
            raise InputError(
                f"{folder} holds an unfinished table of {design.models} models with another design. Finish it with the same "
                "options, or remove the folder."
            )
        require_design(design, material.members)
        return design
    chosen = secrets.randbelow(LARGEST_SEED) if seed is None else seed
    trained = trained_models(material.members, models, left_out, chosen)
    design = PoolDesign(
        created=_now(),
        models=models,
        left_out=left_out,
        seed=chosen,
        holdout_share=held_out,
        original=how.original,
        base=how.start,
        tokenizer=how.tokenizer,
        recipe=how.recipe,
        key_check=RecordKey.load().check,
        records=material.trained,
        subjects=len(trained),
        controls=len(material.members) - material.trained,
        data=data_digest(material.members),
        assignment=assignment_digest(trained),
    )
    design.save(path)
    return design


def _run_pool(
    folder: Path, original: Path, how: Repetition, models: int, rewordings: str | None, workers: int, engine: str | None
) -> None:
    """Train and score every model that is not finished."""
    pool, key = PoolFolder(folder), RecordKey.load()
    missing = [number for number in range(models) if pool.finished(number, key) is None]
    common = {"folder": str(folder.resolve()), "original": str(original.resolve()), "how": how, "rewordings": rewordings}
    jobs = [Job(f"model {number + 1} of {models}", 1.0, run_model, {**common, "number": number}) for number in missing]
    with phase("training the pool") as progress:
        progress((models - len(jobs)) / models, 1 / models)
        for done, _ in enumerate(run_jobs(jobs, workers, engine) if jobs else (), models - len(jobs) + 1):
            progress(done / models, 1 / models)


def _collected(folder: Path, material: Material, how: Repetition, design: PoolDesign) -> tuple[LevelRows, LevelTableHeader]:
    """Put the scores of all models together; no model is left.

    Raises:
        RunError: files of a model are left, or scores are missing.
    """
    pool, key = PoolFolder(folder), RecordKey.load()
    left = [number for number in range(design.models) if pool.weights(number).exists()]
    if left:
        raise RunError(f"weights of the pool are left in {pool.weights(left[0])}. Remove them, then run the same command.")
    destroyed = _now()
    scores = [pool.finished(number, key) for number in range(design.models)]
    facts = [read_json(pool.facts(number)) for number in range(design.models)]
    whole = [found for found in scores if found is not None]
    if len(whole) < design.models:
        raise RunError("the scores of a model were lost while the pool was run. Run the same command again.")
    channels = [name for name in whole[0] if all(name in found for found in whole)]
    trained = require_design(design, material.members)
    nothing = (False,) * design.models
    on = [nothing if member.half else trained[member.subject] for member in material.members]
    rows = LevelRows(
        places=np.arange(len(material.members)),
        records=tuple(member.record for member in material.members),
        subjects=tuple(member.subject for member in material.members),
        halves=tuple(member.half for member in material.members),
        trained_on=np.array(on, dtype=np.bool_).T,
        losses={name: np.stack([found[name] for found in whole]) for name in channels},
    )
    return rows, LevelTableHeader(
        created=_now(),
        design=design.digest,
        original=how.original,
        base=how.start,
        tokenizer=how.tokenizer,
        recipe=how.recipe,
        pool=tuple(PoolModel(**{name: entry[name] for name in PoolModel.model_fields}) for entry in facts),
        destroyed=destroyed,
        dtype=str(facts[0]["dtype"]),
        channels=tuple(channels),
        not_run=_not_run(facts),
        wordings=facts[0]["wordings"],
        rows=len(material.members),
        controls=(rows.halves.count("method"), rows.halves.count("audit")),
        root=merkle_root(rows.leaves()),
        original_tokens=how.tokens,
    )


def _not_run(facts: list[dict[str, Any]]) -> tuple[ChannelNotRun, ...]:
    """List once every way of asking that failed on a model."""
    found: dict[str, str] = {}
    for entry in facts:
        found = {**entry["not_run"], **found}
    return tuple(ChannelNotRun(channel=name, reason=why) for name, why in found.items())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
