"""A config as jitted steps, and the state that they change."""
