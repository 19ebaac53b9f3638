"""The training loop, and what an update and an evaluation are."""
