"""Settings of the test run as a whole."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
