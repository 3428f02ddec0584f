"""Jobs that would go to other processes, run in this one: these need not start and import everything first."""

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from verify.io.jobs import WORKERS, Job


def run_jobs_here(jobs: Sequence[Job], workers: int = WORKERS) -> Iterator[tuple[Job, Any]]:
    """Run jobs one after another as `verify.io.jobs.run_jobs` does, each as another process would receive it."""
    assert workers
    done: set[str] = set()
    for job in jobs:
        assert job.after <= done, "what comes first is listed first"
        done.add(job.label)
        sent = pickle.loads(pickle.dumps((job.run, dict(job.arguments))))
        yield job, pickle.loads(pickle.dumps(sent[0](**sent[1])))
