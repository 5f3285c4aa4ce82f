"""Everything of one moment on disk as one atomic unit, and back (docs/architecture.md, invariant 2)."""
