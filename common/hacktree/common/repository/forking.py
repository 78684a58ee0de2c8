"""What a process that was forked gives up of the one that it is a copy of."""

import os
import resource

STANDARD_ERROR = 2


def keep_only(descriptor: int, errors: int = STANDARD_ERROR) -> None:
    """Close every file but `descriptor` and `errors`, which becomes standard error.

    /dev/null takes the place of standard input and output.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for standard, source in enumerate((null, null, errors)):
        os.dup2(source, standard)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
