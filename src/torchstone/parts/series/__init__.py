"""Models and losses of time series."""
