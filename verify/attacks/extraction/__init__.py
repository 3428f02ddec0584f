"""Extraction attacks, one file each: they measure how far the model gives a record's text away."""
