"""Result type, decoding and metric of each task; numpy only."""
