"""Training and use of flows."""
