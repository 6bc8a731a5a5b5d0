"""Training and use of GANs."""
