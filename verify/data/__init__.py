"""Records: where they come from, what identifies them, and how they become tokens."""
