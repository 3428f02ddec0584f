"""Scores of every record under every model and attack: computed, cached, and saved as a table."""
