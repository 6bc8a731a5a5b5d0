"""Invertible layers with their log-determinants."""
