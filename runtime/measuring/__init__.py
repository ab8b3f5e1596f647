"""How fast a model runs here, what it takes, and how well it foresees text."""
