"""Everything of one moment on disk as one atomic unit, and back (design, invariant 2)."""
