"""Files to samples to batches, in NumPy and OpenCV."""
