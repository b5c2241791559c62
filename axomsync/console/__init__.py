"""The console's five calls."""
