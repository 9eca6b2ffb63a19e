"""The model card and the data sheet of a run."""
