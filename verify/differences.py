"""The ways in which a reference can differ from a retraining of the original without the forget set, by name."""

from typing import Literal

ReferenceDifference = Literal["forget", "holdout", "base", "stages", "recipe", "seed", "weights", "retain", "log", "unfinished"]
"""What an audit refuses in a reference unless it is accepted by name.

- forget: it was trained on forget records.
- holdout: it was trained on the audit's holdout records.
- base: it began with other weights.
- stages: other trainings, or the same in another order.
- recipe: other training options.
- seed: the seed of another reference or of the original.
- weights: the weights of the original, the target or the base; those of another reference are never accepted.
- retain: it was not trained on all retain records that the original was trained on.
- log: its training log belongs to other weights.
- unfinished: it is no finished training.
"""
