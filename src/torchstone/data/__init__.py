"""Streams: data sets, and experience, as endless, seeded, checkpointable iterators."""
