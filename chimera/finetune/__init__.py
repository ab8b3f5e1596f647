"""Fine-tuning of latent weights by forward passes alone, by one process or by many."""
