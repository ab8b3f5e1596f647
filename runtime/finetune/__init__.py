"""Fine-tuning by forward passes alone: one loop for all methods, and the methods of packed models."""
