"""The hooks of a run."""
