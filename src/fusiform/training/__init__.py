"""Training: one loop, tasks and recipes as its arguments."""
