"""Attention and the other blocks of transformers."""
