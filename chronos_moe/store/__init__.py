"""Experts that lie on disk: their files, who reads them, what is kept in memory, and how well that went."""
