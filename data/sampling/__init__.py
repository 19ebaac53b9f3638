"""The order of samples."""
