"""The verbs of the command line that learn."""
