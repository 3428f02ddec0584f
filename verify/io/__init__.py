"""Files, digests and documents: atomic writes, strict readers, plug-in discovery, and checks of Python arguments."""
