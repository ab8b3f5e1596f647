"""From a config and its tensors to the program that an engine runs."""
