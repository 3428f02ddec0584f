"""Measures that end in numbers rather than in a verdict: robustness probes, trigger tests, the metrics of TOFU and MUSE."""
