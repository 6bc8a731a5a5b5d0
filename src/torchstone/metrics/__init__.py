"""Measures that need a trained model, or a whole set."""
