"""Functions that turn a model and a recipe into a Run, and use it afterwards."""
