"""Policies, values, returns and exploration."""
