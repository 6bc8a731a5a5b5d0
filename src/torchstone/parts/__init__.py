"""Shared mathematics: parts with one right answer and a test against an oracle."""
