"""Measures that need no model: distances, errors, aggregates."""
