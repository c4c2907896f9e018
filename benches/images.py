"""The OCI images that are measured: made here from Debian packages or by counting, cached, or the user's own.

A layer of packages is made of the tars inside them, so no root is needed, owners are those of the packages, and no
maintainer script runs. An image is cached under its name and a hash of its recipe.
"""

import gzip
import hashlib
import inspect
import io
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from measuring import TOP, quiet, remove

SUITE = "bookworm"  # of Debian: the packages below are those of this release

SMALL = """base-files base-passwd bash coreutils dash debconf debianutils diffutils dpkg findutils gcc-12-base grep gzip
    hostname libacl1 libattr1 libblkid1 libbz2-1.0 libc-bin libc6 libcap2 libcrypt1 libdb5.3 libdebconfclient0 libgcc-s1
    libgmp10 liblz4-1 liblzma5 libmd0 libmount1 libpam-modules libpam-runtime libpam0g libpcre2-8-0 libselinux1 libsmartcols1
    libssl3 libstdc++6 libsystemd0 libtinfo6 libudev1 libuuid1 libzstd1 login mawk mount ncurses-base ncurses-bin passwd
    perl-base python3-minimal python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libexpat1 sed sysvinit-utils
    tar tzdata util-linux zlib1g"""

# Of each image its layers, lowest first; of each layer the packages, without their dependencies.
PACKAGES = {
    "small": [SMALL],
    "many-small-files": [
        SMALL,
        "libboost1.74-dev golang-1.19-src perl-modules-5.36",
        "papirus-icon-theme",
        "python3-sympy python3-django python3-pip-whl npm node-undici node-core-js node-lodash-packages texlive-latex-extra",
    ],
    "large": [
        SMALL,
        "libllvm14 llvm-14-dev clang-14 libclang-cpp14 cpp-12 gcc-12 g++-12 libstdc++-12-dev libgcc-12-dev",
        "chromium libnode108",
        "libreoffice-core libreoffice-common openjdk-17-jre-headless openjdk-17-jdk-headless",
        "python3-numpy python3-pandas-lib python3-pandas python3-scipy python3-sklearn-lib libopenblas0-pthread"
        " golang-1.19-src libboost1.74-dev",
        "qtbase5-dev libqt5webenginecore5 texlive-latex-extra perl-modules-5.36 python3-sympy python3-django",
    ],
    # What gains nothing: .gz, .xz, .jar, .png, .jpg, .woff2, .whl.
    "compressed": [
        "linux-source-6.1 plasma-workspace-wallpapers gnome-backgrounds",
        "libreoffice-java-common liblucene4.10-java libmaven3-core-java fonts-font-awesome fonts-mathjax-extras python3-pip-whl",
    ],
}


@dataclass
class Image:
    """An OCI layout of one image."""

    name: str
    path: Path

    def __post_init__(self):
        index = json.loads((self.path / "index.json").read_text())
        if len(index["manifests"]) != 1:
            raise SystemExit("%s: holds %d images, can only measure one" % (self.path, len(index["manifests"])))
        [self.descriptor] = index["manifests"]
        self.tag = self.descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name")
        self.manifest = json.loads(self.blob(self.descriptor).read_text())

    def blob(self, descriptor):
        """The file of a blob."""
        return self.path / "blobs" / descriptor["digest"].replace(":", "/")

    def layers(self):
        """The files of the layers, lowest first."""
        return [self.blob(layer) for layer in self.manifest["layers"]]

    def source(self):
        """The image as mkimg names it."""
        return "oci:%s" % self.path


class Writer:
    """Writes an OCI layout, layer by layer, with gzip as registries have it."""

    OCI = "application/vnd.oci.image."
    LEVEL = 6

    def __init__(self, path):
        self.path, self.layers, self.diffs = path, [], []
        self.blobs = path / "blobs/sha256"
        self.blobs.mkdir(parents=True)

    def layer(self, fill):
        """A layer whose tar `fill(tarfile)` writes."""
        raw, diff = self.path / "layer", hashlib.sha256()

        class Tee(io.RawIOBase):
            """Hashes on the way into the compressor."""

            def writable(self):
                return True

            def write(self, data):
                diff.update(data)
                return packed.write(data)

        with gzip.GzipFile(raw, "wb", self.LEVEL, mtime=0) as packed:
            with tarfile.open(fileobj=Tee(), mode="w|", format=tarfile.PAX_FORMAT) as tar:
                fill(tar)
        with raw.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.append({"mediaType": self.OCI + "layer.v1.tar+gzip", "digest": "sha256:" + digest, "size": raw.stat().st_size},
                    "sha256:" + diff.hexdigest())
        raw.rename(self.blobs / digest)

    def append(self, layer, diff):
        """A layer that is among the blobs already, or will be."""
        self.layers.append(layer)
        self.diffs.append(diff)

    def document(self, value, media):
        """Writes a JSON document; its descriptor."""
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        return {"mediaType": self.OCI + media, "digest": "sha256:" + digest, "size": len(data)}

    def finish(self):
        """Writes config, manifest and index."""
        config = self.document({"architecture": "amd64", "os": "linux", "config": {},
                                "rootfs": {"type": "layers", "diff_ids": self.diffs}}, "config.v1+json")
        manifest = self.document({"schemaVersion": 2, "mediaType": self.OCI + "manifest.v1+json",
                                  "config": config, "layers": self.layers}, "manifest.v1+json")
        manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        (self.path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))


