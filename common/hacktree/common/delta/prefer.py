"""What packs are to spare: the wish of whoever pulls."""

import enum


class Prefer(enum.Enum):
    """What is to be cheap: everything as measured, the bytes alone, or the time alone."""

    AUTO = "auto"
    BYTES = "bytes"
    TIME = "time"
