"""The audit: its record sets, its registration, its power, and the recomputation of its report."""
