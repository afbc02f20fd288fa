"""Some four hundred files that no photograph album should hold, made by seed: what folders really hold, and worse.

Each is a kind of trouble by itself. Nothing here is a real photograph but the public-domain portrait of
:mod:`tests.photographs`, at the size of an aligned crop, so that a run over all of them stays cheap.
"""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tests import photographs

SEED = 20240607

NAMES = (
    "plain", "with space", " leading", "trailing ", "new\nline", "tab\there", "carriage\rreturn", "bell\x07",
    "\x1b[31mred\x1b[0m", "\u202egpj.exe", "zero\u200bwidth", "Zażółć gęślą", "Ελληνικά", "Русский", "עברית",
    "العربية", "हिन्दी", "ไทย", "日本語", "한국어", "简体字", "🙂👩‍👧", "e\u0301 decomposed", "\u00e9 composed",
    "-o", "--out", "-", "%s%n", "$(touch ran)", "`touch ran`", "; rm x", "a'b\"c", "back\\slash", "*", "?",
    "[red]", "[bold]x[/bold]", "{0}", "con", "NUL", "aux.tar", "~", "report", "a.png", "double..dots", "CaSe", "cAsE",
    "x-face2", "x-face2-face2", "x", "report.jsonl", "model-card",
)  # fmt: skip
"""Names without the suffix; a whole picture is behind each of them."""


@dataclass
class Corpus:
    """What was made.

    Attributes:
        folder: the folder that is given to a run.
        given: files that are given by name beside it.
        good: inputs, as paths, whose face must be done.
        bad: inputs that must fail.
        either: inputs that may do either, as long as the run goes on: broken pictures that decoders may mend.
        ignored: files of the folder that are no pictures by their name.
    """

    folder: Path
    given: list[Path] = field(default_factory=list)
    good: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    either: set[str] = field(default_factory=set)
    ignored: int = 0

    def __len__(self) -> int:
        return len(self.good) + len(self.bad) + len(self.either)


def make(folder: Path) -> Corpus:
    """The corpus below a folder that does not exist yet."""
    corpus = Corpus(folder)
    folder.mkdir(parents=True)
    random_ = random.Random(SEED)
    whole = encoded()
    for name, content in whole.items():
        _put(corpus, f"whole/{name}", content, "good")
    for name, content in damaged(whole, random_):
        _put(corpus, f"damaged/{name}", content, "either")
    for name, content in bombs():
        _put(corpus, f"bombs/{name}", content, "bad")
    for name, content in junk(random_):
        _put(corpus, f"junk/{name}", content, "bad")
    for name, content in odd_sizes():
        _put(corpus, f"sizes/{name}", content, "bad")
    _named(corpus, whole["a.png"])
    _special(corpus, whole["a.png"])
    return corpus


def _put(corpus: Corpus, name: str, content: bytes, kind: str) -> None:
    path = corpus.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    getattr(corpus, kind).add(os.fspath(path))


