"""Attacks on the verdict: ways to be certified, or to escape an accusation, without having forgotten.

Each draws audits whose target remembers more than the margin. A rule should accuse them and must not certify them.
"""

from benchmarks.calibration.attacks.simulated import ATTACKS, Attack

__all__ = ["ATTACKS", "Attack"]
