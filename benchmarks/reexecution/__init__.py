"""Re-execution against honest and dishonest deletions of tiny models: how often each is accepted."""
