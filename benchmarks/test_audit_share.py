"""Time of an audit by part: its passes against stock loss passes, statistics and attacks as shares of the total.

The standard attacks on 400 forget and 400 control records, for an original, a target and 4 references of the preset's model.
"""

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from preset import BATCH, bench_model
from timing import SHARES, note, timed

import verify.auditing.case
import verify.auditing.conclusion
import verify.scores.scorer
from unlearn.experiments.people import train_tokenizer
from verify import Settings, audit
from verify.attacks import attack_classes
from verify.data.encoding import Encoder, collate
from verify.data.records import Fields, parse_records

RECORDS, REFERENCES, WORDS = 400, 4, 2000


def invented(prefix: str, count: int, rng: np.random.Generator) -> list[dict[str, str]]:
    """Generate questions and answers of about 25 tokens each."""
    names = [f"{first}{last}" for first in ("ka", "lo", "mi", "ne", "pu") for last in ("ran", "sel", "tor", "vik")]

    def text(size: int) -> str:
        return " ".join(f"{names[number % 20]}{names[number // 20 % 20]}" for number in rng.integers(0, WORDS, size))

    return [{"example_id": f"{prefix}{n}", "prompt": text(8) + "?", "completion": text(8) + "."} for n in range(count)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, list[dict[str, str]]]]:
    """Make six models with slightly different weights, and the records."""
    folder, rng = tmp_path_factory.mktemp("share"), np.random.default_rng(0)
    sets = {role: invented(role, RECORDS, rng) for role in ("forget", "holdout")}
    tokenizer = train_tokenizer([row["prompt"] + row["completion"] for rows in sets.values() for row in rows], 2048)
    model = bench_model()
    for number in range(2 + REFERENCES):
        with torch.no_grad():
            model.lm_head.weight.add_(0.001 * torch.randn(model.lm_head.weight.shape))
        model.save_pretrained(folder / str(number))
        tokenizer.save_pretrained(folder / str(number))
    for role, rows in sets.items():
        (folder / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder, tokenizer, sets


def test_shares(benchmark: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Time one audit by part, and one stock loss pass per model over the same texts."""
    folder, tokenizer, sets = models
    spent: dict[str, float] = defaultdict(float)
    monkeypatch.setattr(verify.scores.scorer, "measure", timed(spent, "passes", verify.scores.scorer.measure))
    monkeypatch.setattr(verify.auditing.conclusion, "judge", timed(spent, "judging", verify.auditing.conclusion.judge))
    monkeypatch.setattr(verify.auditing.case, "blind_aside", timed(spent, "blind baseline", verify.auditing.case.blind_aside))
    free = [kind for kind in attack_classes().values() if not kind.cost]
    for kind in free:
        monkeypatch.setattr(kind, "score", timed(spent, kind.__name__, kind.score))
    paths = [str(folder / str(number)) for number in range(2 + REFERENCES)]
    started = time.perf_counter()
    audit(
        paths[0],
        paths[1],
        references=paths[2:],
        forget_set=str(folder / "forget.jsonl"),
        holdout_set=str(folder / "holdout.jsonl"),
        output_dir=tmp_path / "audit",
        settings=Settings(),
    )
    whole = time.perf_counter() - started

    model, stock = bench_model(), []
    windows = Encoder(tokenizer, 512).encode(
        [record for role, rows in sets.items() for record in parse_records(rows, Fields(), role)]
    )
    for _ in range(2 + REFERENCES):
        began = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, len(windows), BATCH):
                batch = collate(windows[first : first + BATCH], 0)
                labels = batch["input_ids"].masked_fill(~batch["scored"], -100)
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels)
        stock.append(time.perf_counter() - began)
    ratio = note("audit's passes / stock loss passes (target 1.0)", [spent["passes"]], [sum(stock)])
    statistics = spent["judging"] + spent["blind baseline"]
    slowest = max((spent[kind.__name__], kind.__name__) for kind in free)
    SHARES.append(("statistics (target 5 %)", statistics / whole))
    SHARES.append(("blind baseline", spent["blind baseline"] / whole))
    SHARES.append((f"slowest attack without a pass of its own, {slowest[1]} (target 1 %)", slowest[0] / whole))
    benchmark.extra_info.update(ratio=ratio, statistics=statistics / whole, seconds=whole)
    benchmark.pedantic(lambda: None, rounds=1)
