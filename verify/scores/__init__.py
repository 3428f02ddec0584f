"""Scores of every record under every model and attack: computed, cached, and kept as a table."""
