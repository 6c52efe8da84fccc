"""Mask files of every kind, understood or refused by name."""
