"""Brokers, topics, metrics endpoint and dashboards: what a run needs around it."""
