"""The remote's side: the builds of a line, what they cost, their transfer, leases and verdicts."""
