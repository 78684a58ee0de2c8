"""Which package broke it: roots mixed from two builds, and delta debugging over their packages."""
