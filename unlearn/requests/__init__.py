"""Deletion requests: from "please delete me" to a certificate, over a ledger that forgets nobody's request and nobody's name."""
