"""The process: its workers, its signals, and what others ask of it."""
