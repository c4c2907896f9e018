"""What a build costs when there is more of everything, and what part of it is the seal."""

import images
from builds import SETTINGS, inspect, mkimg_job
from measuring import MKIMG, interleaved, remove
from tables import markdown, mib, ratio, seconds

LEAF_LEN, TREE_SHARE = 4096, 129 / 128  # each block of the tree covers 128 hashes


def measure(image, settings, peers, rounds, work, results):
    """Half of the layers and all of them, two threads and one."""
    output = work / "scaling.img"
    layers = len(image.layers())
    table = []
    for count in sorted({max(1, layers // 2), layers}):
        part = images.lowest(image, count, work)
        facts = inspect(part, output)
        jobs = [mkimg_job(part, setting, output, "--threads", threads) for setting in settings for threads in ("1", "2")]
        medians = interleaved(jobs, rounds)
        table += [["`%s`" % name, str(count), str(facts["entries"]), "%.2f" % (facts["visible"] / 1e9), seconds(row.wall),
                   seconds(row.processor), mib(row.peak * 1024), seconds(row.wall / facts["visible"] * 1e9)]
                  for name, row in medians.items()]
        remove(part.path)
    remove(output)
    head = ["", "layers", "inodes", "GB", "wall s", "processor s", "peak MiB", "wall s a GB"]
    results.table("scaling " + image.name, "**%s**\n\n%s" % (image.name, markdown(head, table)), peers.text(MKIMG))


def measure_extremes(peers, rounds, work, results):
    """One layer of 1.2 GiB, and a million files; the memory that is allowed without compression."""
    output = work / "scaling.img"
    table = []
    for name in ("one-layer", "million"):
        image = images.make(name, work)
        entries = inspect(image, output)["entries"]
        jobs = [mkimg_job(image, setting, output) for setting in ("none", "zstd-6.15")]
        for job, row in interleaved(jobs, rounds).items():
            allowed = (64 << 20) + 300 * entries if job.endswith("none") else 256 << 20
            table.append(["%s, `%s`" % (name, job), str(entries), seconds(row.wall), seconds(row.processor), mib(row.peak * 1024),
                          mib(allowed), mib(row.size)])
    remove(output)
    head = ["", "inodes", "wall s", "processor s", "peak MiB", "allowed MiB", "size MiB"]
    results.table("extremes", markdown(head, table), peers.text(MKIMG))


def sealing(image, results):
    """What part of a build's processor time is sealing: bytes of the image by the rate of hashing leaves.

    No build goes without a seal, so that the part cannot be measured by leaving it out.
    """
    built, steps = results.kept("build " + image.name), results.kept("micro " + image.name)
    if built is None or steps is None:
        return
    rate = steps["leaves"]["bytes"] / steps["leaves"]["seconds"]
    table, shares = [], {}
    for name, row in built["rows"].items():
        if row["way"] == "mkimg":
            spent = row["size"] * TREE_SHARE / rate
            shares[row["setting"]] = spent / row["processor"]
            table.append(["`%s`" % name, mib(row["size"]), seconds(row["processor"]), seconds(spent), ratio(spent, row["processor"])])
    results.keep("sealing " + image.name, shares)
    head = ["", "size MiB", "processor s", "of it hashing leaves and tree", "part"]
    results.table("sealing " + image.name, "**%s**\n\n%s" % (image.name, markdown(head, table)))
