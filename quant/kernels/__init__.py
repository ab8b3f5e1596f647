"""The operations, each a plain reference beside its fast forms."""
