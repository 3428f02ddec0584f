"""Deletion-request workflow, from intake to signed certificate, on an append-only ledger that stores no names."""
