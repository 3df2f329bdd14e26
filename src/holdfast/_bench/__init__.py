"""What `holdfast bench` measures: locks, appends and waits on the user's own disk, holdfast beside others."""
