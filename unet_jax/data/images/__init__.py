"""Image files of every kind, and the channels and intensities that a run sees."""
