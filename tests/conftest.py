"""What no test may see of the terminal that tests are run in."""

import os

# pytest imports readline, which tells C's environment the size of the terminal, though not
# `os.environ`: what a test starts would inherit it, and a worker of xdist, and believe it.
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)
    os.unsetenv(_name)
