"""The engine: one training loop, updates, checkpoints, the meter."""
