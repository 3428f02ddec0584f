"""Training steps that an auditor can take again: schedule, optimizers, precision, checkpoints and replay."""
