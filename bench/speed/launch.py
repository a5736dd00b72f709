"""``launch.py COMMAND...``: run a command; print its exit status, its seconds, and its peak memory in kilobytes.

This program is small and separate, because the memory of the starting process counts towards the peak. The command's
output goes to standard error. The program imports only the standard library.
"""

import os
import sys
import time

# macOS reports bytes, other systems kilobytes.
_UNIT = 1024 if sys.platform == "darwin" else 1

began = time.perf_counter()
process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - began
print(os.waitstatus_to_exitcode(status), f"{seconds:.6f}", usage.ru_maxrss // _UNIT)
