"""Metrics of the TOFU and MUSE benchmarks, computed on models, for comparison with published numbers.

They are not part of a verdict: they compare unpaired averages with one retrained model or none. Use `verify.audit` to judge a
model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.data.encoding import Encoder, padding_token_id
from verify.data.records import Fields, Record, RecordSource
from verify.data.sources import load_records, stream_rows
from verify.errors import InputError
from verify.io.extras import missing
from verify.models.generation import greedy_continuations
from verify.models.loading import LoadedModel, load_model
from verify.models.token_stats import compute_token_statistics
from verify.statistics.estimate import Estimate
from verify.statistics.paper_metrics import forget_quality, model_utility, privleak, truth_ratio, truth_ratio_score
from verify.statistics.roc import membership_auc

Array = NDArray[np.float64]
MIN_K = 0.4
"""The share of tokens in MUSE's Min-K%."""


@dataclass(frozen=True)
class SetScores:
    """TOFU's three metrics on one set, and the truth ratios behind the third.

    Attributes:
        probability: mean of p(answer)^(1/tokens); on sets of facts, its share among the given answers.
        rouge: mean ROUGE-L recall of the greedy answer, with stemming.
        truth_ratio: mean of max(0, 1 - R).
        ratios: R per question [N].
    """

    probability: float
    rouge: float
    truth_ratio: float
    ratios: Array


@dataclass(frozen=True)
class TofuMetrics:
    """Metrics of TOFU (Maini et al. 2024, arXiv 2401.06121, section 2.2).

    Attributes:
        model_utility: harmonic mean of the nine metrics of retain, real authors and world facts; None if a set is missing.
        forget_quality: p-value of the two-sample KS test between the R of the model and of the retrained one, if given.
        sets: the metrics by set.
    """

    model_utility: float | None
    forget_quality: float | None
    sets: dict[str, SetScores]


@dataclass(frozen=True)
class MuseMetrics:
    """Metrics of MUSE (Shi et al. 2024, arXiv 2407.06460, section 3).

    Attributes:
        verbatim: VerbMem, mean ROUGE-L F1 between the greedy continuation of a text's first half and its second.
        knowledge: KnowMem on forget questions, mean ROUGE-L F1 of the answers; None where no questions were given.
        retained_knowledge: the same on retain questions.
        privacy: PrivLeak in per cent, by Min-40 %; None without a retrained model and holdout texts.
    """

    verbatim: float
    knowledge: float | None
    retained_knowledge: float | None
    privacy: Estimate | None


def tofu_metrics(
    model: Any,
    *,
    forget: str | Path,
    retain: str | Path | None = None,
    real_authors: str | Path | None = None,
    world_facts: str | Path | None = None,
    retrained: Any = None,
    tokenizer: Any = None,
) -> TofuMetrics:
    """Compute TOFU's model utility and forget quality.

    Args:
        model: a folder, a Hub name, or a model in memory with `tokenizer`.
        forget, retain, real_authors, world_facts: the benchmark's `*_perturbed` files: rows with `question`, `answer`,
            `perturbed_answer` and, for the first two, `paraphrased_answer`.
        retrained: a model trained without the forget set; for forget quality.
        tokenizer: tokenizer of models in memory.

    Returns:
        the metrics, None where an input is missing.

    Raises:
        InputError: a file has no such rows, or a model cannot be used.
    """
    given = {"forget": forget, "retain": retain, "real authors": real_authors, "world facts": world_facts}
    rows = {name: _perturbed_rows(path) for name, path in given.items() if path is not None}
    loaded = load_model(model, tokenizer=tokenizer)
    sets = {name: score_set(loaded, found, among_answers=name in ("real authors", "world facts")) for name, found in rows.items()}
    kept = [sets[name] for name in given if name in sets and name != "forget"]
    parts = [part for one in kept for part in (one.probability, one.rouge, one.truth_ratio)]
    quality = None
    if retrained is not None:
        other = load_model(retrained, tokenizer=tokenizer)
        ratios = score_set(other, rows["forget"], among_answers=False).ratios
        quality = forget_quality(sets["forget"].ratios, ratios).p_value
    return TofuMetrics(model_utility(parts) if len(kept) == len(given) - 1 else None, quality, sets)


def score_set(loaded: LoadedModel, rows: Sequence[dict[str, Any]], *, among_answers: bool) -> SetScores:
    """Compute TOFU's three metrics on one set.

    Args:
        loaded: the model.
        rows: rows with `question`, `answer`, `perturbed_answer` and, optionally, `paraphrased_answer` [N].
        among_answers: whether the probability is the right answer's share among the given ones, as on real authors and world
            facts.

    Raises:
        InputError: a row cannot be encoded, or the package for ROUGE is missing.
    """
    # Rows may have different numbers of wrong answers; all use as many as the shortest list has.
    wrong = min(len(row["perturbed_answer"]) for row in rows)
    answers = [row["answer"] for row in rows]
    right = _losses(loaded, rows, answers)
    reworded = _losses(loaded, rows, [row.get("paraphrased_answer") or row["answer"] for row in rows])
    perturbed = np.stack([_losses(loaded, rows, [row["perturbed_answer"][k] for row in rows]) for k in range(wrong)], 1)  # [N, P]
    likelihood = np.exp(-right)  # exp(-mean loss) = p(answer)^(1 / tokens)
    if among_answers:
        likelihood = likelihood / (likelihood + np.exp(-perturbed).sum(axis=1))
    ratios = truth_ratio(reworded, perturbed)
    rouge = rouge_l(_answers(loaded, rows), answers, "recall")
    return SetScores(float(likelihood.mean()), float(rouge.mean()), truth_ratio_score(ratios), ratios)


