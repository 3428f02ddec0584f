"""Measurements of this project. A package, not a namespace: Opacus installs a top-level `benchmarks` that would win over one."""
