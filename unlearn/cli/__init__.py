"""Commands of the `unlearn` program."""
