"""Environments, and the streams of experience that agents learn from."""
