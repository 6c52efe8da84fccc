"""What people look at: lines and bars, pictures, files of numbers."""
