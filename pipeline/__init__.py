"""Streaming training of recommendation models with online embedding-dimension search (AutoEmb)."""

__version__ = "0.1.0"
