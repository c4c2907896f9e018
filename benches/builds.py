"""Building: mkimg, and the ways in which others come from the layers of an image to a file system image."""

import json
import os
import re
import subprocess

from measuring import MKIMG, Job, interleaved, remove
from tables import markdown, mib, ratio, seconds

# Our settings, and those of mkfs.erofs that mean the same: name, options of mkimg, options of mkfs.erofs for layer after
# layer (fragments of one layer get lost with the next) and for all of them at once, and the version that has these.
SETTINGS = {
    "none": ("none", ["--compress", "none"], [], [], (1, 7)),
    "lz4": ("lz4", ["--compress", "lz4"], ["-zlz4", "-C65536"], ["-zlz4", "-C65536"], (1, 7)),
    "zstd": ("zstd:3", ["--compress", "zstd:3"], ["-zzstd,level=3", "-C131072"],
             ["-zzstd,level=3", "-C131072", "-Efragments,ztailpacking"], (1, 8)),
    "zstd-6.15": ("zstd:3 --min-kernel 6.15", ["--compress", "zstd:3", "--min-kernel", "6.15"], None,
                  ["-zzstd,level=3", "-C131072", "-E48bit,fragments"], (1, 9)),
    # On demand.
    "lz4-6.15": ("lz4 --min-kernel 6.15", ["--compress", "lz4", "--min-kernel", "6.15"], None,
                 ["-zlz4", "-C65536", "-E48bit,fragments"], (1, 9)),
    "lz4hc": ("lz4hc:9", ["--compress", "lz4hc:9"], ["-zlz4hc,level=9", "-C65536"], ["-zlz4hc,level=9", "-C65536"], (1, 7)),
    "deflate": ("deflate:6", ["--compress", "deflate:6"], ["-zlibdeflate,level=6", "-C65536"],
                ["-zlibdeflate,level=6", "-C65536", "-Efragments,ztailpacking"], (1, 7)),
}
DEFAULT = ["none", "lz4", "zstd", "zstd-6.15"]


def mkimg_job(image, setting, output, *options):
    """Builds an image from its layout."""
    name, ours, *_ = SETTINGS[setting]
    return Job("mkimg build: %s" % " ".join([name, *options]), [[[MKIMG, "build", image.source(), "-o", output, *ours, *options]]],
               output, {"setting": setting, "way": "mkimg with options" if options else "mkimg"})


def tar_jobs(image, setting, peers, output):
    """mkfs.erofs on the layers, without unpacking: one after the other into one image, and all of them as one stream.

    The second one is told apart from the first because it compresses small files across layers; the first one also keeps
    what later layers delete.
    """
    name, _, by_layer, at_once, needed = SETTINGS[setting]
    if not peers.has("mkfs.erofs", needed):
        return
    make = ["mkfs.erofs", "--quiet", "--tar=f", "--aufs"]
    values = {"setting": setting, "way": "tar"}
    if by_layer is not None:
        commands = [[[*make, "--ungzip", *(["--incremental=data"] if number else []), *by_layer, output, layer]]
                    for number, layer in enumerate(image.layers())]
        yield Job("mkfs.erofs, tar by tar: %s" % " ".join(by_layer or ["none"]), commands, output, values)
    if peers.has("bsdtar"):
        merge = ["bsdtar", "--format=pax", "-cf", "-", *("@%s" % layer for layer in image.layers())]
        yield Job("mkfs.erofs, one tar: %s" % " ".join(at_once or ["none"]), [[merge, [*make, *at_once, output]]], output, values)


def unpack_job(image, bundle):
    """umoci, which everything that takes a directory needs before."""
    return Job("umoci unpack", [[["umoci", "unpack", "--image", "%s:%s" % (image.path, image.tag), bundle]]], bundle, {"way": "unpack"})


