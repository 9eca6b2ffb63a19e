"""Whether a file answers as its model does."""
