"""Training and use of VAEs."""
