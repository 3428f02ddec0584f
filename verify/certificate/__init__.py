"""Signed certificates: what they state, how they are signed, and how anybody checks them (without torch)."""
