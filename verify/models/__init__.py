"""Models: safe loading, their kinds and digests, text generation, and token log-probabilities."""
