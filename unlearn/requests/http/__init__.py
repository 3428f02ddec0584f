"""OpenDSR service over HTTP: endpoints, tokens, limits and the status page."""
