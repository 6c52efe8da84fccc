"""A training run, from files to checkpoints."""
