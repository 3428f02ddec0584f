"""Benchmarks of this project. A regular package: Opacus installs a top-level `benchmarks`, which would hide a namespace package."""
