"""Quiet third-party libraries: no telemetry, no progress bars, no Hub lookups of their own."""

import os


def quiet_libraries() -> None:
    """Silence the logging, progress bars and telemetry of transformers and its dependencies."""
    quiet_imports()
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def quiet_imports() -> None:
    """Set the environment variables that the libraries read on import, without importing any of them."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
