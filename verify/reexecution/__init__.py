"""Re-execution of exact deletions: the training steps of a deletion taken again, and compared bit for bit."""
