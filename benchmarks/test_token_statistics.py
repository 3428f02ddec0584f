"""The single pass for all token statistics against a stock loss pass, and against one such pass per statistic."""

from typing import Any

import torch
from preset import bench_model, bench_windows, stock_batches
from timing import compare

from verify.models.token_stats import compute_token_statistics

RECORDS = 64
TARGET_LOSS_PASS, TARGET_PER_STATISTIC = 0.6, 9.0


def test_one_pass_against_a_stock_loss_pass(benchmark: Any) -> None:
    """All statistics take at most 0.6 of the time of one stock loss pass."""
    model, windows = bench_model(), bench_windows(RECORDS)
    batches = stock_batches(windows)

    def stock() -> None:
        with torch.inference_mode():
            for batch in batches:
                model(**batch).loss.item()

    ratio = compare("token statistics / stock loss pass (target 0.6)", lambda: compute_token_statistics(model, windows, 0), stock)
    benchmark.extra_info.update(ratio=ratio, target=TARGET_LOSS_PASS)
    benchmark.pedantic(compute_token_statistics, args=(model, windows, 0), rounds=3)


def test_one_pass_against_a_pass_per_statistic(benchmark: Any) -> None:
    """Loss, Min-K%, Min-K%++, memorization, rank and entropy, each from logits of its own, as separate tools compute them."""
    model, windows = bench_model(), bench_windows(RECORDS)
    batches = stock_batches(windows)

    def log_probabilities(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
        return logits.log_softmax(-1), batch["input_ids"][:, 1:, None]

    def loss(batch: dict[str, torch.Tensor]) -> Any:
        return model(**batch).loss

    def token_loss(batch: dict[str, torch.Tensor]) -> Any:
        log_p, target = log_probabilities(batch)
        return log_p.gather(-1, target)

    def plus_plus(batch: dict[str, torch.Tensor]) -> Any:
        log_p, target = log_probabilities(batch)
        p = log_p.exp()
        mean = (p * log_p).sum(-1)
        deviation = ((p * log_p.square()).sum(-1) - mean.square()).sqrt()
        return (log_p.gather(-1, target)[..., 0] - mean) / deviation

    def memorization(batch: dict[str, torch.Tensor]) -> Any:
        log_p, target = log_probabilities(batch)
        return log_p.argmax(-1) == target[..., 0]

    def rank(batch: dict[str, torch.Tensor]) -> Any:
        log_p, target = log_probabilities(batch)
        return (log_p > log_p.gather(-1, target)).sum(-1)

    # loss, zlib and reference read the loss; Min-K%, extraction probability the token losses; two read the greedy choice.
    passes = [loss, loss, loss, token_loss, token_loss, plus_plus, memorization, memorization, rank]

    def stock() -> None:
        with torch.inference_mode():
            for statistic in passes:
                for batch in batches:
                    statistic(batch)

    ratio = compare(
        "token statistics / a pass per statistic (target 1/9)", lambda: compute_token_statistics(model, windows, 0), stock, 3
    )
    benchmark.extra_info.update(times_faster=1 / ratio, target=TARGET_PER_STATISTIC)
    benchmark.pedantic(compute_token_statistics, args=(model, windows, 0), rounds=3)
