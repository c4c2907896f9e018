"""Checking and sealing whole images: mkimg and veritysetup."""

import json
import subprocess

from builds import SETTINGS
from measuring import MKIMG, Job, interleaved, remove
from tables import markdown, mib, ratio, seconds


def jobs_for(path, info, peers, name):
    """What checks one image, and what makes a tree like the one inside it."""
    yield Job("mkimg verify: %s" % name, [[[MKIMG, "verify", path]]])
    yield Job("mkimg verify --threads 1: %s" % name, [[[MKIMG, "verify", path, "--threads", "1"]]])
    if peers.has("veritysetup"):
        yield Job("veritysetup verify: %s" % name, [[["veritysetup", "verify", path, path, info["root_hash"],
                                                     "--hash-offset=%d" % info["hash_offset"]]]])
        tree = path.with_suffix(".tree")
        blocks = info["hash_offset"] // 4096
        yield Job("veritysetup format: %s" % name, [[["veritysetup", "format", "--salt=-", "--data-blocks=%d" % blocks, path, tree]]], tree)


def measure(image, settings, peers, rounds, work, results):
    """Measures the checks of an image for each setting in turn."""
    folder = work / "verifies"
    remove(folder)
    folder.mkdir()
    jobs, sizes = [], {}
    for number, setting in enumerate(settings):
        name, options, *_ = SETTINGS[setting]
        path = folder / ("%d.img" % number)
        built = subprocess.run([MKIMG, "build", image.source(), "-o", path, "--json", *options], capture_output=True, check=True)
        here = list(jobs_for(path, json.loads(built.stdout), peers, name))
        sizes.update(dict.fromkeys((job.name for job in here), path.stat().st_size))
        jobs += here
    medians = interleaved(jobs, rounds)
    remove(folder)
    rows = []
    for name, row in medians.items():
        command, _, setting = name.partition(": ")
        peer = medians.get("veritysetup verify: " + setting)
        rows.append(["`%s`" % name, mib(sizes[name]), seconds(row.wall), seconds(row.processor), mib(row.peak * 1024),
                     "" if command.endswith("format") else ratio(row.wall, peer and peer.wall)])
    results.keep("verify " + image.name, {name: vars(row) for name, row in medians.items()})
    results.table("verify " + image.name, "**%s**\n\n%s" % (image.name, markdown(
        ["", "image MiB", "wall s", "processor s", "peak MiB", "to veritysetup"], rows)), peers.text(MKIMG, "veritysetup"))
