"""What a model can be exported to, a file each."""
