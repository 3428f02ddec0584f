"""Was this record trained on? Scores from the shared forward pass, one attack per file."""
