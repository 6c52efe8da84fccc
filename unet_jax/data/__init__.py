"""Data on the host, in NumPy and OpenCV: files are read as samples, and samples are put together into batches."""
