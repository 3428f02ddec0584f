"""Records: their sources, their identifiers and fingerprints, and their encoding into tokens."""
