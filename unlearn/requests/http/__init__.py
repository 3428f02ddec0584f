"""OpenDSR over HTTP: the service, its tokens and limits, and the status page."""
