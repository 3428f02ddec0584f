"""Experiments: comparisons of methods, sweeps, reproduction, planted triggers, and the demo."""
