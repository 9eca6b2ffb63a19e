"""Answers with a stated error: sets of names, what is unknown, and the temperature; numpy only."""
