"""Reports on the agent and its work. Reads only."""
