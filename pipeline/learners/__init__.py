"""Learners: predict, then update; all methods behind one interface (`pipeline.learners.base.Learner`)."""
