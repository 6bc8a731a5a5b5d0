"""Speech and other recordings."""
