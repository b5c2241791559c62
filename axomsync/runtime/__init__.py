"""Shared by all workers: heartbeat, problems, meters, pauses and waits."""
