"""The object model: pure values and their one encoding. No I/O, clock or randomness here."""
