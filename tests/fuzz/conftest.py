"""Settings of the fuzz tests: a short deterministic run, or with FUZZ_EXAMPLES=N a long random one.

A failure prints the smallest input that hypothesis finds, and a `@reproduce_failure` line to reproduce it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_LONG = int(os.environ.get("FUZZ_EXAMPLES", "0"))

# No deadline: what an example takes depends on who else uses the machine.
settings.register_profile(
    "warmstart",
    max_examples=_LONG or 200,
    derandomize=not _LONG,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("warmstart")
