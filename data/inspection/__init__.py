"""What `warmstart check-data` finds out about data sets by reading every sample."""
