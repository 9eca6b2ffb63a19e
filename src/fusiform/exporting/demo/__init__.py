"""A model's page shown to people: served on this machine, or as a folder for a host."""
