"""The repository on disk: transactions, refs, commit, checkout, fsck and prune."""