def crop() -> Image.Image:
    """The portrait as an aligned crop would be: 112x112."""
    buffer = io.BytesIO()
    Image.fromarray(photographs._head(112, 1.0)).save(buffer, "PNG")
    return Image.open(buffer).copy()


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encoded() -> dict[str, bytes]:
    """The same portrait in every form that is read, all of them whole."""
    image = crop()
    alpha = image.copy()
    alpha.putalpha(200)
    grey = image.convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    turned = Image.Exif()
    turned[0x0112] = 3
    found = {
        "a.png": _saved(image, "PNG"),
        "a.jpg": _saved(image, "JPEG", quality=95),
        "progressive.jpg": _saved(image, "JPEG", progressive=True),
        "a.webp": _saved(image, "WEBP", lossless=True),
        "a.gif": _saved(image, "GIF"),
        "a.tif": _saved(image, "TIFF"),
        "a.bmp": _saved(image, "BMP"),
        "grey.png": _saved(grey, "PNG"),
        "one-bit.png": _saved(image.convert("1"), "PNG"),
        "sixteen-bit.png": _saved(wide, "PNG"),
        "sixteen-bit.tif": _saved(wide, "TIFF"),
        "float.tif": _saved(grey.convert("F"), "TIFF"),
        "int32.tif": _saved(grey.convert("I"), "TIFF"),
        "palette.png": _saved(image.convert("P"), "PNG"),
        "palette-transparent.gif": _saved(image.convert("P"), "GIF", transparency=3),
        "cmyk.jpg": _saved(image.convert("CMYK"), "JPEG"),
        "cmyk.tif": _saved(image.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "ycbcr.tif": _saved(image.convert("YCbCr"), "TIFF"),
        "lab.tif": _saved(image.convert("LAB"), "TIFF"),
        "la.png": _saved(alpha.convert("LA"), "PNG"),
        "rgba.png": _saved(alpha, "PNG"),
        "rgba.webp": _saved(alpha, "WEBP"),
        "animated.gif": _saved(image, "GIF", save_all=True, append_images=[image.rotate(90)] * 5),
        "animated.png": _saved(image, "PNG", save_all=True, append_images=[image.rotate(90)] * 3),
        "animated.webp": _saved(image, "WEBP", save_all=True, append_images=[image.rotate(90)] * 3),
        "pages.tif": _saved(image, "TIFF", save_all=True, append_images=[image.resize((8, 8))] * 3),
        "much-exif.jpg": _saved(image, "JPEG", exif=exif),
        "turned.jpg": _saved(image, "JPEG", exif=turned),
        "no-exif-at-all.jpg": _saved(image, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "bad-profile.png": _saved(image, "PNG", icc_profile=b"\xff" * 300),
        "really-a-png.jpg": _saved(image, "PNG"),
        "really-a-jpg.png": _saved(image, "JPEG"),
        "really-a-gif.heic": _saved(image, "GIF"),
        "UPPER.JPG": _saved(image, "JPEG"),
        "trailing-rubbish.jpg": _saved(image, "JPEG") + b"\0" * 5000 + b"<?php system('id'); ?>",
        "polyglot.png": _saved(image, "PNG") + b"PK\x05\x06" + b"\0" * 18,
    }
    return found


def damaged(whole: dict[str, bytes], generator: random.Random) -> Iterator[tuple[str, bytes]]:
    """Cut off at many lengths, and with bits turned over, in every form."""
    for name in ("a.png", "a.jpg", "progressive.jpg", "a.webp", "animated.gif", "cmyk.tif", "a.bmp", "float.tif"):
        content = whole[name]
        stem, suffix = name.split(".")
        for share in (0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.999):
            yield f"{stem}-cut-{share}.{suffix}", content[: max(1, int(len(content) * share))]
        for number in range(16):
            changed = bytearray(content)
            # The head says how much memory is asked for; the rest, what is put there.
            reach = 128 if number % 2 else len(changed)
            for _ in range(1 + number % 4):
                changed[generator.randrange(min(reach, len(changed)))] ^= 1 << generator.randrange(8)
            yield f"{stem}-bits-{number}.{suffix}", bytes(changed)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_head(width: int, height: int, depth: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    """A PNG that says it has this size, whatever is in it."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that ask for gigabytes."""
    zeros = zlib.compress(bytes(20_000_000), 9)
    for width, height in ((2**31 - 1, 2**31 - 1), (100_000, 100_000), (2**31 - 1, 1), (65_535, 65_535), (0, 0), (0, 9)):
        yield f"png-{width}x{height}.png", png_head(width, height, body=zeros[:2000])
    # Just below the limit, with next to nothing in it.
    yield "png-below-the-limit.png", png_head(13_000, 13_000, 8, 2, zeros[:3000])
    yield (
        "png-text.png",
        png_head(8, 8, body=b"")[:-12] + _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9)),
    )
    yield "png-profile.png", png_head(9, 9)[:33] + _chunk(b"iCCP", b"k\0\0" + zeros) + _chunk(b"IEND", b"")
    for width, height in ((65_535, 65_535), (65_535, 1)):
        screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF0, 0, 0) + bytes(6)
        frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"
        yield f"gif-{width}x{height}.gif", screen + frame
    for width, height in ((2**32 - 1, 2**32 - 1), (60_000, 60_000), (13_000, 13_000)):
        entries = [
            (256, 4, width),
            (257, 4, height),
            (258, 3, 8),
            (259, 3, 1),
            (262, 3, 1),
            (273, 4, 8),
            (278, 4, height),
        ]
        entries.append((279, 4, 2**32 - 1))
        directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
        yield f"tiff-{width}x{height}.tif", b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    loop = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 256, 4, 1, 9) + struct.pack("<I", 8)
    yield "tiff-directory-in-a-circle.tif", loop
    for width, height in ((2**31 - 1, 2**31 - 1), (-5, 7), (50_000, -50_000)):
        head = b"BM" + struct.pack("<IHHI", 100, 0, 0, 54)
        yield (
            f"bmp-{width}x{height}.bmp",
            head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0),
        )
    vp8x = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_383).to_bytes(3, "little") * 2
    yield "webp-16384.webp", b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x
    jpeg = encoded()["a.jpg"]
    start = jpeg.index(b"\xff\xc0")
    yield "jpeg-65535.jpg", jpeg[: start + 5] + b"\xff\xff\xff\xff" + jpeg[start + 9 :]


