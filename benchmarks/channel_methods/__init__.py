"""Trials of approximate methods that aim at what an audit asks: other wordings, earlier layers, no prompt, relearning."""
