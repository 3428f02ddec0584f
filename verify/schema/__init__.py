"""Schemas of everything that is written to disk as evidence."""