def junk(generator: random.Random) -> Iterator[tuple[str, bytes]]:
    """What is no picture at all, whatever its name says."""
    yield "empty.jpg", b""
    yield "empty.heic", b""
    for size in (1, 2, 7, 100, 5000):
        yield f"noise-{size}.jpg", generator.randbytes(size)
    for name, head in (("jpg", b"\xff\xd8\xff"), ("png", b"\x89PNG\r\n\x1a\n"), ("gif", b"GIF89a"), ("tif", b"II*\0"),
                       ("tiff", b"MM\0*"), ("bmp", b"BM"), ("webp", b"RIFF\xff\xff\xff\xffWEBP")):  # fmt: skip
        yield f"head-alone.{name}", head
        yield f"head-and-noise.{name}", head + generator.randbytes(600)
    yield "text.jpg", b"not a picture\n"
    yield "page.png", b"<html><body>404</body></html>"
    yield "vector.png", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    yield "program.jpg", b"#!/bin/sh\ntouch ran\n"
    yield "elf.jpg", b"\x7fELF" + bytes(60)
    yield "zip.jpg", b"PK\x03\x04" + bytes(60)
    yield "phone.heic", b"\0\0\0\x18ftypheic" + bytes(64)
    yield "film.jpg", b"\0\0\0\x18ftypisom" + bytes(64)
    # Pillow would hand it to Ghostscript, which runs what is in it.
    yield "postscript.jpg", postscript()


def postscript(size: int = 112) -> bytes:
    """A program in the form of a picture."""
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 " + f"{size} {size}".encode() + b"\n%%EndComments\n"
        b"(ran) (w) file closefile\nshowpage\n%%EOF\n"
    )


