"""Devices and processes: the mesh, connected processes, compiled programs, memory pages."""
