"""Optimizers as their equations, for one weight tensor at a time; torch's fused ones are what recipes use."""
