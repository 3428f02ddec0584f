"""Measures that give numbers rather than a verdict: robustness probes, trigger tests, the metrics of TOFU and MUSE."""
