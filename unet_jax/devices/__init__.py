"""Devices and processes: the device mesh, connected processes, compilation settings, and memory pages."""
