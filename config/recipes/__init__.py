"""Recipes: whole configs with the command, time and score of each in its head."""
