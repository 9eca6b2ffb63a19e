"""From float32 to int8."""
