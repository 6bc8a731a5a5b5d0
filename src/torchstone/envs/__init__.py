"""Environments, rollouts and replay."""
