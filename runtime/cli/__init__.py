"""The `chimera` command and those of its verbs that the runtime owns."""
