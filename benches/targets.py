"""What the project wants to reach on a large image, and whether it does, from the figures of the other suites."""

from builds import fastest
from tables import markdown

MIB = 2**20

# Two runs of one command differ by so much: no worse than that is no worse.
SAME = 1.05


def rows_of(built, read, sealing):
    """Name, what was measured, what is allowed, in one unit; `None` for what was not measured."""
    rows = built["rows"]
    plain = fastest(rows, "tar", "none")
    ours = {setting: fastest(rows, "mkimg", setting) for setting in ("none", "lz4", "zstd", "zstd-6.15")}
    theirs = {setting: fastest(rows, "directory", setting) for setting in ("lz4", "zstd-6.15", "squashfs")}

    def part(row, column, base):
        return row[column] / base[column] if row and base else None

    for setting, name, limit in (("none", "none", 0.6), ("lz4", "lz4", 0.75), ("zstd-6.15", "zstd:3 for 6.15", 1.0)):
        yield "wall time of %s, to the fastest mkfs.erofs from tars" % name, part(ours[setting], "wall", plain), limit
    yield "size of lz4, to mkfs.erofs lz4 64 KiB", part(ours["lz4"], "size", theirs["lz4"]), 1.0
    for setting, name, limit in (("zstd-6.15", "zstd:3 for 6.15", 1.0), ("zstd", "zstd:3 for the default kernel", 1.03)):
        yield "size of %s, to mkfs.erofs zstd:3 128 KiB 48bit,fragments" % name, part(ours[setting], "size", theirs["zstd-6.15"]), limit
        yield "size of %s, to mksquashfs zstd:3" % name, part(ours[setting], "size", theirs["squashfs"]), limit
    for setting, share in (sealing or {}).items():
        yield "part of sealing in processor time, %s" % setting, share, 0.1
    for setting, row in ours.items():
        allowed = (64 * MIB + 300 * built["entries"]) if setting == "none" else 256 * MIB
        yield "peak memory of %s, MiB" % setting, row and row["peak"] * 1024 / MIB, allowed / MIB
    for name, row in (read or {}).items():
        if row["way"] != "mkimg":
            continue
        peer = next((other for other in read.values() if other["way"] == "directory" and other["setting"] == row["setting"]), None)
        for column in row:
            if column.endswith((" cold", " warm")):
                yield "time of reading %s, %s, to mkfs.erofs" % (row["setting"], column), part(row, column, peer), SAME


def measure(image, results):
    """The table of one image."""
    built = results.kept("build " + image.name)
    if built is None:
        print("left out: targets of %s: nothing was built yet" % image.name)
        return
    body = []
    for name, found, limit in rows_of(built, results.kept("read " + image.name), results.kept("sealing " + image.name)):
        verdict = "not measured" if found is None else "met" if found <= limit else "**missed**"
        body.append([name, "" if found is None else "%.2f" % found, "%.2f" % limit, verdict])
    results.table("targets " + image.name, "**%s**\n\n%s" % (image.name, markdown(["", "measured", "at most", ""], body)))
