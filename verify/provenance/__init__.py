"""Provenance of models: training logs and histories, and the split of never-trained records."""
