"""`hacktree bisect`: which build of a branch changed something, in few tests and few bytes."""
