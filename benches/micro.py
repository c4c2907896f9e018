"""Each step of a build alone, on one thread: an example program of this folder, on the largest layer of an image."""

import json
import subprocess

from measuring import MKIMG, TOP, machine
from tables import markdown

COMMAND = ["cargo", "run", "-q", "--release", "--locked", "-p", "mkimg-benches", "--example", "steps", "--"]


def measure(image, peers, rounds, results):
    """Measures the steps; GB/s of what goes in or, for inflate and decompression, comes out."""
    layers = image.layers()
    largest = max(range(len(layers)), key=lambda number: layers[number].stat().st_size)
    done = subprocess.run([*COMMAND, image.source(), str(largest), str(rounds)], cwd=TOP, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit("the steps of %s cannot be measured" % image.name)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    results.keep("micro " + image.name, {row["step"]: row for row in rows})
    body = [[row["step"], "%.3f" % (row["bytes"] / row["seconds"] / 1e9), "%.3f" % row["packed"] if "packed" in row else ""] for row in rows]
    results.table("micro " + image.name, "**%s**, layer %d, one thread\n\n%s\n\nMedians of %d rounds; %s; %s." % (
        image.name, largest, markdown(["", "GB/s", "size after"], body), rounds, peers.text(MKIMG), machine()))
