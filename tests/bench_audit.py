#!/usr/bin/env python3
"""Measures audits beside those of peers, interleaved in one run: tests/bench_audit.py [ROUNDS]

Input is a tree of Debian packages, unpacked, and the image of it; both are kept below target/bench (12 GB). Prints
Markdown tables of medians: audits of the tree (mkimg, aide, mtree, and reading alone) and of the image (mkimg and
veritysetup). Needs a release build, setup.sh, root, and memory for tree and image, which are to stay in the page cache.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from measuring import HERE, MKIMG, interleaved, machine, version

WORK = Path(os.environ.get("MKIMG_BENCH", HERE.parent / "target/bench"))

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


def quiet(argv):
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)


def cat(tree, xargs=""):
    return ["sh", "-c", "find %s -type f -print0 | xargs -0 %s cat >/dev/null" % (shlex.quote(str(tree)), xargs)]


def table(title, medians, columns):
    """Prints medians; `columns` are names of further columns, each of ratios to the wall time of the given job."""
    print("\n%s\n" % title)
    head = ["", "wall s", "processor s", "peak MiB", *columns]
    print("| %s |\n|%s" % (" | ".join(head), "---|" * len(head)))
    for name, (wall, processor, peak) in medians.items():
        ratios = ["%.2f" % (wall / medians[base][0]) for base in columns.values()]
        print("| %s |" % " | ".join(["`%s`" % name.replace("|", "\\|"), "%.2f" % wall, "%.2f" % processor, "%.1f" % (peak / 1024), *ratios]))


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    if os.geteuid() != 0:
        raise SystemExit("bench_audit.py: needs root, or owners and attributes are not those of the packages")
    tree, image, spec, aide = (WORK / name for name in ("tree", "image", "tree.mtree", "aide.conf"))
    unpack(tree)
    files, size = count(tree)
    if files < FILES_MIN or size < BYTES_MIN:
        raise SystemExit("%s: only %d files of %d bytes; remove it to have it made anew" % (tree, files, size))

    # Made anew each time: the image by the mkimg that is measured, the rest from image and tree.
    built = subprocess.run([MKIMG, "build", "dir:%s" % tree, "-o", str(image), "--json"], capture_output=True, check=True)
    info = json.loads(built.stdout)
    spec.unlink(missing_ok=True)
    quiet([MKIMG, "seal", str(image), "-o", str(spec), "--format", "mtree"])
    aide.write_text(AIDE % {"work": WORK, "tree": re.sub(r"[^\w/-]", lambda sign: "\\" + sign[0], str(tree))})
    quiet(["aide", "--init", "--workers=2", "--config=%s" % aide])
    (WORK / "aide.db.new").rename(WORK / "aide.db")

    verify, threads = [MKIMG, "verify", str(image)], ["--threads", "1"]
    trees = {
        "mkimg verify IMAGE DIR": [*verify, str(tree)],
        "mkimg verify --threads 1 IMAGE DIR": [*verify, *threads, str(tree)],
        "aide --check --workers=2": ["aide", "--check", "--workers=2", "--config=%s" % aide],
        "mtree -f SPEC -p DIR": ["mtree", "-f", str(spec), "-p", str(tree)],
        "find DIR | xargs cat": cat(tree),
        "find DIR | xargs -P 2 cat": cat(tree, "-P 2 -n 500"),
    }
    images = {
        "mkimg verify IMAGE": verify,
        "mkimg verify --threads 1 IMAGE": [*verify, *threads],
        "veritysetup verify": ["veritysetup", "verify", str(image), str(image), info["root_hash"],
                               "--hash-offset=%d" % info["hash_offset"]],
    }
    for path in (tree, image):
        quiet(["sh", "-c", "find %s -type f -print0 | xargs -0 cat >/dev/null" % shlex.quote(str(path))])
    print(machine())
    mtree = subprocess.run(["dpkg-query", "-W", "-f", "mtree (NetBSD) ${Version}", "mtree-netbsd"], capture_output=True, text=True)
    print(", ".join([version(MKIMG, "--version"), version("aide", "--version"), mtree.stdout, version("veritysetup", "--version"),
                     version("cat", "--version")]))
    measured = [interleaved(jobs, rounds) for jobs in (trees, images)]
    table("**Tree** of %d files, %.2f GB" % (files, size / 1e9), measured[0],
          {"to reading": "find DIR | xargs cat", "to aide": "aide --check --workers=2"})
    table("**Image** of %.2f GB" % (info["image_size"] / 1e9), measured[1], {"to veritysetup": "veritysetup verify"})


if __name__ == "__main__":
    main()
