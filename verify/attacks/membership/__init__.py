"""Membership inference attacks, one file each: they infer whether a record was in the training data."""
