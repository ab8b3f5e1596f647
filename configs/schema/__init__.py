"""One frozen dataclass per section of config.json, and the rules that tie the sections together."""
