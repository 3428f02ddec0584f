"""Matrix of threats and defences: membership inference, extraction and backdoors against each defence, with its cost."""
