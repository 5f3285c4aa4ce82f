"""Dimension search, for both learners: where the weights over the embedding spaces come from, and what the controllers see."""
