"""The optical digits of the UCI repository, small enough to ship: see NOTICE.md."""
