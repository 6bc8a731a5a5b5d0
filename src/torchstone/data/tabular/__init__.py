"""Tables and points."""
