"""Training and use of image models."""
