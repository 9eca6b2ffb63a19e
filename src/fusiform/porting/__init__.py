"""Other frameworks' weights."""
