"""Device, precision, random numbers, signals and files of a run."""
