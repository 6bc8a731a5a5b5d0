"""Training and use of audio models."""
