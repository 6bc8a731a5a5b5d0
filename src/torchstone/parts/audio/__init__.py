"""Spectrograms and connectionist temporal classification."""
