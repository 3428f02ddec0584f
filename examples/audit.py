"""Audit three models against four retrained references: `python examples/audit.py`."""

import dataclasses
import tempfile
from pathlib import Path

from tiny_world import PEOPLE, TRAINING, make_base, records

from unlearn import NPO, Retrain, finetune, forget
from verify import Settings, audit

with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    forget_set, retain_set = records(PEOPLE[:1]), records(PEOPLE[1:])
    base = make_base(root / "base")
    original = finetune(base, forget_set + retain_set, output_dir=root / "original", options=TRAINING).model_dir

    # A reference is trained as the original was, without the forget set and with another seed.
    references = [
        finetune(base, retain_set, output_dir=root / f"ref{seed}", options=dataclasses.replace(TRAINING, seed=seed)).model_dir
        for seed in (1, 2, 3, 4)
    ]
    sets = {"forget_set": forget_set, "retain_set": retain_set}
    gentle = dataclasses.replace(TRAINING, learning_rate=1e-3)
    by_npo = forget(original, NPO(alpha=3.0), **sets, output_dir=root / "npo", options=gentle).model_dir
    again = dataclasses.replace(TRAINING, seed=9)
    retrained = forget(original, Retrain(), **sets, base=base, output_dir=root / "retrained", options=again).model_dir

    # Eight records allow a margin of 0.2; `verify-unlearning power` says what an audit of a given size can show.
    settings = Settings(margin=0.2, attacks=("quick",), planted_draws=60)
    for model in (original, by_npo, retrained):
        evidence = audit(model, original, references=references, **sets, settings=settings, cache_dir=root / "cache")
        print(f"{model.name}: {evidence.verdict_phrase}, residual fraction {evidence.residual}")
