"""Cost of a defence: seconds, and peak memory above that at the start."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

EVERY = 0.05
MEBIBYTE = 2**20


@dataclass
class Price:
    """Wall-clock seconds, and peak memory above the start in MiB (of the GPU if there is one); set when the block ends."""

    seconds: float = 0.0
    memory: float = 0.0


@contextmanager
def measured() -> Iterator[Price]:
    """Measure the block. Resident memory is sampled every 50 ms; a GPU's allocator records its own peak."""
    price, ended, process = Price(), threading.Event(), psutil.Process()
    start = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not ended.wait(EVERY):
            peak = max(peak, process.memory_info().rss)

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        start_on_gpu = torch.cuda.memory_allocated()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    begun = time.monotonic()
    try:
        yield price
    finally:
        price.seconds = time.monotonic() - begun
        ended.set()
        thread.join()
        price.memory = (max(peak, process.memory_info().rss) - start) / MEBIBYTE
        if torch.cuda.is_available():
            price.memory = (torch.cuda.max_memory_allocated() - start_on_gpu) / MEBIBYTE
