"""The jitted steps that a config describes, and the state that they change."""
