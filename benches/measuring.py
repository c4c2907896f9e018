"""Runs commands and measures them: wall seconds, processor seconds, peak memory. The stopwatch of every benchmark."""

import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
MKIMG = os.environ.get("MKIMG_BIN", str(TOP / "target/release/mkimg"))

# Blocks of 512 bytes that a run may read from the disk and still count as one with a warm page cache: always, and for each
# of its seconds (2 % of what a slow disk reads in one). And attempts at it.
COLD, COLD_PER_SECOND, ATTEMPTS = 2048, 8000, 3


class Failed(Exception):
    """A command did not do what it was started for; says which and what it printed."""


@dataclass
class Job:
    """What is measured under one name: pipelines of commands, one after the other."""

    name: str
    pipelines: list
    output: Path | None = None  # file or directory, removed before each run
    values: dict = field(default_factory=dict)  # what the tables want to know besides

    def lines(self):
        """The commands as one would type them; of many one after the other, the first two."""
        lines = [typed(stages) for stages in self.pipelines]
        return lines if len(lines) < 3 else [*lines[:2], "# and so on, %d layers" % len(lines)]


@dataclass
class Figures:
    """Medians of a job: seconds, KiB, and the bytes of its output."""

    wall: float
    processor: float
    peak: float
    size: int | None


def typed(stages):
    """A pipeline as one would type it."""
    return " | ".join(shlex.join(map(str, argv)) for argv in stages)


def run_pipeline(stages, environment=None):
    """Wall seconds, processor seconds, peak KiB and blocks read from the disk; children of the commands included.

    The peak of a command is that of its largest process, the peak of a pipeline the sum of its commands' peaks.
    """
    # The peak of a child starts with that of the process it was forked from: Python would hide what is small.
    with tempfile.TemporaryDirectory() as folder:
        processes, before = [], subprocess.DEVNULL
        errors = Path(folder, "errors")
        with errors.open("w") as complaints:
            start = time.monotonic()
            for number, argv in enumerate(stages):
                last = number + 1 == len(stages)
                timed = ["/usr/bin/time", "-q", "-f", "%U %S %M %I", "-o", "%s/%d" % (folder, number), *map(str, argv)]
                process = subprocess.Popen(timed, stdin=before, stdout=subprocess.DEVNULL if last else subprocess.PIPE,
                                           stderr=complaints, env=environment)
                if before is not subprocess.DEVNULL:
                    before.close()  # or a reader that ends early leaves its writer waiting for us
                before = process.stdout
                processes.append(process)
            statuses = [process.wait() for process in processes]
            wall = time.monotonic() - start
        if any(statuses):
            text = errors.read_text(errors="replace").strip().splitlines()
            raise Failed("exit status %s of %s: %s" % (
                " ".join(map(str, statuses)), typed(stages), text[-1] if text else ""))
        columns = zip(*(map(float, Path(folder, str(number)).read_text().split()) for number in range(len(stages))))
        user, system, peak, read = map(sum, columns)
    return wall, user + system, peak, read


def remove(path):
    """Removes a file or a tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_of(path):
    """Bytes of a file; `None` for a tree or nothing."""
    return path.stat().st_size if path is not None and path.is_file() else None


def run(job):
    """Wall seconds, processor seconds and peak KiB of one run: sums and, as one follows the other, the largest peak.

    Where somebody has emptied the page cache, the run has filled it and is repeated.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    for _ in range(ATTEMPTS):
        if job.output is not None:
            remove(job.output)
        os.sync()  # what others wrote before is not to be paid for here
        walls, processors, peaks, reads = zip(*(run_pipeline(stages, environment) for stages in job.pipelines))
        if sum(reads) <= COLD + COLD_PER_SECOND * sum(walls):
            break
    else:
        print("%s: the page cache does not stay warm" % job.name, file=sys.stderr)
    return sum(walls), sum(processors), max(peaks)


def interleaved(jobs, rounds):
    """Medians of each job's figures: a round is one run of each, so that what the machine does meanwhile hits all.

    A job of somebody else that fails is left out from then on, with a line that says why.
    """
    samples, sizes = {job.name: [] for job in jobs}, {}
    for number in range(rounds):
        for job in jobs:
            if job.name not in samples:
                continue
            try:
                samples[job.name].append(run(job))
            except Failed as failure:
                if job.pipelines[0][0][0] == MKIMG:
                    raise SystemExit(str(failure))
                print("left out: %s: %s" % (job.name, failure))
                del samples[job.name]
                continue
            sizes[job.name] = size_of(job.output)
            wall, processor, peak = samples[job.name][-1]
            print("round %d: %s: %.2f s, %.2f of processors, %.1f MiB" % (number + 1, job.name, wall, processor, peak / 1024), file=sys.stderr)
    return {name: Figures(*(statistics.median(column) for column in zip(*values)), sizes[name]) for name, values in samples.items()}


def quiet(argv, **options):
    """Runs what is not measured."""
    done = subprocess.run(list(map(str, argv)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode:
        raise Failed("exit status %d of %s: %s" % (done.returncode, shlex.join(map(str, argv)), done.stderr.strip()[-200:]))


def machine():
    """Processor, number of them, memory, kernel."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "%d processors (%s), %.0f GiB, Linux %s" % (
        os.cpu_count(), cpu[1] if cpu else platform.machine(), memory, platform.release().partition("-")[0])
