"""Compiled kernels: pure functions over arrays. They know nothing of the rest of the project."""
