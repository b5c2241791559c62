"""The status page: what `axomsync status` says, live in a browser, with health and metrics for other programs."""
