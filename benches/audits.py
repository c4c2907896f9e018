"""Audits of an unpacked tree beside those of peers, and of the image that was made of it.

The tree is that of Debian packages; it is kept with its image (12 GB). Memory for both is needed: they are to stay in the
page cache.
"""

import json
import os
import re
import shlex
import shutil
import subprocess

from measuring import MKIMG, Job, interleaved, quiet
from tables import markdown, mib, ratio, seconds

# What containers hold: compilers, interpreters, browsers, fonts, headers. Without dependencies; half of the bytes are
# in files of more than 1 MiB, most of the files have a few KiB.
PACKAGES = """
    chromium firefox-esr libqt5webenginecore5 libreoffice-core libnode108 fonts-noto-cjk-extra
    texlive-fonts-extra texlive-latex-extra
    ghc ghc-prof libllvm14 llvm-14-dev libstd-rust-dev golang-1.19-src libboost1.74-dev qtbase5-dev
    openjdk-17-jdk-headless openjdk-17-jre-headless mono-devel r-base-core perl-modules-5.36
    python3-numpy python3-pandas-lib python3-scipy python3-sklearn-lib python3-sympy
""".split()
FILES_MIN, BYTES_MIN = 100_000, 5 * 10**9

# The fields that mkimg compares: type, mode, owner, size, time, hard links, link target, xattrs, ACLs, content.
AIDE = """
database_in=file:%(work)s/aide.db
database_out=file:%(work)s/aide.db.new
gzip_dbout=no
report_url=stdout
%(tree)s ftype+p+u+g+s+m+n+l+acl+xattrs+caps+sha256
"""


def unpack(tree):
    """Downloads the packages and unpacks them, unless that has been done."""
    if tree.is_dir():
        return
    partial, packages = tree.with_name("partial"), tree.with_name("packages")
    for path in (partial, packages):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    subprocess.run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *PACKAGES], cwd=packages, check=True)
    for package in sorted(packages.iterdir()):
        subprocess.run(["dpkg-deb", "-x", str(package), str(partial)], check=True)
    shutil.rmtree(packages)
    partial.rename(tree)


def count(tree):
    """Number of regular files of a tree, and of their bytes; each inode once."""
    seen = {}
    waiting = [tree]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                seen[entry.inode()] = entry.stat(follow_symlinks=False).st_size
    return len(seen), sum(seen.values())


def cat(tree, xargs=""):
    return ["sh", "-c", "find %s -type f -print0 | xargs -0 %s cat >/dev/null" % (shlex.quote(str(tree)), xargs)]


def jobs_of(commands):
    return [Job(name, [[argv]]) for name, argv in commands.items()]


def table(title, medians, columns):
    """A table of medians; `columns` are names of further columns, each of ratios to the wall time of the given job."""
    rows = [["`%s`" % name.replace("|", "\\|"), seconds(row.wall), seconds(row.processor), mib(row.peak * 1024),
             *(ratio(row.wall, medians[base].wall if base in medians else None) for base in columns.values())]
            for name, row in medians.items()]
    return "%s\n\n%s" % (title, markdown(["", "wall s", "processor s", "peak MiB", *columns], rows))


def measure(peers, rounds, work, results):
    """Measures the audits of the tree in turn, then those of the image."""
    if os.geteuid() != 0:
        print("left out: audits: without root, owners and attributes are not those of the packages")
        return
    tree, image, spec, aide = (work / name for name in ("tree", "tree.img", "tree.mtree", "aide.conf"))
    unpack(tree)
    files, size = count(tree)
    if files < FILES_MIN or size < BYTES_MIN:
        raise SystemExit("%s: only %d files of %d bytes; remove it to have it made anew" % (tree, files, size))

    # Made anew each time: the image by the mkimg that is measured, the rest from image and tree.
    built = subprocess.run([MKIMG, "build", "dir:%s" % tree, "-o", str(image), "--json", "--compress", "none"], capture_output=True, check=True)
    info = json.loads(built.stdout)
    verify, threads = [MKIMG, "verify", str(image)], ["--threads", "1"]
    trees = {
        "mkimg verify IMAGE DIR": [*verify, str(tree)],
        "mkimg verify --threads 1 IMAGE DIR": [*verify, *threads, str(tree)],
        "find DIR | xargs cat": cat(tree),
        "find DIR | xargs -P 2 cat": cat(tree, "-P 2 -n 500"),
    }
    images = {
        "mkimg verify IMAGE": verify,
        "mkimg verify --threads 1 IMAGE": [*verify, *threads],
    }
    if peers.has("aide"):
        aide.write_text(AIDE % {"work": work, "tree": re.sub(r"[^\w/-]", lambda sign: "\\" + sign[0], str(tree))})
        quiet(["aide", "--init", "--workers=2", "--config=%s" % aide])
        (work / "aide.db.new").rename(work / "aide.db")
        trees["aide --check --workers=2"] = ["aide", "--check", "--workers=2", "--config=%s" % aide]
    if peers.has("mtree"):
        spec.unlink(missing_ok=True)
        quiet([MKIMG, "seal", str(image), "-o", str(spec), "--format", "mtree"])
        trees["mtree -f SPEC -p DIR"] = ["mtree", "-f", str(spec), "-p", str(tree)]
    if peers.has("veritysetup"):
        images["veritysetup verify"] = ["veritysetup", "verify", str(image), str(image), info["root_hash"],
                                        "--hash-offset=%d" % info["hash_offset"]]
    for path in (tree, image):
        quiet(cat(path))
    measured = [interleaved(jobs_of(jobs), rounds) for jobs in (trees, images)]
    versions = peers.text(MKIMG, "aide", "mtree", "veritysetup")
    results.table("audit tree", table("**Tree** of %d files, %.2f GB" % (files, size / 1e9), measured[0],
                                      {"to reading": "find DIR | xargs cat", "to aide": "aide --check --workers=2"}), versions)
    results.table("audit image", table("**Image** of %.2f GB" % (info["image_size"] / 1e9), measured[1],
                                       {"to veritysetup": "veritysetup verify"}), versions)
