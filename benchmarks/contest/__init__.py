"""Contest of all approximate methods, tuned alike on one half of the forget set and judged on the other."""
