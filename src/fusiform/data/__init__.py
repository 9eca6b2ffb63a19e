"""Photographs: reading them, preparing them for a network."""
