"""Estimates of what a training step costs on a device that need not be present, from that device's compiler."""
