"""Run a program and write what it used: `python run_measured.py USAGE.json SECONDS PROGRAM ...`.

It is a process of its own because the kernel counts the memory of whoever starts a program to that program's peak, and the
benchmark is large. SIGTERM goes on to the program; after SECONDS it is killed. The status is the program's.
"""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run the program to its end; return its status."""
    usage, seconds, *words = sys.argv[1:]
    program = subprocess.Popen(words)
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    try:
        status = program.wait(float(seconds))
    except subprocess.TimeoutExpired:
        program.kill()
        status = program.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    Path(usage).write_text(json.dumps({"peak": used.ru_maxrss / 1024, "processor": used.ru_utime + used.ru_stime}))
    return status


if __name__ == "__main__":
    sys.exit(main())
