"""What a model is: its config.json, its presets, its words, and the errors that every package raises."""

__distribution__ = "chimera-edge"
