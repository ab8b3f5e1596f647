"""The verbs of the `chimera` command that the exports own."""