def odd_sizes() -> Iterator[tuple[str, bytes]]:
    """Whole pictures without a face, of sizes that nobody thinks of."""
    for width, height in ((1, 1), (1, 2), (20_000, 1), (1, 20_000), (3, 3), (111, 112), (113, 112)):
        yield f"{width}x{height}.png", _saved(Image.new("RGB", (width, height), (90, 120, 60)), "PNG")
    yield "1x1.gif", _saved(Image.new("P", (1, 1)), "GIF")
    yield "1x1.jpg", _saved(Image.new("L", (1, 1)), "JPEG")
    yield "not-finite.tif", _saved(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF")


def panorama(*, upright: bool = False) -> bytes:
    """A photograph of 20,000x1,000 pixels, or 1,000x20,000, with one face of about 450 far from its middle."""
    canvas = np.full((20_000, 1_000, 3) if upright else (1_000, 20_000, 3), (90, 120, 60), np.uint8)
    place = canvas[17_000:18_000] if upright else canvas[:, 17_000:18_000]
    place[:] = photographs._head(1_000, 1.0)
    return _saved(Image.fromarray(canvas), "JPEG", quality=90)


def _named(corpus: Corpus, content: bytes) -> None:
    """A whole picture under every name, in two folders, so that names meet."""
    for name in NAMES:
        _put(corpus, f"names/{name.replace('/', '')}.png", content, "good")
    for name in (b"caf\xe9.png", b"\xff\xfe\xfd.png", b"\xed\xa0\x80.png"):
        _put(corpus, f"names/{os.fsdecode(name)}", content, "good")
    _put(corpus, "names/" + "l" * 251 + ".png", content, "good")
    # The second of a pair keeps its suffix, which is too long for a name by then.
    _put(corpus, "long/" + "p" * 251 + ".png", content, "bad")
    _put(corpus, "long/" + "p" * 251 + ".gif", _saved(crop(), "GIF"), "bad")
    _put(corpus, "long/" + "字" * 83 + "ab.png", content, "good")
    for suffix in ("png", "PNG", "gif", "GIF", "tif"):
        kind = {"png": "PNG", "gif": "GIF", "tif": "TIFF"}[suffix.lower()]
        _put(corpus, f"twins/same.{suffix}", _saved(crop(), kind), "good")
    _put(corpus, "twins/Same.png", content, "good")
    _put(corpus, "twins/same.png.png", content, "good")
    _put(corpus, "twins/same-face2.png", content, "good")
    _put(corpus, "twins/folder.png/inside.png", content, "good")
    deep = "/".join(["d"] * 400)
    _put(corpus, f"deep/{deep}/a.png", content, "good")
    for name in ("..png", "...png", "-o.png", ".hidden.png", "no suffix", "odd.txt"):
        path = corpus.folder.parent / "given" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        corpus.given.append(path)
        corpus.good.add(os.fspath(path))


def _special(corpus: Corpus, content: bytes) -> None:
    """What is no regular file, or is another way to one."""
    folder = corpus.folder / "special"
    folder.mkdir()
    (folder / "folder.jpg").mkdir()
    (folder / "empty folder").mkdir()
    outside = corpus.folder.parent / "outside.png"
    outside.write_bytes(content)
    (folder / "link.png").symlink_to(outside)
    corpus.good.add(os.fspath(folder / "link.png"))
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "one.png").symlink_to(folder / "two.png")
    (folder / "two.png").symlink_to(folder / "one.png")
    corpus.bad |= {os.fspath(folder / f"{name}.png") for name in ("dangling", "circle", "one", "two")}
    (folder / "up").symlink_to(corpus.folder, target_is_directory=True)
    (folder / "here").symlink_to(folder, target_is_directory=True)
    (folder / "device.png").symlink_to("/dev/zero")
    corpus.bad.add(os.fspath(folder / "device.png"))
    os.mkfifo(folder / "pipe.png")
    corpus.ignored += 1
    pipe = corpus.folder.parent / "given" / "pipe.jpg"
    os.mkfifo(pipe)
    corpus.given.append(pipe)
    corpus.bad.add(os.fspath(pipe))
    sparse = folder / "sparse.png"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    corpus.bad.add(os.fspath(sparse))
    for name in ("notes.txt", "film.mp4", "Thumbs.db", "archive.zip"):
        (folder / name).write_bytes(b"x")
        corpus.ignored += 1
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "._a.png").write_bytes(b"x")
