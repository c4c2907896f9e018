"""Runs commands and measures them: wall seconds, processor seconds, peak memory. Shared by the benchmarks."""

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MKIMG = os.environ.get("MKIMG_BIN", str(HERE.parent / "target/release/mkimg"))


# Blocks of 512 bytes that a run may read from the disk and still count as one with a warm page cache, and attempts at it.
COLD, ATTEMPTS = 2048, 5


def run(argv, prepare=lambda: None):
    """Wall seconds, processor seconds and peak KiB of one command, all its children included.

    Where somebody has emptied the page cache, the run has filled it and is repeated.
    """
    for _ in range(ATTEMPTS):
        prepare()
        # The peak of a child starts with that of the process it was forked from: Python would hide what is small.
        with tempfile.NamedTemporaryFile("r") as figures:
            timed = ["/usr/bin/time", "-f", "%U %S %M %I", "-o", figures.name, *argv]
            start = time.monotonic()
            done = subprocess.run(timed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wall = time.monotonic() - start
            if done.returncode:
                raise SystemExit("exit status %d of: %s" % (done.returncode, " ".join(argv)))
            user, system, peak, read = figures.read().split()
        if int(read) <= COLD:
            return wall, float(user) + float(system), int(peak)
    raise SystemExit("the page cache does not stay warm for: " + " ".join(argv))


def interleaved(jobs, rounds, prepare=lambda: None):
    """Medians of each job's figures: a round is one run of each, so that what the machine does meanwhile hits all."""
    samples = {name: [] for name in jobs}
    for number in range(rounds):
        for name, argv in jobs.items():
            samples[name].append(run(argv, prepare))
            print("round %d: %s: %.2f s" % (number + 1, name, samples[name][-1][0]), file=sys.stderr)
    return {name: tuple(statistics.median(column) for column in zip(*values)) for name, values in samples.items()}


def version(name, *args):
    """The line in which a program says what it is; `None` if it is not there."""
    if shutil.which(name) is None:
        return None
    text = subprocess.run([name, *args], capture_output=True, text=True)
    return (text.stdout + text.stderr).strip().splitlines()[0]


def machine():
    """Processor, number of them, memory, kernel."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "%d processors (%s), %.0f GiB, Linux %s" % (
        os.cpu_count(), cpu[1] if cpu else platform.machine(), memory, platform.release())
