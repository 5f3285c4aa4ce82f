"""Kafka's clients: their settings, what their errors mean, warnings while a broker is away, and the bounded topic reader.

Source, sink, producers and ops reach librdkafka through this package; it knows nothing of them.
"""
