"""Training and use of text models."""
