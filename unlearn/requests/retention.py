"""Retention of the documents about persons of closed requests: how long they are kept, and their removal afterwards.

11 CCR 7101(a) requires that records of requests are kept for at least 24 months; other laws set other periods, and
none is to be longer than needed. Letters, plans and lists with keyed hashes of persons are removed. Deletion record, certificate,
audits and proofs stay, as the certificate could not be checked without them. The ledger cannot forget; destroying its record key
makes every hash meaningless.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from dateutil.relativedelta import relativedelta

from unlearn.requests.batch_folder import FOUND, REMOVING
from unlearn.requests.ledger.request import Request
from unlearn.requests.plan import PLAN
from unlearn.requests.record_export import closed_on

MONTHS = 24
ABOUT_PERSONS = (PLAN, FOUND, REMOVING, "letters")
"""Files and folders of a batch that are about the persons who asked, and which nothing needs once all its requests are closed."""


@dataclass(frozen=True)
class Kept:
    """Documents about persons in the folder of closed requests.

    Attributes:
        folder: the folder of a batch that they are or were in, or of one of them.
        requests: their ids.
        until: the last day on which they are kept.
        documents: the files and folders about persons.
    """

    folder: Path
    requests: tuple[str, ...]
    until: date
    documents: tuple[Path, ...]


def kept_documents(requests: Sequence[Request], output: Path, months: int = MONTHS) -> list[Kept]:
    """Return the documents about persons in the folders of closed requests, sorted by the day until which they are kept.

    Args:
        requests: all requests; a batch of which one is open is left out.
        output: folder of the batches.
        months: how long documents are kept after the last request of their folder was closed.
    """
    together: dict[str, list[Request]] = {}
    for request in requests:
        # Its own folder has the letters sent on the way; a plan that was replaced stays in the folder of its batch.
        planned = [str(step.details["batch"]) for step in request.steps if step.state == "planned" and "batch" in step.details]
        for name in dict.fromkeys((request.id, *planned)):
            together.setdefault(name, []).append(request)
    found = []
    for name, members in together.items():
        documents = tuple(path for part in ABOUT_PERSONS if (path := output / name / part).exists())
        days = [closed_on(request) for request in members]
        if documents and None not in days:
            until = max(day for day in days if day is not None) + relativedelta(months=months)
            found.append(Kept(output / name, tuple(request.id for request in members), until, documents))
    return sorted(found, key=lambda kept: (kept.until, kept.folder))


def remove_documents(kept: Kept) -> None:
    """Remove the documents about persons from a folder."""
    for path in kept.documents:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
