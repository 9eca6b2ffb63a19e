"""A network as a short list of operators with numpy weights: what every runtime file is written from."""
