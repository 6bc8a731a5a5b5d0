"""Published weights: folders in Hugging Face layout, read and written."""
