"""Transforms by name."""
