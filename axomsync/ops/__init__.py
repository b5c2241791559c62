"""What people need around the agent: units, logs, hooks, metrics, checks of the machine, an archive for support."""
