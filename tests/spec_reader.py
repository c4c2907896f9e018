#!/usr/bin/env python3
"""A second reader of mkimg images, written from format-spec/SPEC.md alone.

    spec_reader.py [--root-hash HEX] [--seal] IMAGE

Checks header, superblock, trailer, verity superblock and the whole hash tree of an image, of a detached seal or of an
image on a disk, and what is around it there, walks its file system, and prints one JSON object a line for each path, as
`mkimg ls --json` does. With --seal the records of the seal are compared with the file system as well. What breaks a rule
of the page ends the run with status 1.

Numbers in brackets are sections of SPEC.md. Only the standard library is needed; it has no BLAKE3, so BLAKE3 digests
and the UUID that is derived from them stay unchecked.
"""

import argparse
import base64
import collections
import hashlib
import json
import os
import struct
import sys
import uuid
import zlib

BLOCK = 4096
NONE = 0xFFFFFFFF
FILE, DIR, CHAR, BLOCKDEV, FIFO, SOCKET, SYMLINK = range(1, 8)
TYPES = {0o100000: FILE, 0o040000: DIR, 0o020000: CHAR, 0o060000: BLOCKDEV, 0o010000: FIFO, 0o140000: SOCKET,
         0o120000: SYMLINK}
WORDS = {FILE: "file", DIR: "dir", CHAR: "char", BLOCKDEV: "block", FIFO: "fifo", SOCKET: "socket", SYMLINK: "symlink"}
PREFIXES = {0: b"", 1: b"user.", 2: b"system.posix_acl_access", 3: b"system.posix_acl_default", 4: b"trusted.",
            5: b"lustre.", 6: b"security."}
DOCUMENT_MAX = 4 << 20
# root, root-verity, root-verity-sig, and systemd's name, by the architecture of the configuration.
ARCHITECTURES = {
    "amd64": ("x86-64", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
              "41092b05-9fc8-4523-994f-2def0408b176"),
    "arm64": ("arm64", "b921b045-1df0-41c3-af44-4c6f280d3fae", "df3300ce-d69f-4c92-978c-9bfb0f38d820",
              "6db69de6-29f4-4758-a7a5-962190f00ce3"),
}
ZERO_LEAF = hashlib.sha256(bytes(BLOCK)).digest()

Inode = collections.namedtuple(
    "Inode", "nid start end type mode nlink size mtime rdev uid gid xattr_at xattr_len layout first tail map chunk")


class Broken(Exception):
    """A rule of the format that the image breaks."""


def rule(holds, text):
    if not holds:
        raise Broken(text)


