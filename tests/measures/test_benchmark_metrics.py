"""TOFU's and MUSE's numbers on models, against their definitions computed one by one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_llama, make_tokenizer, train_by_heart

from verify.data.encoding import Encoder
from verify.data.records import Record
from verify.errors import InputError
from verify.measures.benchmark_metrics import muse_metrics, rouge_l, score_set, tofu_metrics
from verify.models.loading import LoadedModel, load_model
from verify.statistics import model_utility

TOKENIZER = make_tokenizer()
ROWS: list[dict[str, Any]] = [
    {
        "question": f"who {number}",
        "answer": f"the quick brown fox {number}",
        "paraphrased_answer": f"a quick fox {number}",
        "perturbed_answer": [f"the lazy dog {number}", f"other animals {number}", "every day"][: 2 + number % 2],
    }
    for number in range(6)
]
RECORDS = [Record(str(number), prompt=row["question"], completion=row["answer"]) for number, row in enumerate(ROWS)]


@pytest.fixture(scope="module")
def memorized() -> LoadedModel:
    """A tiny model that knows the answers."""
    return train_by_heart(RECORDS)


@pytest.fixture(scope="module")
def innocent() -> LoadedModel:
    return load_model(make_llama(TOKENIZER, 1), tokenizer=TOKENIZER)


def loss_of(loaded: LoadedModel, question: str, answer: str) -> float:
    """One answer at a time, from plain logits."""
    (window,) = Encoder(TOKENIZER, 64).encode([Record("x", prompt=question, completion=answer)])
    ids = torch.as_tensor(window.input_ids.astype("int64"))[None]
    with torch.inference_mode():
        logs = loaded.model(input_ids=ids).logits.log_softmax(-1)[0]
    places = np.flatnonzero(window.scored)
    return -float(np.mean([float(logs[place - 1, ids[0, place]]) for place in places]))


def test_the_numbers_are_their_definitions(innocent: LoadedModel) -> None:
    """Probability, ratio and score, one answer at a time; rows with more wrong answers are cut to the fewest."""
    found = score_set(innocent, ROWS, among_answers=False)
    right = np.array([loss_of(innocent, row["question"], row["answer"]) for row in ROWS])
    assert found.probability == pytest.approx(np.exp(-right).mean(), rel=1e-4)
    reworded = np.array([loss_of(innocent, row["question"], row["paraphrased_answer"]) for row in ROWS])
    wrong = np.array([[loss_of(innocent, row["question"], text) for text in row["perturbed_answer"][:2]] for row in ROWS])
    np.testing.assert_allclose(found.ratios, np.exp(reworded - wrong.mean(axis=1)), rtol=1e-4)
    assert found.truth_ratio == pytest.approx(np.maximum(0, 1 - found.ratios).mean())
    among = score_set(innocent, ROWS, among_answers=True)
    shares = np.exp(-right) / (np.exp(-right) + np.exp(-wrong).sum(axis=1))
    assert among.probability == pytest.approx(shares.mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("made", "truth", "recall", "fmeasure"),
    [
        ("the quick fox", "the quick brown fox", 0.75, 2 * 0.75 / 1.75),
        ("running dogs", "run dog", 1.0, 1.0),  # stemmed
        ("", "the fox", 0.0, 0.0),
        ("fox the", "the fox", 0.5, 0.5),
    ],
)
def test_rouge_l(made: str, truth: str, recall: float, fmeasure: float) -> None:
    """Longest common subsequence over the truth's words, and the harmonic mean with precision."""
    assert rouge_l([made], [truth], "recall")[0] == pytest.approx(recall)
    assert rouge_l([made], [truth], "fmeasure")[0] == pytest.approx(fmeasure)


def files(folder: Path) -> dict[str, Path]:
    paths = {name: folder / f"{name}.json" for name in ("forget", "retain", "real_authors", "world_facts")}
    for path in paths.values():
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return paths


@pytest.mark.slow
def test_tofu_as_a_whole(memorized: LoadedModel, innocent: LoadedModel, tmp_path: Path) -> None:
    """Knowing the answers raises utility; against itself forget quality is 1, against an innocent model it is lower."""
    paths: dict[str, Any] = files(tmp_path)
    known = tofu_metrics(memorized, **paths, retrained=innocent)
    unknown = tofu_metrics(innocent, **paths, retrained=innocent)
    assert known.model_utility is not None
    assert unknown.model_utility is not None
    assert known.model_utility > unknown.model_utility
    assert unknown.forget_quality == 1.0
    assert known.forget_quality is not None
    assert known.forget_quality < 0.05
    kept = [known.sets[name] for name in ("retain", "real authors", "world facts")]
    parts = [part for one in kept for part in (one.probability, one.rouge, one.truth_ratio)]
    assert known.model_utility == pytest.approx(model_utility(parts))
    assert known.sets["forget"].rouge > 0.9
    alone = tofu_metrics(memorized, forget=paths["forget"])
    assert alone.model_utility is None
    assert alone.forget_quality is None


def test_muse_as_a_whole(memorized: LoadedModel, innocent: LoadedModel) -> None:
    """What is known by heart is continued; a model compared with itself leaks nothing more."""
    texts = [{"text": f"{row['question']} {row['answer']}"} for row in ROWS]
    unseen = [{"text": f"who {number} the quick brown fox {number}"} for number in range(30, 50)]
    questions = [{"prompt": row["question"], "completion": row["answer"]} for row in ROWS]
    arguments: dict[str, Any] = {"forget": texts, "holdout": unseen, "forget_questions": questions}
    known = muse_metrics(memorized, **arguments)
    unknown = muse_metrics(innocent, **arguments, retrained=innocent)
    assert known.verbatim > unknown.verbatim
    assert known.knowledge is not None
    assert unknown.knowledge is not None
    assert known.knowledge > 0.9 > unknown.knowledge
    assert known.retained_knowledge is None
    assert known.privacy is None
    assert unknown.privacy is not None
    assert unknown.privacy.value == 0.0


@pytest.mark.parametrize(
    "content", ["", '{"question": "a", "answer": "b"}', '{"question": "a", "answer": "b", "perturbed_answer": []}']
)
def test_other_files_are_refused(content: str, innocent: LoadedModel, tmp_path: Path) -> None:
    """A file that is not TOFU's is named, with what to give instead."""
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(InputError):
        tofu_metrics(innocent, forget=path)
