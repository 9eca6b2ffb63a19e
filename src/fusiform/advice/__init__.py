"""What to do next: whether the data are enough, which images to label, and whether a model is still right."""
