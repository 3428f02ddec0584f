"""The command line `verify-unlearning`."""
