"""The programs that mkimg is measured beside: which are here, and in which version."""

import re
import shutil
import subprocess
from pathlib import Path

from measuring import MKIMG

# How each says its version, and what it has to be at least; in older ones what is measured does not work.
VERSIONS = {
    MKIMG: (["--version"], (0,)),
    "mkfs.erofs": (["-V"], (1, 7)),
    "mksquashfs": (["-version"], (4, 5)),
    "tar2sqfs": (["--version"], (1, 0)),
    "umoci": (["--version"], (0, 4)),
    "veritysetup": (["--version"], (2, 0)),
    "bsdtar": (["--version"], (3, 0)),
    "tar": (["--version"], (1, 28)),
    "aide": (["--version"], (0, 17)),
    "mtree": (None, (0,)),
    "mount": (["--version"], (2, 30)),
}


class Peers:
    """What was found on PATH. `has` says it, once for each program that is missing or too old."""

    def __init__(self, without=None):
        self.without = re.compile(without) if without else None
        self.versions, self.said = {}, set()
        for name, (arguments, _) in VERSIONS.items():
            line = self.ask(name, arguments)
            number = line and re.search(r"\d+(\.\d+)+|\b\d{8}\b", line)
            if line:
                self.versions[name] = tuple(map(int, number[0].split("."))) if number else (0,)

    @staticmethod
    def ask(name, arguments):
        """The line in which a program says what it is; `None` if it is not there."""
        if shutil.which(name) is None:
            return None
        if arguments is None:  # says nothing about itself: its package does
            return subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "mtree-netbsd"], capture_output=True, text=True).stdout or name
        done = subprocess.run([name, *arguments], capture_output=True, text=True)
        return (done.stdout + done.stderr).strip().splitlines()[0]

    def has(self, name, at_least=None):
        """Whether a program is here, and as new as what is measured needs."""
        needed = at_least or VERSIONS[name][1]
        found = self.versions.get(name)
        if found is not None and found >= needed:
            return True
        if (name, needed) not in self.said:
            self.said.add((name, needed))
            print("left out: %s" % (name if found is None else "%s before %s" % (name, ".".join(map(str, needed)))))
        return False

    def left_out(self, row):
        """Whether a row is not wanted."""
        return self.without is not None and self.without.search(row) is not None

    def text(self, *names):
        """Versions of some programs, or of all, in one line."""
        return ", ".join("%s %s" % (Path(name).name, ".".join(map(str, self.versions[name])))
                         for name in (names or VERSIONS) if name in self.versions)
