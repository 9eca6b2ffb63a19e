"""From photographs to answers."""
