"""How good a model is on labelled pictures: a file for each task, and what they share."""
