"""The command line `unlearn`."""
