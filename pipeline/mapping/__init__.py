"""Streams of the user's own: what a record of any JSON or Avro topic says, as interactions.

1. description: a stream as its file describes it, validated        -> StreamDescription
2. reading:     the file                                            -> StreamDescription
3. formats:     JSON and Avro values                                -> the described fields in columns, or one value as a record
4. columns:     these columns, a chunk at once                      -> Block, and the rows that need a second look
5. rules:       one record, field by field: what decides            -> Row, or why there is none
6. decoder:     3 to 5 for a chunk, as a source calls it            -> Decoded

`sample` reads some records of a topic; `proposal` writes a description for them (with `names`, the usual ones), `survey` tries one on them.
"""
