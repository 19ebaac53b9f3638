"""Measurements and models behind tools: learning-rate finder, scaling."""
