"""The machine's people, its own ids, its homes and its files in every new root."""
