"""Answers over HTTP: one server in front of a pool of engines."""
