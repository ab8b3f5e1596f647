"""A model for other runtimes, and back: Hugging Face folders, GGUF files."""
