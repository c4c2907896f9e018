#!/usr/bin/env python3
"""Writes the sample image of the repository: make.py DIR

A small OCI layout of three layers that shows what flattening is about: a key that layer 2 deletes although layer 1
still ships it, a hard link into a lower layer, a set-id program, a file capability, an opaque directory, symlinks.

The bytes must not depend on the machine. Compressors differ between zlib builds, so the gzip layers consist of stored
blocks, and every header is written here. Needs the Python standard library only.
"""

import hashlib
import json
import struct
import sys
import zlib
from pathlib import Path

TIME = 1_700_000_000
ROOT, WWW = (0, 0), (33, 33)


def header(name, kind, mode, owner, size, link="", device=(0, 0)):
    def octal(value, width):
        return b"%0*o\0" % (width - 1, value)

    block = (name.encode().ljust(100, b"\0") + octal(mode, 8) + octal(owner[0], 8) + octal(owner[1], 8)
             + octal(size, 12) + octal(TIME, 12) + b" " * 8 + kind + link.encode().ljust(100, b"\0") + b"ustar\x0000"
             + b"\0" * 64 + octal(device[0], 8) + octal(device[1], 8)).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data):
    return data + b"\0" * (-len(data) % 512)


def directory(name, mode=0o755, owner=ROOT):
    return header(name + "/", b"5", mode, owner, 0)


def file(name, text, mode=0o644, owner=ROOT, xattrs=()):
    data = text.encode() if isinstance(text, str) else text
    records = b""
    for key, value in xattrs:
        body = b" SCHILY.xattr." + key.encode() + b"=" + value + b"\n"
        length = len(body) + len(str(len(body) + 3))
        assert len(str(length)) == len(str(len(body) + 3))
        records += str(length).encode() + body
    before = header("PaxHeaders/x", b"x", 0o644, ROOT, len(records)) + padded(records) if records else b""
    return before + header(name, b"0", mode, owner, len(data)) + padded(data)


def symlink(name, target):
    return header(name, b"2", 0o777, ROOT, 0, target)


def hardlink(name, target, mode=0o644, owner=ROOT):
    return header(name, b"1", mode, owner, 0, target)


def device(name, major, minor):
    return header(name, b"3", 0o666, ROOT, 0, device=(major, minor))


def gzip_stored(data):
    """A gzip member whose deflate stream has stored blocks only."""
    out = bytes([31, 139, 8, 0, 0, 0, 0, 0, 0, 255])
    for start in range(0, len(data), 65535):
        piece = data[start:start + 65535]
        last = start + len(piece) == len(data)
        out += struct.pack("<BHH", last, len(piece), len(piece) ^ 0xFFFF) + piece
    return out + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


STYLE = "body { font: 16px/1.5 serif; margin: 2em auto; max-width: 40em }\n" + "".join(
    ".tone-%02d { color: #%02x%02x%02x }\n" % (i, i * 5 % 256, i * 11 % 256, i * 17 % 256) for i in range(180))
PAGE = "<!doctype html>\n<title>%s</title>\n<link rel=stylesheet href=style.css>\n<h1>%s</h1>\n<p>%s\n"
SERVER = "#!/bin/sh\n# Stands for a web server.\nexec busybox httpd -f -p 80 -h /srv/www\n"
CAP_NET_BIND_SERVICE = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # version 2, effective; permitted

LAYERS = [
    # A base system, and a key that should never have been there.
    [directory("bin"), directory("dev", 0o755), directory("etc"), directory("home"), directory("srv"),
     directory("tmp", 0o1777), directory("usr"), directory("usr/bin"), directory("usr/lib"),
     file("etc/os-release", 'ID=sample\nNAME="mkimg sample"\nVERSION_ID=1\n'),
     file("etc/passwd", "root:x:0:0:root:/:/bin/sh\nwww-data:x:33:33:www-data:/srv/www:/bin/false\n"),
     file("etc/group", "root:x:0:\nwww-data:x:33:\n"),
     file("etc/secret.key", "sample secret 5f4d2c: deleted by the next layer, shipped all the same\n", 0o600),
     file("usr/bin/login", "#!/bin/sh\n# Stands for a set-id program.\nexec busybox login \"$@\"\n", 0o4755),
     file("usr/lib/notes.txt", "".join("line %03d of a file that spans blocks\n" % i for i in range(150))),
     symlink("bin/login", "../usr/bin/login"), symlink("etc/notes", "/usr/lib/notes.txt"),
     device("dev/null", 1, 3), device("dev/zero", 1, 5)],
    # The application. The key is deleted, the notes get a second name.
    [directory("srv/www", 0o755, WWW), directory("srv/www/cache", 0o750, WWW),
     file("srv/www/index.html", PAGE % ("Sample", "It works", "Served from one sealed file."), owner=WWW),
     file("srv/www/style.css", STYLE, owner=WWW),
     file("srv/www/cache/stale-1", "stale " * 200, 0o640, WWW), file("srv/www/cache/stale-2", "stale " * 300, 0o640, WWW),
     file("usr/bin/httpd", SERVER, 0o755, xattrs=[("security.capability", CAP_NET_BIND_SERVICE)]),
     hardlink("srv/www/notes.txt", "usr/lib/notes.txt"),
     file("etc/.wh.secret.key", "")],
    # A release: new page, fresh cache, empty file.
    [file("srv/www/index.html", PAGE % ("Sample 1.1", "It still works", "Only this page and the cache changed."), owner=WWW),
     file("srv/www/cache/.wh..wh..opq", ""), file("srv/www/cache/fresh", "fresh\n", 0o640, WWW, [("user.etag", b"1.1")]),
     symlink("srv/www/latest", "index.html"), file("srv/www/robots.txt", "")],
]


def main(out):
    blobs = out / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def blob(media_type, data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    def document(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    layers, diff_ids = [], []
    for number, entries in enumerate(LAYERS, 1):
        tar = b"".join(entries) + b"\0" * 1024
        diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
        kind, data = (".tar", tar) if number == len(LAYERS) else (".tar+gzip", gzip_stored(tar))
        layers.append(blob("application/vnd.oci.image.layer.v1" + kind, data))
    config = blob("application/vnd.oci.image.config.v1+json", document({
        "architecture": "amd64", "os": "linux", "created": "2023-11-14T22:13:20Z",
        "config": {"Cmd": ["/usr/bin/httpd"], "ExposedPorts": {"80/tcp": {}}, "User": "33:33"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2023-11-14T22:13:20Z", "created_by": text} for text in ("base", "application", "release 1.1")]}))
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = blob(manifest_type, document({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers}))
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    manifest["platform"] = {"architecture": "amd64", "os": "linux"}
    (out / "index.json").write_bytes(document({"schemaVersion": 2, "manifests": [manifest]}))
    (out / "oci-layout").write_bytes(document({"imageLayoutVersion": "1.0.0"}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make.py DIR")
    main(Path(sys.argv[1]))
