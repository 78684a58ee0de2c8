"""The page that shows how a farm is, and the same as JSON."""
