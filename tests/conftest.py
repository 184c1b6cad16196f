"""One thread for all tests: small tensors gain nothing from two, which wait for each other on a busy machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
