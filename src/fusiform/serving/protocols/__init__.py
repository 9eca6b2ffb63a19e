"""The ways to ask: fusiform's own, the Open Inference Protocol, and TorchServe's."""
