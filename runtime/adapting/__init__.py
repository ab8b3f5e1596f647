"""What adapters do to a packed model: logs are played again on weights that are this process's own."""
