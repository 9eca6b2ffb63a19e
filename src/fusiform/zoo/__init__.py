"""What weights exist, where they are, and how files become weights."""
