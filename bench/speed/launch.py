"""``launch.py COMMAND...``: run a command; print its exit status, its seconds, and the kilobytes it had at its peak.

A program of its own, and a small one: what a process starts with counts as its peak, so it must not be a large one that
starts it. The command's output goes to standard error. The standard library alone.
"""

import os
import sys
import time

# macOS tells bytes, all others kilobytes.
_UNIT = 1024 if sys.platform == "darwin" else 1

began = time.perf_counter()
process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - began
print(os.waitstatus_to_exitcode(status), f"{seconds:.6f}", usage.ru_maxrss // _UNIT)
