#!/usr/bin/env python3
"""Measures mkimg and peers on the test images, interleaved in one run: tests/measure.py [ROUNDS]

Prints a Markdown table of medians: wall time, processor time, peak memory. Needs a release build, tests/images.sh,
GNU time, umoci and veritysetup; a peer that is missing is left out.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import HERE, MKIMG, interleaved, machine, version

IMAGES = Path(os.environ.get("MKIMG_IMAGES", HERE.parent / "target/images"))


def big_layout(folder):
    """An OCI layout with one gzip layer of 1.2 GiB: 300 files of 4 MiB, half of each compressible."""
    import gzip
    import hashlib
    import io
    import random
    import tarfile

    noise = random.Random(1).randbytes(2 << 20)
    raw, diff = folder / "layer", hashlib.sha256()

    class Tee(io.RawIOBase):
        def __init__(self, out):
            self.out = out

        def writable(self):
            return True

        def write(self, data):
            diff.update(data)
            return self.out.write(data)

    with gzip.GzipFile(raw, "wb", 1, mtime=0) as packed, tarfile.open(fileobj=Tee(packed), mode="w|") as tar:
        for number in range(300):
            data = number.to_bytes(8, "little") + noise + b"text " * ((2 << 20) // 5)
            member = tarfile.TarInfo("data/file-%03d" % number)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    blobs = folder / "oci/blobs/sha256"
    blobs.mkdir(parents=True)

    def add(data, media):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media, "digest": "sha256:" + digest, "size": len(data)}

    oci = "application/vnd.oci.image."
    layer = add(raw.read_bytes(), oci + "layer.v1.tar+gzip")
    raw.unlink()
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + diff.hexdigest()]}}
    config = add(json.dumps(config).encode(), oci + "config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": [layer]}
    manifest = {**add(json.dumps(manifest).encode(), oci + "manifest.v1+json"),
                "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    (folder / "oci/oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "oci/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    return folder / "oci"


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    umoci, veritysetup = shutil.which("umoci"), shutil.which("veritysetup")
    print(machine())
    for tool in (MKIMG, "umoci", "veritysetup"):
        print(version(tool, "--version") or "%s is missing" % tool)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as work:
        work = Path(work)
        sources = {name: "%s" % (IMAGES / name) for name in ("debian", "python") if (IMAGES / name).is_dir()}
        sources["one 1.2 GiB layer"] = str(big_layout(work))
        results = {}
        for name, source in sources.items():
            image = work / "image"
            built = subprocess.run([MKIMG, "build", "oci:" + source, "-o", str(image), "--json"], capture_output=True, check=True)
            info = json.loads(built.stdout)
            tag = json.loads((Path(source) / "index.json").read_text())["manifests"][0]["annotations"][
                "org.opencontainers.image.ref.name"]
            jobs = {
                "mkimg build": [MKIMG, "build", "oci:" + source, "-o", str(work / "again")],
                "mkimg build --threads 1": [MKIMG, "build", "oci:" + source, "-o", str(work / "again"), "--threads", "1"],
                "mkimg verify": [MKIMG, "verify", str(image)],
                "mkimg verify --threads 1": [MKIMG, "verify", str(image), "--threads", "1"],
            }
            if umoci and os.geteuid() == 0:
                jobs["umoci unpack"] = [umoci, "unpack", "--image", "%s:%s" % (source, tag), str(work / "bundle")]
            if veritysetup:
                jobs["veritysetup verify"] = [veritysetup, "verify", str(image), str(image), info["root_hash"],
                                              "--hash-offset=%d" % info["hash_offset"]]
            results[name] = info, interleaved(jobs, rounds, lambda: shutil.rmtree(work / "bundle", ignore_errors=True))
        for name, (info, medians) in results.items():
            entries = info["inodes"]
            print("\n%s: %d inodes, image of %.0f MiB; memory allowed: %.0f MiB\n" % (
                name, entries, info["image_size"] / 2**20, 64 + 300 * entries / 2**20))
            print("| | wall s | processor s | peak MiB |\n|---|---|---|---|")
            for job, (wall, cpu, peak) in medians.items():
                print("| `%s` | %.2f | %.2f | %.1f |" % (job, wall, cpu, peak / 1024))


if __name__ == "__main__":
    main()
