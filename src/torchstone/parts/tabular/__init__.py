"""Parts of networks that read tables."""
