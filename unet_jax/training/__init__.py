"""Training of a run, from data files to checkpoints."""
