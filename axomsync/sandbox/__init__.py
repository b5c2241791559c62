"""A console and a real S3 server on this machine, for the demo, for tests, and for other people's CI."""
