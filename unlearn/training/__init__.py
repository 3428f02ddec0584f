"""Training: the one trainer, its options, log, checkpoints and shards, and the contract of a method."""
