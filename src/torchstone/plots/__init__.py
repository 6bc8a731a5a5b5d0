"""Pictures people can look at."""
