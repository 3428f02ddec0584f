"""Migrations of the ledger's database, one file per layout; run by `unlearn.requests.ledger.layout`."""
