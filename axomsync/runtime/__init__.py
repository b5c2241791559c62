"""What every worker is given: heartbeat, problems, meters, pauses and waits."""
