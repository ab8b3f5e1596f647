"""The engine written down plainly with NumPy: slow, one token at a time, and the truth for every bit."""