def directory_jobs(settings, peers, tree, output):
    """What makes an image of a directory."""
    values = {"way": "directory"}
    for setting in settings:
        _, _, _, options, needed = SETTINGS[setting]
        if peers.has("mkfs.erofs", needed):
            yield Job("mkfs.erofs DIR: %s" % " ".join(options or ["none"]), [[["mkfs.erofs", "--quiet", *options, output, tree]]],
                      output, {**values, "setting": setting})
    zstd = ["zstd", "-Xcompression-level", "3"]
    if peers.has("mksquashfs"):
        yield Job("mksquashfs DIR: %s" % " ".join(zstd),
                  [[["mksquashfs", tree, output, "-comp", *zstd, "-noappend", "-no-progress", "-quiet"]]], output, {**values, "setting": "squashfs"})
    if peers.has("tar2sqfs") and peers.has("tar"):
        yield Job("tar DIR, tar2sqfs: zstd level=3", [[["tar", "-C", tree, "--xattrs", "-cf", "-", "."],
                                                      ["tar2sqfs", "-q", "-f", "-c", "zstd", "-X", "level=3", output]]], output, values)


def measure(image, settings, peers, rounds, work, results):
    """Measures all ways in turn; a table, and figures for the other suites."""
    output, bundle = work / "build.img", work / "bundle"
    facts = inspect(image, output)
    tree = bundle / "rootfs"
    jobs = [mkimg_job(image, setting, output) for setting in settings]
    jobs += [job for setting in settings for job in tar_jobs(image, setting, peers, output)]
    jobs += [mkimg_job(image, settings[0], output, "--threads", "1")]
    if os.geteuid() != 0:
        print("left out: umoci and what takes a directory: without root, owners are not those of the image")
    elif image.tag is None:
        print("left out: umoci and what takes a directory: the image has no tag")
    elif peers.has("umoci"):
        jobs += [unpack_job(image, bundle), *directory_jobs(settings, peers, tree, output)]
    jobs = [job for job in jobs if not peers.left_out(job.name)]
    try:
        medians = interleaved(jobs, rounds)
    finally:
        remove(bundle)
        remove(output)
    rows = {job.name: {**job.values, **vars(medians[job.name])} for job in jobs if job.name in medians}
    results.keep("build " + image.name, {**facts, "rows": rows})
    results.table("build " + image.name, text(image, facts, rows), peers.text())
    short = {MKIMG: "mkimg", str(output): "IMAGE", str(tree): "BUNDLE/rootfs", str(bundle): "BUNDLE", str(image.path): "LAYOUT"}
    results.table("commands " + image.name, commands([job for job in jobs if job.name in medians], short))


def commands(jobs, short):
    """The commands of jobs as one would type them."""
    lines = "\n".join(line for job in jobs for line in job.lines())
    for long, name in short.items():
        lines = lines.replace(long, name)
    return "```sh\n%s\n```" % re.sub(r"blobs/sha256/(\w{6})\w+", r"blobs/sha256/\1…", lines)


def inspect(image, output):
    """Entries and bytes of an image, as mkimg counts them. It also brings the source into the page cache."""
    done = subprocess.run([MKIMG, "build", image.source(), "-o", output, "--json", "--compress", "none"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    remove(output)
    built = json.loads(done.stdout)
    return {"entries": built["inodes"], "visible": built["visible_bytes"], "image": built["image_size"],
            "packed": sum(layer["size"] for layer in image.manifest["layers"]), "layers": len(image.manifest["layers"])}


def fastest(rows, way, setting):
    """The row of the fastest way of one kind, `None` if none was measured."""
    fitting = [row for row in rows.values() if row["way"] == way and row.get("setting") == setting]
    return min(fitting, key=lambda row: row["wall"], default=None)


def text(image, facts, rows):
    """Title, table and the commands behind it."""
    plain = fastest(rows, "tar", "none")
    unpack = rows.get("umoci unpack")
    body = []
    for name, row in rows.items():
        wall = row["wall"] + (unpack["wall"] if unpack and row["way"] == "directory" else 0)
        same = fastest(rows, "tar", row.get("setting"))
        body.append(["`%s`" % name, seconds(row["wall"]), seconds(wall), seconds(row["processor"]), mib(row["peak"] * 1024),
                     mib(row["size"]), ratio(wall, plain and plain["wall"]), ratio(wall, same and same["wall"])])
    title = "**%s**: %d layers of %.0f MB, %d inodes, %.2f GB of file data" % (
        image.name, facts["layers"], facts["packed"] / 1e6, facts["entries"], facts["visible"] / 1e9)
    table = markdown(["", "wall s", "with unpacking", "processor s", "peak MiB", "size MiB", "to tar, plain", "to tar, same"], body)
    return "%s\n\n%s" % (title, table)
