"""Cold starts from an image before and after it is optimized for a trace.

Records what a start of Python reads of the image `python` of tests/images.sh, builds the image for that trace, and
starts it from both, in turn, each time with nothing in the page cache. Images lie on an ext4 disk of their own that reads
ahead 128 KiB, the default of Linux, and are mounted straight from the file.
"""

import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from measuring import MKIMG, TOP
from tables import markdown, mib, seconds

IMAGE = Path(os.environ.get("MKIMG_IMAGES", TOP / "target/images")) / "python"
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


def measure(peers, rounds, results):
    """Measures starts from all images in turn."""
    if os.geteuid() != 0 or not IMAGE.is_dir():
        print("left out: cold starts: they need root, and the image that tests/images.sh makes")
        return
    with tempfile.TemporaryDirectory(dir=TOP / "target") as work:
        disk, place, point, trace = (Path(work, name) for name in ("disk", "place", "point", "trace"))
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
            samples = {image: [] for image in built(place, point, trace)}
            for _ in range(rounds):
                for image, of_image in samples.items():
                    of_image.append(start(image, point, loop))
            rows = [row(image, of_image) for image, of_image in samples.items()]
        finally:
            sh("umount", place)
        files = sum(line.startswith("/") for line in trace.read_text().splitlines())
    text = "**Cold start** of `%s`; files in the trace: %d" % (" ".join(START[1:3]) + " ...", files)
    head = ["image", "hot range MiB", "wall s", "read requests", "MiB read"]
    results.table("cold start", text + "\n\n" + markdown(head, rows), peers.text(MKIMG))


def built(place, point, trace):
    """The images, each before and after."""
    images = []
    for way in WAYS:
        build = [MKIMG, "build", "oci:%s" % IMAGE, "--compress", way, "-o"]
        before, after = (place / ("%s, %s" % (way, when)) for when in ("before", "after"))
        sh(*build, before)
        if not trace.exists():
            record(before, point, trace)
        sh(*build, after, "--optimize-for", trace)
        images += [before, after]
    return images


def row(image, samples):
    wall, requests, size = (statistics.median(column) for column in zip(*samples))
    hot = json.loads(sh(MKIMG, "inspect", "--json", image)).get("hot")
    return [image.name, mib(hot and hot["bytes"]), seconds(wall), "%d" % requests, mib(size)]
