"""Signed certificates of deletion: their statements, their signatures, and a check that anybody can run without torch."""
