"""Diffusion models: training, sampling, and what a trained one is used for."""
