"""Tables: rows of numbers, and of numbers, categories and dates."""
