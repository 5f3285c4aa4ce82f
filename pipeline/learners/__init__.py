"""Learners: predict, then update; all methods behind one interface (`autoemb_pipeline.learners.base.Learner`)."""