def muse_metrics(
    model: Any,
    *,
    forget: RecordSource,
    holdout: RecordSource | None = None,
    forget_questions: RecordSource | None = None,
    retain_questions: RecordSource | None = None,
    retrained: Any = None,
    fields: Fields | None = None,
    tokenizer: Any = None,
    confidence: float = 0.95,
) -> MuseMetrics:
    """Compute MUSE's verbatim memorization, knowledge memorization and privacy leakage.

    Args:
        model, retrained, tokenizer: as for `tofu_metrics`.
        forget, holdout: texts; those of `holdout` were never trained on.
        forget_questions, retain_questions: prompts with completions about what was to be forgotten and kept.
        fields: columns of the records' fields.
        confidence: level of PrivLeak's interval, in (0, 1).

    Returns:
        the metrics, None where an input is missing.

    Raises:
        InputError: records or models cannot be used.
    """
    loaded = load_model(model, tokenizer=tokenizer)
    texts = load_records(forget, fields)
    questions = [None if source is None else load_records(source, fields) for source in (forget_questions, retain_questions)]
    forgotten, kept = (None if found is None else _knowledge(loaded, found) for found in questions)
    leak = None
    if retrained is not None and holdout is not None:
        unseen = load_records(holdout, fields)
        areas = [
            membership_auc(_min_k(one, texts), _min_k(one, unseen), confidence)
            for one in (loaded, load_model(retrained, tokenizer=tokenizer))
        ]
        try:
            leak = privleak(*areas)
        except ValueError as error:
            raise InputError(f"PrivLeak: {error}. Give more holdout texts, or ones that are like the forget set.") from None
    return MuseMetrics(_verbatim(loaded, texts), forgotten, kept, leak)


def rouge_l(made: Sequence[str], truth: Sequence[str], part: str) -> Array:
    """Compute ROUGE-L per pair, with Porter stemming, by the package that TOFU and MUSE use [N].

    Args:
        made, truth: generated and true texts [N].
        part: "recall", "precision" or "fmeasure".

    Raises:
        InputError: the package is not installed.
    """
    try:
        from rouge_score import rouge_scorer
    except ImportError:
        raise missing("ROUGE (rouge-score)", "papers") from None
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    return np.array([getattr(scorer.score(right, text)["rougeL"], part) for text, right in zip(made, truth, strict=True)])


def _perturbed_rows(path: str | Path) -> list[dict[str, Any]]:
    """Read one of TOFU's `*_perturbed` files and check its columns."""
    rows = [dict(row) for row in stream_rows(str(path))]
    for number, row in enumerate(rows, 1):
        if not {"question", "answer", "perturbed_answer"} <= set(row) or not row["perturbed_answer"]:
            where = f"row {number} of {Path(path).name}"
            raise InputError(f"{where} lacks question, answer or perturbed_answer. Give one of TOFU's *_perturbed files.")
    if not rows:
        raise InputError(f"{Path(path).name} holds no rows. Give one of TOFU's *_perturbed files.")
    return rows


def _losses(loaded: LoadedModel, rows: Sequence[dict[str, Any]], answers: Sequence[str]) -> Array:
    """Compute the mean loss of each answer to its question, nats per token [N]."""
    records = [
        Record(str(number), prompt=row["question"], completion=answer)
        for number, (row, answer) in enumerate(zip(rows, answers, strict=True))
    ]
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    return np.array([entry.loss for entry in compute_token_statistics(loaded.model, windows, padding_token_id(loaded.tokenizer))])


def _answers(loaded: LoadedModel, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Generate the model's greedy answer to each question [N]."""
    asked = [Record(str(number), prompt=row["question"], completion=row["answer"]) for number, row in enumerate(rows)]
    return _continue(loaded, asked)


def _knowledge(loaded: LoadedModel, records: Sequence[Record]) -> float:
    """Compute KnowMem: mean ROUGE-L F1 of the greedy answers."""
    return float(rouge_l(_continue(loaded, records), [record.scored_text for record in records], "fmeasure").mean())


def _continue(loaded: LoadedModel, records: Sequence[Record]) -> list[str]:
    """Generate the model's answer, at most as long as the true one, joined over a record's windows."""
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    made = greedy_continuations(loaded, [window.prompt_ids for window in windows], [int(window.scored.sum()) for window in windows])
    texts = [""] * len(records)
    for window, tokens in zip(windows, made, strict=True):
        texts[window.record] += loaded.tokenizer.decode(tokens, skip_special_tokens=True)
    return texts


def _verbatim(loaded: LoadedModel, records: Sequence[Record]) -> float:
    """Compute VerbMem: mean ROUGE-L F1 of the greedy continuation of each window's first half against its second half."""
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    halves = [max(1, len(window.input_ids) // 2) for window in windows]
    prompts = [window.input_ids[:half] for window, half in zip(windows, halves, strict=True)]
    truths = [window.input_ids[half:] for window, half in zip(windows, halves, strict=True)]
    made = greedy_continuations(loaded, prompts, [len(truth) for truth in truths])
    texts, right = (
        [loaded.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in side]
        for side in (made, [truth.tolist() for truth in truths])
    )
    return float(rouge_l(texts, right, "fmeasure").mean())


def _min_k(loaded: LoadedModel, records: Sequence[Record]) -> Array:
    """Compute MUSE's Min-K% score of each record, higher = more like a member [N]."""
    from verify.attacks.base import mean_of_smallest

    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    statistics = compute_token_statistics(loaded.model, windows, padding_token_id(loaded.tokenizer))
    return np.array([mean_of_smallest(entry.log_probability.astype(np.float64), MIN_K) for entry in statistics])
