"""Turning a network into a file of another kind, and proving that it still answers the same."""
