"""One network divided among processes: by its layers, or by its tensors."""
