"""Training and use of diffusion models."""
