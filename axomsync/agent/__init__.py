"""The agent process: its workers, signals, and the requests of other processes."""
