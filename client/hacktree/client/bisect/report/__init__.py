"""What was found, and what changed in it, for people and programs."""
