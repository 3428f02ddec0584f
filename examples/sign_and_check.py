"""Sign what was done and what was found, and check it as a stranger would: `python examples/sign_and_check.py`."""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

from tiny_world import PEOPLE, TRAINING, make_base, records

from unlearn import Retrain, finetune, forget
from verify import Settings, audit

with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    forget_set, retain_set = records(PEOPLE[:1]), records(PEOPLE[1:])
    base = make_base(root / "base")
    original = finetune(base, forget_set + retain_set, output_dir=root / "original", options=TRAINING).model_dir
    references = [
        finetune(base, retain_set, output_dir=root / f"ref{seed}", options=dataclasses.replace(TRAINING, seed=seed)).model_dir
        for seed in (1, 2, 3)
    ]
    sets = {"forget_set": forget_set, "retain_set": retain_set}
    retrained = forget(original, Retrain(), **sets, base=base, output_dir=root / "retrained").model_dir
    quick = Settings(margin=0.2, attacks=("loss",))
    audit(retrained, original, references=references, **sets, settings=quick, output_dir=root / "audit")

    def verify(*arguments: str) -> int:
        """`verify-unlearning ...`, in the folder of this example."""
        return subprocess.run([sys.executable, "-m", "verify", *arguments], cwd=root, check=False).returncode

    verify("keygen", "--output", "auditor.key")
    models = ("--model", "retrained", "--original", "original", "--audit", "audit")
    verify("certify", *models, "--key", "auditor.key", "--output", "certificate.json")
    check = ("check", "certificate.json", "--key", "auditor.key.pub", "--model", "retrained")
    print(f"exit status: {verify(*check)}", flush=True)
    (root / "retrained" / "model.safetensors").write_bytes(b"other weights")
    print(f"exit status after the weights were changed: {verify(*check)}")
