"""Leases: builds that prune keeps for somebody for a while, such as those of a bisection."""
