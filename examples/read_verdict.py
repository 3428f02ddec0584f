"""Read everything an audit says, not only its word: `python examples/read_verdict.py`."""

import dataclasses
import tempfile
from pathlib import Path

from tiny_world import PEOPLE, TRAINING, make_base, records

from unlearn import finetune
from verify import Evidence, Settings, audit

with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    forget_set, retain_set = records(PEOPLE[:1]), records(PEOPLE[1:])
    base = make_base(root / "base")
    original = finetune(base, forget_set + retain_set, output_dir=root / "original", options=TRAINING).model_dir
    references = [
        finetune(base, retain_set, output_dir=root / f"ref{seed}", options=dataclasses.replace(TRAINING, seed=seed)).model_dir
        for seed in (1, 2)  # too few: the audit says so, and what would settle it
    ]
    candidate = finetune(base, retain_set, output_dir=root / "candidate", options=dataclasses.replace(TRAINING, seed=9)).model_dir
    sets = {"forget_set": forget_set, "retain_set": retain_set}
    audit(candidate, original, references=references, **sets, settings=Settings(attacks=("quick",)), output_dir=root / "audit")

    evidence = Evidence.load(root / "audit" / "evidence.json")  # report.html lies beside it
    print(f"verdict: {evidence.verdict_phrase}\nabout:   {evidence.scope}")
    for sentence in evidence.explanation:
        print(f"because: {sentence}")
    for gate in evidence.gates:
        state = {True: "passed", False: "failed", None: "not evaluated"}[gate.passed]
        print(f"gate:    {gate.name}: {state}")
    for sentence in evidence.not_shown:
        print(f"limit:   {sentence}")
    print(f"next:    {evidence.next_step}")
    print(f"accused: {len(evidence.accused)} of {evidence.set('forget').records} records")
