"""The append-only request ledger: events, states, statutory deadlines, and the intake of requests."""
