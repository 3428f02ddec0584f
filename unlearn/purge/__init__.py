"""Search and removal of what is left of deleted records in files, databases, archives and model folders."""
