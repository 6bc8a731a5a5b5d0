"""Losses and normalization of adversarial training."""
