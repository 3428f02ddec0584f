"""Models: loading them safely, what they are made of, and their token log-probabilities."""
