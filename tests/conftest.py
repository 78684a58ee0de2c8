"""What no test may see of the terminal that tests are run in; and no deadlines.

Property tests state promises about values, not about how fast a busy machine makes them.
"""

import os

from hypothesis import HealthCheck, settings

# pytest imports readline, which tells C's environment the size of the terminal, though not
# `os.environ`: what a test starts would inherit it, and a worker of xdist, and believe it.
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)
    os.unsetenv(_name)

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
