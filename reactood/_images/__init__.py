"""From any input to batches of tensors: kinds, files, pixels, preparation, sources."""
