"""The demonstration: fictitious people, a small model that learns them, and their removal."""
