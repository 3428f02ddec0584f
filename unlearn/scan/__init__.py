"""Search for a person's records in training files, and for the models that were trained on them."""
