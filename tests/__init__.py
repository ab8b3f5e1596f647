"""What must hold: a folder for each package, and `house` for what is true of the whole."""
