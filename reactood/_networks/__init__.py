"""From a model to features: build it, find its head, stop there, run it."""