def ceil(a, b):
    return -(-a // b)


def crc32c_raw(data):
    """CRC-32C without final inversion [1]."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def as_uuid(raw):
    raw = bytearray(raw)
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


def merkle_levels(leaves):
    """Levels of the tree over joined digests, leaf level first, as joined hash blocks; and the root [7, 8]."""
    levels = []
    while len(leaves) > 32:
        blocks = leaves + bytes(-len(leaves) % BLOCK)
        levels.append(blocks)
        leaves = b"".join(hashlib.sha256(blocks[at:at + BLOCK]).digest() for at in range(0, len(blocks), BLOCK))
    return levels, leaves or bytes(32)


def fsverity(size, leaves):
    descriptor = struct.pack("<BBBBIQ32s208x", 1, 1, 12, 0, 0, size, merkle_levels(leaves)[1])
    return hashlib.sha256(descriptor).digest()


def derived(domain, content):
    """The UUID that follows from what it stands for, as it is on disk [10.1]."""
    return uuid.UUID(bytes=as_uuid(hashlib.sha256(domain + b"\0" + content).digest()[:16])).bytes_le


class Disk:
    """An image on a disk [10.1]."""

    def __init__(self, file, size):
        self.file, self.size = file, size
        self.entries = []
        for at in range(1024, 1024 + 128 * 128, 128):
            kind, _, first, last = struct.unpack("<16s16sQQ", os.pread(file, 48, at))
            if any(kind):
                self.entries.append((uuid.UUID(bytes_le=kind), first * 512, (last + 1) * 512))
        place = {str(kind): (start, end) for kind, start, end in self.entries}
        rows = [row for row in ARCHITECTURES.values() if row[1] in place and row[2] in place]
        rule(len(rows) == 1 and len(place) == len(self.entries), "partitions of the disk")
        self.row, self.data, self.verity = rows[0], place[rows[0][1]], place[rows[0][2]]
        self.signature = place.get(self.row[3])
        self.length = self.verity[1] - self.verity[0] + self.data[1] - self.data[0]

    def at(self, offset):
        """Where a byte of the image is, and how many follow it there."""
        split = self.data[1] - self.data[0]
        start, end = (self.data[0] + offset, self.data[1]) if offset < split else (
            self.verity[0] + offset - split, self.verity[1])
        return start, end - start

    def check(self, root_hash):
        """A disk has one form, but for what is in its partitions."""
        signature = b""
        if self.signature:
            start, end = self.signature
            signature = os.pread(self.file, end - start, start)
            document = signature.rstrip(b"\0")
            rule(len(signature) == ceil(len(document), BLOCK) * BLOCK, "padding of the signature partition")
            fields = json.loads(document, object_pairs_hook=lambda pairs: (
                rule(len(dict(pairs)) == len(pairs), "a key twice"), dict(pairs))[1])
            rule({"rootHash", "signature"} <= set(fields) <= {"rootHash", "signature", "certificateFingerprint"}
                 and fields["rootHash"] == root_hash.hex() and base64.b64decode(fields["signature"], validate=True),
                 "signature partition")
        places = [self.data, self.verity] + ([self.signature] if self.signature else [])
        ids = [uuid.UUID(bytes=root_hash[:16]).bytes_le, uuid.UUID(bytes=root_hash[16:]).bytes_le,
               derived(b"mkimg signature partition", signature)]
        entries, next_start = b"", 1 << 20
        for (start, end), kind, own, suffix in zip(places, self.row[1:], ids, ("", "-verity", "-verity-sig")):
            rule(start == next_start and end > start, "place of a partition")
            next_start = end
            name = f"root-{self.row[0]}{suffix}".encode("utf-16-le")
            entries += struct.pack("<16s16sQQQ72s", uuid.UUID(kind).bytes_le, own, start // 512, end // 512 - 1,
                                   1 << 60, name)
        entries = entries.ljust(128 * 128, b"\0")
        rule(self.size == ceil(next_start + 33 * 512, BLOCK) * BLOCK, "length of the disk")
        last = self.size // 512 - 1

        def header(mine, other, array):
            raw = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 1 << 16, 92, 0, 0, mine, other, 34, last - 33,
                              derived(b"mkimg disk", root_hash), array, 128, 128, zlib.crc32(entries))
            return (raw[:16] + struct.pack("<I", zlib.crc32(raw)) + raw[20:]).ljust(512, b"\0")

        mbr = bytes(446) + struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, min(last, 0xFFFFFFFF))
        head = mbr.ljust(510, b"\0") + b"\x55\xaa" + header(1, last, 2) + entries
        rule(os.pread(self.file, 1 << 20, 0) == head.ljust(1 << 20, b"\0"), "what is in front of the image")
        tail = (entries + header(last, 1, last - 32)).rjust(self.size - next_start, b"\0")
        rule(os.pread(self.file, len(tail) + 1, next_start) == tail, "what is behind the partitions")


class Image:
    """An image, or a detached seal or a disk at the offsets of its image [2, 3, 9, 10]."""

    def __init__(self, path):
        self.file = os.open(path, os.O_RDONLY)
        self.cut = None
        length = os.fstat(self.file).st_size
        rule(length >= 4 * BLOCK and length % BLOCK == 0, "the length is no whole number of blocks")
        head = os.pread(self.file, BLOCK, 0)
        if head.startswith(b"mkimgDET"):
            magic, version, zero, start, end = struct.unpack_from("<8sIIQQ", head)
            rule((version, zero, start) == (1, 0, BLOCK) and not any(head[32:4092]), "head of the detached seal")
            rule(struct.unpack_from("<I", head, 4092)[0] == zlib.crc32(head[:4092]), "CRC-32 of the detached seal")
            rule(end >= BLOCK and end % BLOCK == 0, "cut_end")
            self.cut = start, end
            length += end - start - BLOCK
        self.disk = Disk(self.file, length) if head[512:520] == b"EFI PART" else None
        self.length = self.disk.length if self.disk else length
        self.read_header()
        rule(self.cut is None or self.cut[1] == self.meta_block * BLOCK, "cut_end is not meta_block")
        self.read_trailer()

    def read(self, offset, length):
        rule(0 <= offset and length >= 0 and offset + length <= self.length, f"{length} bytes at {offset}: outside")
        if self.cut is not None:
            rule(offset + length <= self.cut[0] or offset >= self.cut[1], "file data of a detached seal")
            offset = offset + BLOCK if offset < BLOCK else offset - self.cut[1] + 2 * BLOCK
        if self.disk:
            at, there = self.disk.at(offset)
            if there < length:
                return self.read(offset, there) + self.read(offset + there, length - there)
            offset = at
        data = os.pread(self.file, length, offset)
        while len(data) < length:
            more = os.pread(self.file, length - len(data), offset + len(data))
            rule(more, "the file has become shorter")
            data += more
        return data

    def read_header(self):
        raw = self.read(0, 512)
        (magic, version, length, self.data_blocks, image_size, self.meta_block, meta_blocks, self.seal_block,
         seal_blocks, fec_blocks, fec_roots) = struct.unpack_from("<8sIIQQQQQQQI", raw)
        rule(magic == b"mkimg\r\n\x1a", "magic of the header")
        rule(struct.unpack_from("<I", raw, 508)[0] == zlib.crc32(raw[:508]), "CRC-32 of the header")
        rule(version == 1 and length == 512, "version or length of the header")
        rule(1 <= self.meta_block < self.seal_block < self.data_blocks < 1 << 32, "order of the areas")
        rule(meta_blocks == self.seal_block - self.meta_block, "meta_blocks")
        rule(seal_blocks == self.data_blocks - self.seal_block, "seal_blocks")
        rule(not any(raw[0x4C:508]), "reserved bytes of the header")
        rule(fec_roots == 0 or 2 <= fec_roots <= 24, "fec_roots")
        self.level_blocks = []
        below = self.data_blocks
        while below > 1:
            below = ceil(below, 128)
            self.level_blocks.append(below)
        self.hash_offset = self.data_blocks * BLOCK
        self.fec_offset = self.hash_offset + (1 + sum(self.level_blocks)) * BLOCK
        self.fec_roots = fec_roots
        self.rounds = ceil(self.data_blocks + sum(self.level_blocks), 255 - fec_roots) if fec_roots else 0
        rule(fec_blocks == self.rounds * fec_roots, "fec_blocks")
        self.trailer = self.fec_offset + fec_blocks * BLOCK
        rule(image_size == self.length == self.trailer + BLOCK, "image_size")

    def read_trailer(self):
        raw = self.read(self.trailer, BLOCK)
        self.root_hash = raw[16:48]
        used = struct.unpack_from("<I", raw, 12)[0]
        rule(used <= 3964, "records_len")
        records, at = [], 128
        while at < 128 + used:
            kind, length = struct.unpack_from("<HH", raw, at)
            rule(kind in (1, 2) and length > 0 and at + 4 + length <= 128 + used, "record of the trailer")
            records.append((kind, raw[at + 4:at + 4 + length]))
            at += 4 + length
        rule(records == sorted(set(records)), "order of the records")
        self.parameters = struct.pack("<32sQQQII16sIIQI12x", self.root_hash, self.data_blocks, self.hash_offset,
                                      self.length, BLOCK, BLOCK, b"sha256", 1, 0,
                                      self.fec_offset if self.fec_roots else 0, self.fec_roots)
        expected = struct.pack("<8sII", b"mkimgEND", 1, used) + self.parameters + raw[128:128 + used]
        expected = expected.ljust(4092, b"\0")
        rule(raw[:4092] == expected, "trailer")
        rule(struct.unpack_from("<I", raw, 4092)[0] == zlib.crc32(expected), "CRC-32 of the trailer")

    def check_tree(self):
        """Hashes every block there is [7]."""
        label = as_uuid(self.root_hash[:16])
        expected = struct.pack("<8sII16s32sIIQ", b"verity", 1, 1, label, b"sha256", BLOCK, BLOCK, self.data_blocks)
        expected = expected.ljust(BLOCK, b"\0")
        rule(self.read(self.hash_offset, BLOCK) == expected, "verity superblock")
        stored, at = [], self.hash_offset + BLOCK
        for blocks in reversed(self.level_blocks):
            stored.insert(0, self.read(at, blocks * BLOCK))
            at += blocks * BLOCK
        self.leaves = stored[0][:self.data_blocks * 32]
        missing = range(1, self.meta_block) if self.cut else range(0)
        found, block = [], 0
        while block < self.data_blocks:
            if block in missing:
                found.append(self.leaves[block * 32:missing.stop * 32])
                block = missing.stop
                continue
            count = min(256, self.data_blocks - block) if not self.cut or block else 1
            data = self.read(block * BLOCK, count * BLOCK)
            found += [hashlib.sha256(data[at:at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
            block += count
        found = b"".join(found)
        for block in range(self.data_blocks):
            rule(found[block * 32:block * 32 + 32] == self.leaves[block * 32:block * 32 + 32], f"hash of block {block}")
        levels, root = merkle_levels(found)
        rule(levels == stored, "hash tree")
        rule(root == self.root_hash, "root hash")


    def check_parity(self):
        """Computes the parity of all rounds [7.1]. Without file data there is nothing to compute it from."""
        if not self.fec_roots or self.cut:
            return
        tree = self.hash_offset + BLOCK
        data, tree = self.read(0, self.hash_offset), self.read(tree, self.fec_offset - tree)
        message, step = data + tree, self.rounds * BLOCK
        message = message.ljust(step * (255 - self.fec_roots), b"\0")
        generator = [1]
        for root in range(self.fec_roots):
            factor = EXP[root]
            generator = [a ^ multiply(b, factor) for a, b in zip(generator + [0], [0] + generator)]
        tables = [bytes(multiply(factor, value) for value in range(256)) for factor in generator[1:]]
        # Division by the generator, byte by byte of all codewords at once: bytes of large numbers.
        number = lambda data: int.from_bytes(data, "little")
        parity = [0] * self.fec_roots
        for row in range(255 - self.fec_roots):
            feedback = (number(message[row * step:(row + 1) * step]) ^ parity[0]).to_bytes(step, "little")
            parity = [later ^ number(feedback.translate(table)) for later, table in zip(parity[1:] + [0], tables)]
        columns = [value.to_bytes(step, "little") for value in parity]
        expected = bytes(byte for codeword in zip(*columns) for byte in codeword)
        rule(self.read(self.fec_offset, len(expected)) == expected, "parity")


EXP = [1]
while len(EXP) < 255:
    EXP.append(EXP[-1] << 1 if EXP[-1] < 128 else (EXP[-1] << 1) ^ 0x11D)


def multiply(a, b):
    """Product in GF(256) [7.1]."""
    return EXP[(EXP.index(a) + EXP.index(b)) % 255] if a and b else 0


class FileSystem:
    """The EROFS subset [4]."""

    def __init__(self, image):
        self.image = image
        self.used = []  # (first byte, first behind) of everything in the metadata area
        self.runs = {}  # first block: (number of blocks, whole map of the file) of file data
        self.inodes = {}
        self.chunked = False
        self.shares = self.shares_blocks()
        block = image.read(0, BLOCK)
        (magic, checksum, compat, bits, slots, self.root, self.inos, epoch, nsec, blocks, meta, xattr, _uuid, label,
         incompat) = struct.unpack_from("<IIIBBHQqIIII16s16sI", block, 1024)
        rule(magic == 0xE0F5E1E2, "magic of the superblock")
        rule(checksum == crc32c_raw(block[1024:1028] + bytes(4) + block[1032:]), "checksum of the superblock")
        rule((compat, bits, slots) == (3, 12, 0) and incompat in (0, 4), "features or block size")
        rule(not any(block[512:1024] + block[1024 + 0x54:]), "bytes of block 0 that are zero")
        rule(blocks == image.data_blocks and meta == image.meta_block, "superblock and header disagree")
        rule(epoch >= 0 and nsec < 10**9 and self.root in (1, 128), "epoch or root_nid")
        rule(label.endswith(b"\0") and not any(label[label.index(b"\0"):]), "volume_name")
        self.epoch, self.features, self.label = (epoch, nsec), incompat, label.rstrip(b"\0")
        self.meta, self.end = meta * BLOCK, image.seal_block * BLOCK
        self.pool, self.pool_used = xattr * BLOCK, {}
        rule(self.meta < self.pool <= self.end, "xattr_blkaddr")

    def shares_blocks(self):
        """Whether the statement says that blocks are shared [5.1]; what else it says is for the seal."""
        offset, length = struct.unpack_from("<QQ", self.image.read(self.image.seal_block * BLOCK, 40), 24)
        rule(length <= DOCUMENT_MAX, "length of the statement")
        try:
            return json.loads(self.image.read(offset, length))["options"].get("dedup") == "blocks"
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Broken(f"statement: {error}") from error

    def read(self, offset, length):
        rule(self.meta <= offset and offset + length <= self.end, f"{length} bytes at {offset}: outside the metadata")
        return self.image.read(offset, length)

    def inode(self, nid):
        """Reads an inode, once [4.2, 4.3]."""
        if nid in self.inodes:
            return self.inodes[nid]
        rule(0 < nid < 1 << 32, f"nid {nid}")
        start = self.meta + nid * 32
        raw = self.read(start, 32)
        what = f"inode {nid}: "
        form, icount, mode = struct.unpack_from("<HHH", raw)
        rule(form < 16 and mode & 0o170000 in TYPES, what + "i_format or i_mode")
        if form & 1:
            raw += self.read(start + 32, 32)
            zero, size, i_u, ino, uid, gid, sec, nsec, nlink = struct.unpack_from("<HQIIIIqII", raw, 6)
            rule(zero == 0 and not any(raw[48:]) and nsec < 10**9, what + "reserved bytes or nanoseconds")
        else:
            nlink, size, zero, i_u, ino, uid, gid, zero2 = struct.unpack_from("<HIIIIHHI", raw, 6)
            rule(zero == zero2 == 0, what + "i_mtime or reserved bytes")
            sec, nsec = self.epoch
        fits = uid < 1 << 16 and gid < 1 << 16 and nlink < 1 << 16 and size < 1 << 32
        compact = fits and (sec, nsec) == self.epoch
        rule(compact != bool(form & 1) or (sec, nsec) == (0, 0), what + "compact or extended")
        rule(ino == nid and nlink > 0 and size < 1 << 63, what + "i_ino, i_nlink or i_size")
        kind, layout = TYPES[mode & 0o170000], form >> 1 & 7
        rule(icount != 1, what + "empty xattr body")
        xattr_at = start + len(raw)
        xattr_len = 12 + 4 * (icount - 1) if icount else 0
        body = end = xattr_at + xattr_len
        first, rdev, chunks, chunk = None, None, None, 0
        tail = size % BLOCK if layout == 2 else 0
        if kind in (FILE, DIR, SYMLINK):
            rule(layout in ((0, 4) if kind == FILE else (0, 2)), what + "data layout")
            rule(kind != SYMLINK or 1 <= size <= 4095, what + "length of the target")
            rule(kind != DIR or size <= self.end - self.meta, what + "size of the directory")
        else:
            rule(size == 0 and layout == 0, what + "size or data layout")
        if layout == 4:
            rule(i_u < 32 and 0 < size <= 1 << 40, what + "chunk format or size")
            chunk = BLOCK << i_u
            count = ceil(size, chunk)
            most = 1 << 22 if self.shares else 1 << 16
            rule(count <= most and (i_u == 0 or ceil(size, BLOCK) > most << i_u - 1), what + "size of chunks")
            chunks = struct.unpack(f"<{count}I", self.read(body, 4 * count))
            end = body + 4 * count
            scattered = any(behind != block + 1 for block, behind in zip(chunks, chunks[1:]))
            rule(NONE in chunks or (self.shares and i_u == 0 and scattered), what + "no hole")
            self.chunked = True
            for index, address in enumerate(chunks):
                if address != NONE:
                    self.claim_data(address, min(chunk, size - index * chunk), chunks)
        elif kind in (FILE, DIR, SYMLINK):
            whole = size - tail if layout == 2 else size
            rule(layout != 2 or tail > 0, what + "inline without a tail")
            rule((i_u == NONE) == (whole == 0), what + "i_u")
            first = i_u
            end = body + tail
            rule(tail == 0 or body // BLOCK == (end - 1) // BLOCK, what + "tail across a block")
            if kind == FILE and whole:
                self.claim_data(i_u, whole, i_u)
            elif whole:
                self.claim(i_u * BLOCK, (i_u + ceil(whole, BLOCK)) * BLOCK)
        elif kind in (CHAR, BLOCKDEV):
            rdev = [i_u >> 8 & 0xFFF, i_u & 0xFF | i_u >> 12 & 0xFFF00]
        else:
            rule(i_u == 0, what + "i_u")
        rule(start // BLOCK == (end - 1) // BLOCK or start % BLOCK == 0, what + "crosses a block")
        self.claim(start, end)
        self.inodes[nid] = inode = Inode(nid, start, end, kind, mode & 0o7777, nlink, size, (sec, nsec), rdev, uid, gid,
                                         xattr_at, xattr_len, layout, first, tail, chunks, chunk)
        return inode

    def claim(self, start, end):
        rule(self.meta + 32 <= start and end <= self.end, f"bytes {start} to {end}: outside the metadata")
        self.used.append((start, end))

    def claim_data(self, block, length, whole):
        blocks = ceil(length, BLOCK)
        rule(1 <= block and block + blocks <= self.image.meta_block, f"file data in block {block}")
        known = self.runs.setdefault(block, (blocks, whole))
        if self.shares:
            self.runs[block] = max(known[0], blocks), None
        else:
            rule(known == (blocks, whole), f"block {block} is shared in part")
        if self.image.cut is None and length % BLOCK:
            slack = self.image.read(block * BLOCK + length, -length % BLOCK)
            rule(not any(slack), f"slack of block {block + blocks - 1}")

    def pieces(self, inode):
        """Content of an inode in order [4.3]."""
        step = 1 << 20
        if inode.map is not None:
            for index, address in enumerate(inode.map):
                length = min(inode.chunk, inode.size - index * inode.chunk)
                for at in range(0, length, step):
                    count = min(step, length - at)
                    yield bytes(count) if address == NONE else self.image.read(address * BLOCK + at, count)
            return
        whole = inode.size - inode.tail
        for at in range(0, whole, step):
            yield self.image.read(inode.first * BLOCK + at, min(step, whole - at))
        if inode.tail:
            yield self.image.read(inode.end - inode.tail, inode.tail)

    def entries(self, inode):
        """Entries of a directory [4.4]."""
        what = f"directory {inode.nid}: "
        content = b"".join(self.pieces(inode))
        last, packed = b"", 0
        for at in range(0, len(content), BLOCK):
            block = content[at:at + BLOCK]
            rule(len(block) > 12, what + "short block")
            first = struct.unpack_from("<H", block, 8)[0]
            rule(12 <= first < len(block) and first % 12 == 0, what + "first nameoff")
            dirents = [struct.unpack_from("<QHBB", block, offset) for offset in range(0, first, 12)]
            stops = [dirent[1] for dirent in dirents[1:]] + [len(block)]
            for index, ((nid, start, kind, zero), stop) in enumerate(zip(dirents, stops)):
                rule(first <= start < stop <= len(block) and zero == 0, what + "nameoff or reserved")
                name = block[start:stop]
                if index == len(dirents) - 1:
                    name, _, rest = name.partition(b"\0")
                    rule(not any(rest), what + "slack of a block")
                rule(0 < len(name) <= 255 and b"/" not in name and b"\0" not in name, what + "name")
                rule(name > last, what + "order of names")
                if packed % BLOCK + 12 + len(name) > BLOCK or packed % BLOCK == 0:
                    packed = ceil(packed, BLOCK) * BLOCK
                rule(packed // BLOCK == at // BLOCK, what + "names in another block than they fit in")
                packed += 12 + len(name)
                last = name
                yield name, nid, kind
        rule(packed == inode.size, what + "i_size")

    def xattr_entry(self, data, offset):
        """One entry: name, value, first offset behind [4.5]."""
        rule(offset + 4 <= len(data), "xattr entry beyond its area")
        suffix_len, index, value_len = struct.unpack_from("<BBH", data, offset)
        value_at = offset + 4 + suffix_len
        end = offset + ceil(4 + suffix_len + value_len, 4) * 4
        rule(end <= len(data) and not any(data[value_at + value_len:end]), "xattr beyond its area or padding")
        rule(index in PREFIXES and (suffix_len == 0) == (index in (2, 3)), "xattr index or suffix")
        name = PREFIXES[index] + data[offset + 4:value_at]
        better = [number for number, prefix in PREFIXES.items() if number and name.startswith(prefix)
                  and (name == prefix) == (number in (2, 3))]
        rule(b"\0" not in name and better in ([], [index]), "xattr name")
        return name, data[value_at:value_at + value_len], end

    def xattrs(self, inode):
        if not inode.xattr_len:
            return {}
        body = self.read(inode.xattr_at, inode.xattr_len)
        count, at = body[4], 12 + 4 * body[4]
        rule(body[:4] + body[5:12] == bytes(11) and at <= len(body), "xattr body")
        pairs = []
        for shared in struct.unpack_from(f"<{count}I", body, 12):
            start = self.pool + 4 * shared
            if shared not in self.pool_used:
                data = self.read(start, min(4 + 255 + 65535 + 3, self.end - start))
                self.pool_used[shared] = self.xattr_entry(data, 0)
            pairs.append(self.pool_used[shared][:2])
        while at < len(body):
            name, value, at = self.xattr_entry(body, at)
            pairs.append((name, value))
        rule(len(dict(pairs)) == len(pairs), f"inode {inode.nid}: an xattr is there twice")
        return dict(pairs)

    def walk(self):
        """(path, inode) of every name: parents first, siblings as stored, without recursion."""
        root = self.inode(self.root)
        rule(root.type == DIR, "the root is no directory")
        names, subdirs, entered = collections.Counter(), collections.Counter(), {root.nid}
        stack = [(b"", root, root.nid, self.entries(root))]
        yield b"/", root
        while stack:
            path, here, parent, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                rule(names[here.nid, b"."] == names[here.nid, b".."] == 1, f"directory {here.nid}: . or .. missing")
                rule(here.nlink == 2 + subdirs[here.nid], f"directory {here.nid}: i_nlink")
                continue
            name, nid, kind = entry
            if name in (b".", b".."):
                names[here.nid, name] += 1
                rule(kind == DIR and nid == (here.nid if name == b"." else parent), f"directory {here.nid}: {name}")
                continue
            inode = self.inode(nid)
            rule(kind == inode.type, f"inode {nid}: file_type")
            below = path + b"/" + name
            rule(len(below) <= 4096, "path is too long")
            yield below, inode
            if kind == DIR:
                rule(nid not in entered, f"directory {nid}: second name")
                entered.add(nid)
                subdirs[here.nid] += 1
                stack.append((below, inode, here.nid, self.entries(inode)))
            else:
                names[nid] += 1
        for inode in self.inodes.values():
            rule(inode.type == DIR or names[inode.nid] == inode.nlink, f"inode {inode.nid}: i_nlink")
        rule(len(self.inodes) == self.inos, "inos")
        rule(self.chunked == bool(self.features), "CHUNKED_FILE")
        self.check_space()

    def check_space(self):
        """Every byte has one owner or is zero [12]."""
        pool = sorted((self.pool + 4 * shared, self.pool + 4 * shared + end)
                      for shared, (_, _, end) in self.pool_used.items())
        rule(pool or self.pool == self.end, "xattr_blkaddr without shared xattrs")
        rule([start for start, _ in pool] == [self.pool, *(end for _, end in pool)][:len(pool)], "gap in the pool")
        at = self.meta
        for start, end in sorted(self.used) + pool + [(self.end, self.end)]:
            rule(start >= at, f"overlap at {start}")
            whole = start - at >= BLOCK and (at, self.root) != (self.meta, 128)
            rule(not whole and not any(self.image.read(at, start - at)), f"bytes without owner at {at}")
            at = end
        block = 1
        for start, (blocks, _) in sorted(self.runs.items()):
            rule(start == block or (self.shares and start < block), f"block {block} has no owner, or two")
            block = max(block, start + blocks)
        rule(block == self.image.meta_block, f"block {block} has no owner")


class Seal:
    """The seal and its comparison with the file system [6]."""

    def __init__(self, image, fs):
        self.image, self.fs = image, fs
        raw = image.read(image.seal_block * BLOCK, BLOCK)
        block, expected, self.sections = image.seal_block + 1, struct.pack("<8sII", b"mkimgSEL", 1, 8), {}
        for kind, unit in enumerate((1, 1, 1, 80, 16, 64, 32, 1), 1):
            length = struct.unpack_from("<Q", raw, 16 + 32 * (kind - 1) + 16)[0]
            rule(length % unit == 0, f"section {kind}: length")
            rule(length <= DOCUMENT_MAX or kind > 3, f"section {kind}: too long")
            data = image.read(block * BLOCK, ceil(length, BLOCK) * BLOCK)
            rule(not any(data[length:]), f"section {kind}: slack")
            self.sections[kind] = data[:length]
            expected += struct.pack("<IIQQQ", kind, 0, block * BLOCK, length, 0)
            block += ceil(length, BLOCK)
        rule(raw == expected.ljust(BLOCK, b"\0") and block == image.data_blocks, "table of the seal")

    def message(self):
        """What a signature is over [9]."""
        statement = self.sections[1]
        stated = json.loads(statement)
        message = b"mkimg signature\0" + struct.pack("<Q", 1) + self.image.parameters
        message += struct.pack("<Q", stated["epoch"]) + hashlib.sha256(statement).digest()
        for text in stated.get("name", ""), stated["source"].get("manifest_digest", ""):
            message += struct.pack("<I", len(text.encode())) + text.encode()
        return message

    def records(self, kind, form):
        return list(struct.iter_unpack(form, self.sections[kind]))

    def check(self):
        statement = self.check_statement()
        layers = self.records(6, "<8Q")
        contents = self.records(4, "<32s32sQQ")
        wanted = len(statement["layers"]) or statement["source"]["kind"] == "dir"
        rule(len(layers) == wanted, "layer records")
        visible = [[0, 0] for _ in layers]
        places = {}
        records = self.records(5, "<QII")
        rule([record[0] for record in records] == sorted(self.fs.inodes), "inode records")
        for nid, layer, index in records:
            inode = self.fs.inodes[nid]
            rule(layer < len(layers) or layer == NONE and inode.type == DIR, f"inode {nid}: layer")
            rule((index == NONE) == (inode.type != FILE), f"inode {nid}: content")
            if index != NONE:
                rule(index < len(contents), f"inode {nid}: content")
                place = inode.map or inode.first
                rule(places.setdefault(index, place) == place, f"content {index} has two places")
                expected = self.digest(inode), inode.size, 0
                rule(contents[index][1:] == expected, f"inode {nid}: fs-verity digest or size")
                visible[layer][0] += inode.size
                visible[layer][1] += 1
        rule(len(places) == len(contents), "content without a file")
        self.check_deleted(layers)
        for index, (layer, seen) in enumerate(zip(layers, visible)):
            rule([layer[1], layer[5]] == seen, f"layer {index}: visible")
            rule(layer[0] == sum(layer[1:4]) and layer[4] == sum(layer[5:]), f"layer {index}: sums")
        return (f"seal: {len(layers)} layers, {len(records)} inodes, {len(contents)} contents agree with the file "
                "system; BLAKE3 not checked, it is not in the standard library")

    def digest(self, inode):
        """fs-verity digest from the leaves of the tree, file data is not read again [8]."""
        pieces, leaves = inode.map, []
        if pieces is None:
            pieces, chunk = [inode.first] if inode.size else [], inode.size
        else:
            chunk = inode.chunk
        for index, address in enumerate(pieces):
            blocks = ceil(min(chunk, inode.size - index * chunk), BLOCK)
            stored = self.image.leaves[32 * address:32 * (address + blocks)]
            leaves.append(ZERO_LEAF * blocks if address == NONE else stored)
        return fsverity(inode.size, b"".join(leaves))

    def check_deleted(self, layers):
        gone, at, paths = [[0, 0] for _ in layers], 0, self.sections[8]
        for size, start, length, layer, by, zero in self.records(7, "<QQIIII"):
            rule(start == at and length <= 4096 and zero == 0, "deleted record")
            rule(layer < by < len(layers) and paths[start:start + 1] == b"/", "deleted record")
            gone[layer][0] += size
            gone[layer][1] += 1
            at += length
        rule(at == len(paths), "paths")
        for layer, sums in zip(layers, gone):
            rule([layer[3], layer[7]] == sums, "deleted bytes or files")

    def check_statement(self):
        """Canonical form and known keys [6.2]."""
        def unique(pairs):
            rule(len(dict(pairs)) == len(pairs), "statement: a key is there twice")
            return dict(pairs)

        def number(text):
            raise Broken(f"statement: number {text}")

        def has(value, required, optional=frozenset()):
            rule(isinstance(value, dict) and required <= set(value) <= required | optional, "statement: keys")
            for key, item in value.items():
                expected = {"layers": list, "source": dict, "options": dict, "epoch": int, "format": int, "hot": int, "size": int}
                rule(type(item) is expected.get(key, str), f"statement: type of {key}")

        raw = self.sections[1]
        try:
            statement = json.loads(raw.decode(), object_pairs_hook=unique, parse_float=number, parse_constant=number)
        except ValueError as error:
            raise Broken(f"statement: {error}") from error
        form = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        rule(form.encode() == raw, "statement: not canonical")
        has(statement, {"epoch", "format", "layers", "options", "source", "tool"}, {"hot", "name"})
        source = statement["source"]
        has(source, {"kind"}, {"config_digest", "manifest_digest", "reference"})
        rule(source["kind"] in ("oci", "docker", "tar", "dir"), "statement: kind")
        rule(("hot" in statement) == ("optimize_for" in statement["options"]), "statement: hot without a trace")
        rule(0 <= statement.get("hot", 0) <= len(self.sections[4]) // 80, "statement: more hot contents than there are")
        rule(statement["format"] == 1 and statement["epoch"] >= 0, "statement: format or epoch")
        rule(all(isinstance(value, str) for value in statement["options"].values()), "statement: options")
        label = statement.get("name", "").encode()[:15].decode(errors="ignore")
        rule(self.fs.label == label.encode(), "volume_name is not the name of the statement")
        chain = None
        for layer in statement["layers"]:
            has(layer, {"chain_id", "diff_id", "digest", "size"}, {"media_type"})
            below = chain and f"{chain} {layer['diff_id']}".encode()
            chain = layer["diff_id"] if below is None else "sha256:" + hashlib.sha256(below).hexdigest()
            rule(layer["chain_id"] == chain and layer["size"] >= 0, "statement: chain_id or size")
        for kind, key in ((2, "manifest_digest"), (3, "config_digest")):
            data, digest = self.sections[kind], source.get(key)
            algorithm, _, value = (digest or "").partition(":")
            rule(bool(data) == bool(digest), f"statement: {key}")
            rule(not data or algorithm in ("sha256", "sha512"), f"statement: {key}")
            rule(not data or hashlib.new(algorithm, data).hexdigest() == value, f"{key} is another")
        return statement


def text(name, raw):
    """A JSON member that is base64 when the bytes are not UTF-8."""
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {name + "_b64": base64.b64encode(raw).decode()}


def listing(fs):
    """One object for each path, as `mkimg ls --json` prints them."""
    digests = {}
    for path, inode in fs.walk():
        line = text("path", path)
        line |= {"type": WORDS[inode.type], "mode": inode.mode, "uid": inode.uid, "gid": inode.gid, "size": inode.size,
                 "mtime": "%d.%09d" % inode.mtime, "nlink": inode.nlink, "ino": inode.nid}
        if inode.type == SYMLINK:
            target = b"".join(fs.pieces(inode))
            rule(b"\0" not in target, f"inode {inode.nid}: target")
            line |= text("target", target)
        if inode.rdev:
            line["rdev"] = inode.rdev
        for name, value in sorted(fs.xattrs(inode).items()):
            (member, name), = text("xattrs", name).items()
            line.setdefault(member, {})[name] = base64.b64encode(value).decode()
        if inode.type == FILE and fs.image.cut is None:
            if inode.nid not in digests:
                digest = hashlib.sha256()
                for piece in fs.pieces(inode):
                    digest.update(piece)
                digests[inode.nid] = digest.hexdigest()
            line["sha256"] = digests[inode.nid]
        yield line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root-hash", metavar="HEX", help="refuse an image with any other root hash")
    parser.add_argument("--seal", action="store_true", help="compare the records of the seal with the file system")
    parser.add_argument("--message", metavar="FILE", help="write what a signature of the image is over")
    parser.add_argument("image")
    args = parser.parse_args()
    try:
        image = Image(args.image)
        rule(args.root_hash in (None, image.root_hash.hex()), "another root hash")
        image.check_tree()
        image.check_parity()
        if image.disk:
            image.disk.check(image.root_hash)
        fs = FileSystem(image)
        for line in listing(fs):
            print(json.dumps(line, ensure_ascii=False, separators=(",", ":")))
        if args.seal:
            print(Seal(image, fs).check(), file=sys.stderr)
        if args.message:
            with open(args.message, "wb") as out:
                out.write(Seal(image, fs).message())
    except (Broken, OSError) as error:
        sys.stdout.flush()
        sys.exit(f"spec_reader: {args.image}: {error}")


if __name__ == "__main__":
    main()
