"""Parts that act on systems in production."""
