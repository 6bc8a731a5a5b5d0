"""Noise schedules, the diffusion process, and blocks of its U-Net."""
