"""Avro schemas of everything on the wire, and their codecs. Uses the leaves `autoemb_pipeline.records` and `autoemb_pipeline.errors` only.

- `avro`: loads the .avsc files; bodies, fingerprints and single-object encoding of any schema.
- `codec`: interactions.
- `metrics`: prequential and runtime metrics, as flat JSON or Avro.
- `registry`: the same in the Confluent wire format, with a schema registry.
"""
