"""Kernels compiled when the package is built: how they are made, kept, and loaded without a compiler."""
