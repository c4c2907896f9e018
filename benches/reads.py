"""Reading through the kernel: the same tree out of the images of mkimg and of others, all mounted over loop devices."""

import os
import statistics
import subprocess
import sys

from builds import directory_jobs, mkimg_job, unpack_job
from measuring import MKIMG, TOP, Failed, quiet, remove, run
from tables import markdown, mib

OPERATIONS = ["walk", "sequential", "random"]
STATES = ["cold", "warm"]


def reader():
    """The program that reads, up to date."""
    quiet(["cargo", "build", "-q", "--release", "--locked", "-p", "mkimg-benches", "--bin", "bench-reader"], cwd=TOP)
    return TOP / os.environ.get("CARGO_TARGET_DIR", "target") / "release/bench-reader"


def made(image, settings, peers, folder):
    """Makes the images to be mounted; names, files, kinds of file system and settings."""
    bundle = folder / "bundle"
    jobs = [mkimg_job(image, setting, None) for setting in settings]
    if image.tag is not None and peers.has("umoci"):
        run(unpack_job(image, bundle))
        jobs += directory_jobs(settings, peers, bundle / "rootfs", None)
    for number, job in enumerate(jobs):
        path = folder / ("%d.img" % number)
        argv = [path if argument is None else argument for stages in job.pipelines for argument in stages[0]]
        if len(job.pipelines[0]) > 1 or "setting" not in job.values:
            continue  # another maker of the same file system
        try:
            quiet(argv)
        except Failed as failure:
            if argv[0] == MKIMG:
                raise SystemExit(str(failure))
            print("left out: %s: %s" % (job.name, failure))
            continue
        yield job.name, path, "squashfs" if job.values["setting"] == "squashfs" else "erofs", job.values
    remove(bundle)


def measure(image, settings, peers, rounds, work, results):
    """Measures all operations on all images in turn."""
    if os.geteuid() != 0:
        print("left out: reading, as mounting takes root")
        return
    program, folder = reader(), work / "reads"
    remove(folder)
    folder.mkdir()
    mounts, seconds = [], {}
    try:
        for name, path, kind, values in made(image, settings, peers, folder):
            point = path.with_suffix(".mnt")
            point.mkdir()
            try:
                quiet(["mount", "-t", kind, "-o", "loop,ro", path, point])
            except Failed as failure:
                print("left out: reading %s: %s" % (name, failure))
                continue
            mounts.append((name, point, path.stat().st_size, values))
        for number in range(rounds):
            for operation in OPERATIONS:
                for state in STATES:
                    for name, point, _, _ in mounts:
                        done = subprocess.run([program, operation, state, point], capture_output=True, text=True)
                        if done.returncode:
                            raise SystemExit(done.stderr.strip())
                        took, count = done.stdout.split()
                        seconds.setdefault((name, operation, state), []).append(float(took))
                        print("round %d: %s, %s %s: %s s for %s" % (number + 1, name, operation, state, took, count), file=sys.stderr)
    finally:
        for _, point, _, _ in mounts:
            subprocess.run(["umount", point])
        remove(folder)
    columns = [(operation, state) for operation in OPERATIONS for state in STATES]
    rows = {name: {**values, "size": size, **{"%s %s" % column: statistics.median(seconds[(name, *column)]) for column in columns}}
            for name, _, size, values in mounts}
    results.keep("read " + image.name, rows)
    body = [["`%s`" % name, mib(row["size"]), *("%.3f" % row["%s %s" % column] for column in columns)] for name, row in rows.items()]
    results.table("read " + image.name, "**%s**, seconds\n\n%s" % (
        image.name, markdown(["", "size MiB", *("%s, %s" % column for column in columns)], body)), peers.text())
