"""Extraction attacks, one file each: does the record's text come out, by the shared forward pass or by generation."""
