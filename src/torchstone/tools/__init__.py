"""Developers' tools: measured records, documentation pages, golden bits."""
