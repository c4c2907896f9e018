"""What was measured, as Markdown: printed, kept, and put between the markers of a document."""

import json
import re

from measuring import machine


def markdown(head, rows):
    """A table; the first column is text, the others are numbers."""
    lines = ["| %s |" % " | ".join(cells).replace("|  |", "| |") for cells in [head, *rows]]
    return "\n".join([lines[0].replace("|  |", "| |"), "|---|" + "---:|" * (len(head) - 1), *lines[1:]])


def seconds(value):
    return "%.2f" % value


def mib(size):
    """Bytes as MiB; nothing where there is no size."""
    return "" if size is None else "%.1f" % (size / 2**20)


def ratio(value, base):
    """One number to another; nothing where one of them is missing."""
    return "" if not base or value is None else "%.2f" % (value / base)


class Results:
    """Tables and figures, kept below `folder` so that one run can complete what another began."""

    def __init__(self, folder, rounds):
        self.folder, self.rounds = folder, rounds
        folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def slug(name):
        return re.sub(r"[^\w.-]+", "-", name)

    def keep(self, name, figures):
        """Figures for other suites and other runs."""
        (self.folder / (self.slug(name) + ".json")).write_text(json.dumps(figures, indent=1))

    def kept(self, name):
        """Figures that were kept; `None` if there are none."""
        path = self.folder / (self.slug(name) + ".json")
        return json.loads(path.read_text()) if path.is_file() else None

    def table(self, name, text, versions=None):
        """Prints a table and keeps it for `update`."""
        if versions:
            text = "%s\n\nMedians of %d rounds; %s; %s." % (text, self.rounds, versions, machine())
        print("\n%s\n" % text, flush=True)
        (self.folder / (self.slug(name) + ".md")).write_text(text + "\n")

    def update(self, document):
        """Replaces what stands between `<!-- table NAME -->` and `<!-- end -->` by the table that was kept of that name."""

        def replace(found):
            path = self.folder / (self.slug(found[1]) + ".md")
            if not path.is_file():
                print("%s: no table %r yet" % (document, found[1]))
                return found[0]
            return "<!-- table %s -->\n\n%s\n<!-- end -->" % (found[1], path.read_text())

        text = document.read_text()
        document.write_text(re.sub(r"<!-- table ([^>]+?) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL))
