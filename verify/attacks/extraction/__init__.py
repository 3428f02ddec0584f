"""Does this record's text come out? From the shared forward pass or by generating, one attack per file."""
