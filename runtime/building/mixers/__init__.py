"""The steps of each kind of mixer. What is computed stands with the kernels; here is only who reads what."""
