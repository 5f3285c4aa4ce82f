"""The stream learner: context features, and embeddings whose rows learn inside the mini-batch by Kalman steps."""
