"""Output for people: progress lines and bars (display), PNG pictures, and metrics over time (metrics_file)."""
