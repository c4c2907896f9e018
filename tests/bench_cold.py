#!/usr/bin/env python3
"""Measures cold starts from an image before and after it is optimized for a trace: tests/bench_cold.py [ROUNDS]

Records what a start of Python reads of the image `python` of images.sh, builds the image for that trace, and starts it
from both, in turn, each time with nothing in the page cache. Images lie on an ext4 disk of their own that reads ahead
128 KiB, the default of Linux, and are mounted straight from the file. Prints Markdown tables of medians. Needs a release
build, root and mkfs.ext4.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import HERE, MKIMG, machine

IMAGE = Path(os.environ.get("MKIMG_IMAGES", HERE.parent / "target/images")) / "python"
START = ["/usr/bin/env", "python3", "-c", "import json, http.server"]
WAYS = ["none", "lz4", "zstd"]


def sh(*argv):
    return subprocess.run([str(arg) for arg in argv], check=True, capture_output=True, text=True).stdout


def run_inside(point):
    """Starts the workload, and nothing of this machine, which would have to be read as well."""
    subprocess.run(START, check=True, preexec_fn=lambda: os.chroot(point), cwd="/", env={"PATH": "/usr/bin:/bin"})


def counters(loop):
    """Read requests and bytes that reached the disk so far."""
    requests, _, sectors, *_ = Path("/sys/block", loop, "stat").read_text().split()
    return int(requests), 512 * int(sectors)


def start(image, point, loop):
    """One cold start: wall seconds, read requests and bytes."""
    sh(MKIMG, "mount", image, point, "--via", "file", "--verity", "off")
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
        before, began = counters(loop), time.monotonic()
        run_inside(point)
        wall, after = time.monotonic() - began, counters(loop)
    finally:
        sh(MKIMG, "umount", point)
    return wall, after[0] - before[0], after[1] - before[1]


def record(image, point, trace):
    recorder = subprocess.Popen([MKIMG, "mount", image, point, "--record", trace], stdout=subprocess.DEVNULL)
    while not os.path.ismount(point):
        time.sleep(0.05)
    run_inside(point)
    recorder.send_signal(signal.SIGINT)
    recorder.wait()
    sh(MKIMG, "umount", point)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    with tempfile.TemporaryDirectory(dir=HERE.parent / "target") as work:
        work = Path(work)
        disk, place, point, trace = (work / name for name in ("disk", "place", "point", "trace"))
        place.mkdir()
        point.mkdir()
        with open(disk, "wb") as file:
            file.truncate(1 << 30)
        sh("mkfs.ext4", "-q", disk)
        sh("mount", "-o", "loop", disk, place)
        try:
            loop = "loop%d" % os.minor(os.stat(place).st_dev)
            sh("losetup", "--direct-io=on", "/dev/" + loop)
            Path("/sys/block", loop, "queue/read_ahead_kb").write_text("128")
            for way in WAYS:
                build = [MKIMG, "build", "oci:%s" % IMAGE, "--compress", way, "-o"]
                sh(*build, place / (way + " before"))
                if way == WAYS[0]:
                    record(place / (way + " before"), point, trace)
                sh(*build, place / (way + " after"), "--optimize-for", trace)
            images = sorted(place.glob("* *e*"))
            samples = {image: [] for image in images}
            for number in range(rounds):
                for image in images:
                    samples[image].append(start(image, point, loop))
                    print("round %d: %s: %.2f s" % (number + 1, image.name, samples[image][-1][0]), file=sys.stderr)
            print(machine())
            print("\n| image | hot range, MiB | wall s | read requests | MiB read |\n|---|---|---|---|---|")
            for way in WAYS:
                for when in ("before", "after"):
                    image = place / ("%s %s" % (way, when))
                    wall, requests, size = (statistics.median(column) for column in zip(*samples[image]))
                    hot = json.loads(sh(MKIMG, "inspect", "--json", image)).get("hot")
                    hot = "%.1f" % (hot["bytes"] / 2**20) if hot else ""
                    print("| %s, %s | %s | %.2f | %d | %.1f |" % (way, when, hot, wall, requests, size / 2**20))
            print("\nfiles in the trace: %d" % sum(line.startswith("/") for line in open(trace)))
        finally:
            sh("umount", place)


if __name__ == "__main__":
    main()
