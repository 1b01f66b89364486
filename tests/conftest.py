"""Settings of the test run as a whole."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
