"""Conditions of the calibration: how honest targets may deviate from the assumptions, and kept records that have to be found."""

from benchmarks.calibration.worlds import Truth, World

HONEST: dict[str, World] = {
    "as calibrated, K 40": World(),
    "K 100": World(records=100),
    "K 400": World(records=400, controls=100),
    "R 8": World(references=8),
    "R 3": World(references=3),
    "one person, K 4": World(records=4),
    "one record": World(records=1, each=1),
    "one record a person": World(each=1),
    "t4 errors": World(errors="t4"),
    "t4 errors, K 400": World(records=400, controls=100, errors="t4"),
    "t(2.5) errors": World(errors="t2.5"),
    "t(2.5) errors, K 100": World(records=100, errors="t2.5"),
    "t(2.5) errors, K 400": World(records=400, controls=100, errors="t2.5"),
    "skewed errors": World(errors="skew"),
    "records of a person correlated (0.5)": World(correlation=0.5),
    "a third of the rows copies": World(copies=1 / 3),
    "target's noise x 1.5": World(target_noise=1.5),
    "target's noise x 2": World(target_noise=2.0),
    "target's noise x 3": World(target_noise=3.0),
    "LoRA-like (sd 0.01, G 0.3), target's noise x 3": World(spread=(0.005, 0.015), gap=0.3, model_spread=0.01, target_noise=3.0),
    "target's level off by 0.25 nats": World(offset=0.25),
    "target's level off by 0.35 nats": World(offset=0.35),
    "controls twice as noisy": World(control_noise=2.0),
    "controls half as noisy": World(control_noise=0.5),
    "sd 0.6, G 3.5 (the demo's size), K 80": World(records=80, controls=80, spread=(0.3, 0.9), gap=3.5),
}

REMEMBERED: dict[str, tuple[World, Truth]] = {
    "a tenth remembered, K 40": (World(), Truth(kept=4)),
    "a tenth remembered, t4, K 40": (World(errors="t4"), Truth(kept=4)),
    "a tenth remembered, K 400": (World(records=400, controls=100), Truth(kept=40)),
    "a tenth remembered, the demo's size, K 80": (World(records=80, controls=80, spread=(0.3, 0.9), gap=3.5), Truth(kept=8)),
    "a fifth remembered, mean hidden": (World(), Truth(kept=8, hidden=True)),
    "one person, wholly kept": (World(records=4), Truth(kept=4)),
    "residual 0.10 everywhere (the margin)": (World(), Truth(kept=40, share=0.10)),
    "residual 0.20 everywhere": (World(), Truth(kept=40, share=0.20)),
    "residual 0.20 everywhere, R 8": (World(references=8), Truth(kept=40, share=0.20)),
}


def trained_alike(name: str) -> bool:
    """Return whether an honest target is trained as the references are: with the same noise, and as long."""
    return HONEST[name].target_noise == 1.0 and HONEST[name].offset == 0.0
