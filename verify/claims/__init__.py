"""The claims beside Tier B: what canaries, held-out twins and fresh texts can show. Each is judged from the score table alone."""
