"""Attention and the other building blocks of transformers."""
