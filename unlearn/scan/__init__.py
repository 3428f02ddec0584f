"""Finds a person's records and the models that were trained on them."""
