"""Names of the ways in which a reference can differ from a retraining of the original without the forget set."""

from typing import Literal

ReferenceDifference = Literal[
    "forget", "holdout", "base", "stages", "recipe", "seed", "weights", "retain", "log", "unfinished", "configuration"
]
"""Differences of a reference that an audit refuses unless they are accepted by name.

- forget: it was trained on forget records.
- holdout: it was trained on the audit's holdout records.
- base: training started from other weights.
- stages: other trainings, or the same ones in another order.
- recipe: another training configuration.
- seed: the seed of another reference or of the original.
- weights: the weights of the original, the target or the base; those of another reference are never accepted.
- retain: it was not trained on all retain records that the original was trained on.
- log: its training log belongs to other weights.
- unfinished: the training did not finish.
- configuration: an entry of its configuration that decides what the weights compute differs from the original's (a normalization
  constant, the rotary base, the quantization, ...). The same holds for the audited model.
"""
