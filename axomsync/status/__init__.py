"""What is told of the agent and its work. Reads only."""
