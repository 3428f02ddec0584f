"""Reliability of the request desk: kills at any moment, hostile input to every parser, and load, with time and memory."""
