"""Variational bounds."""