def download(packages, folder):
    """The .deb files of packages, in the order of their names."""
    script = ". %s; download_only %s %s %s" % (shlex.quote(str(TOP / "tests/apt-suite.sh")), SUITE, shlex.quote(str(folder)), " ".join(packages))
    quiet(["bash", "-euc", script], env={"MKIMG_TOOLS": str(TOP / "target/tools"), **os.environ})
    return sorted(folder.glob("*.deb"))


def unpack_into(tar, debs):
    """Copies the tars inside packages into one; what two of them have, the first one gives."""
    seen = set()
    for deb in debs:
        inner = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
        with tarfile.open(fileobj=inner.stdout, mode="r|") as members:
            for member in members:
                if member.name in seen:
                    continue
                seen.add(member.name)
                member.pax_headers = {}
                tar.addfile(member, members.extractfile(member) if member.isreg() else None)
        if inner.wait():
            raise SystemExit("dpkg-deb cannot read %s" % deb)


def from_packages(writer, folder, name):
    for number, names in enumerate(PACKAGES[name]):
        debs = download(names.split(), folder / str(number))
        writer.layer(lambda tar: unpack_into(tar, debs))
        remove(folder / str(number))


def counted(writer, folders, files, make):
    """One layer of `folders` times `files` files, whose data `make(number)` gives."""

    def fill(tar):
        for folder in range(folders):
            parent = tarfile.TarInfo("data/%05d" % folder)
            parent.type, parent.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(parent)
            for file in range(files):
                data = make(folder * files + file)
                member = tarfile.TarInfo("%s/%05d" % (parent.name, file))
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    writer.layer(fill)


def one_layer(writer, _folder, _name):
    """1.2 GiB in 300 files of 4 MiB, half of each compressible."""
    noise = random.Random(1).randbytes(2 << 20)
    counted(writer, 1, 300, lambda number: number.to_bytes(8, "little") + noise + b"text " * ((2 << 20) // 5))


def million(writer, _folder, _name):
    """A million files of a few bytes."""
    counted(writer, 1000, 1000, lambda number: b"%d\n" % number)


def tiny(writer, _folder, _name):
    """Three layers of a few files for trying the harness out: text, noise, empty, and a file that is replaced."""
    noise = random.Random(2).randbytes(300_000)
    for layer in range(3):
        counted(writer, 1, 20 * (layer + 1), lambda number: b"" if number % 7 == 0 else (b"text %d " % layer * number * 50 + noise[: number * 500]))


RECIPES = {**dict.fromkeys(PACKAGES, from_packages), "one-layer": one_layer, "million": million, "tiny": tiny}


def version(name):
    """A hash of all that decides what is in an image, but for the versions of packages."""
    recipe = inspect.getsource(sys.modules[__name__].Writer) + inspect.getsource(RECIPES[name]) + inspect.getsource(counted)
    return hashlib.sha256((recipe + repr(PACKAGES.get(name))).encode()).hexdigest()[:8]


def make(name, work):
    """The image of a recipe, made unless it is there."""
    path = work / "images" / ("%s-%s" % (name, version(name)))
    if not path.is_dir():
        print("making %s" % path, file=sys.stderr)
        partial, debs = path.with_suffix(".partial"), path.with_suffix(".debs")
        for folder in (partial, debs):
            remove(folder)
            folder.mkdir(parents=True)
        writer = Writer(partial)
        RECIPES[name](writer, debs, name)
        writer.finish()
        partial.rename(path)
        for other in path.parent.iterdir():  # of older recipes, and what they left behind
            if other != path and re.fullmatch(re.escape(name) + r"-[0-9a-f]{8}(\.\w+)?", other.name):
                remove(other)
    return Image(name, path)


def lowest(image, layers, work):
    """The image of the lowest layers alone; blobs are hard links, or copies on another file system."""
    path = work / "images" / "lowest"
    remove(path)
    writer = Writer(path)
    config = json.loads(image.blob(image.manifest["config"]).read_text())
    for layer, diff in list(zip(image.manifest["layers"], config["rootfs"]["diff_ids"]))[:layers]:
        quiet(["cp", "--link", image.blob(layer), writer.blobs] if os.stat(image.path).st_dev == os.stat(path).st_dev
              else ["cp", image.blob(layer), writer.blobs])
        writer.append(layer, diff)
    writer.finish()
    return Image("%s, %d of %d layers" % (image.name, layers, len(image.manifest["layers"])), path)


def opened(text, work):
    """`NAME` of a recipe, `oci:DIR`, or `NAME=oci:DIR`."""
    name, has_name, source = text.partition("=")
    if not has_name:
        source = name
    if source.startswith("oci:"):
        path = Path(source.removeprefix("oci:"))
        return Image(name if has_name else path.name, path)
    if has_name or name not in RECIPES:
        raise SystemExit("%s: no such image, known are oci:DIR, NAME=oci:DIR, %s" % (text, ", ".join(RECIPES)))
    return make(name, work)
