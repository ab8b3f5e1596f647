"""Experts chosen token by token: scores, choice, tokens sorted by expert, and the weighted sum."""
