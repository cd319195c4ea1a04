"""Hostile films, read in a process that is watched.

The one idea: a film may be refused or read, and nothing else may happen. A second process reads the
films one by one; this one watches from outside, so that it sees what the libraries do in C, too: a
film that is not done in time is a hang, the kernel says how much memory the process had at its
peak, and the baits that films name - a folder of files (inotify) and an address that listens - say
whether anyone came. An accepted film is compared with the one that it was made from.

Covers: every container and codec of tests/clips.py and more, damaged, cut, with false lengths and
sizes, playlists, references, odd names, no films at all. Does not cover: other systems
than Linux."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.faults.tally import KNOWN, End, Outcome, Trial
from tests.clips import grey_frames, write_clip
from verl_videosearch.video.decode import FramePlan, read_candidate_frames
from verl_videosearch.video.errors import VideoError
from verl_videosearch.video.reading import MAX_DECODE_BYTES

TIMEOUT_S = 30.0
"""What the reader gives a film."""
HANG_S = 90.0
"""What this process gives the reader."""
MAX_BYTES = MAX_DECODE_BYTES + 2**29
"""The bound of all decodes at once, and half a GiB for what libraries take besides."""
_PLAN = FramePlan(frames_per_video=6)
_MAX_DIFFERENCE = 12.0
"""Mean difference of a frame, of 255, from which on it shows something else."""
_HEVC = {"codec": "libx265", "options": {"x265-params": "log-level=none"}}
BASES: dict[str, dict[str, Any]] = {
    "h264.mp4": {}, "h264.mov": {}, "h264.mkv": {}, "vp9.webm": {}, "mpeg4.avi": {},
    "mpeg2.mpeg": {}, "vp8.ogv": {}, "flv1.flv": {}, "h264.ts": {"codec": "libx264"},
    "wmv2.wmv": {"codec": "wmv2"}, "hevc.mp4": _HEVC,
    "av1.mp4": {"codec": "libsvtav1"}, "ffv1.mkv": {"codec": "ffv1", "pixel_format": "yuv420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p"}, "images.gif": {},
    "images.webp": {}, "images.avif": {}, "images.png": {},
}  # fmt: skip
"""File to what `write_clip` needs for it."""


def write_base(folder: Path, name: str) -> Path:
    """Write the whole film that hostile ones are made from."""
    path, frames = folder / name, grey_frames(24, 112, 168)
    if path.suffix in (".avif", ".png"):
        images = [Image.fromarray(frame) for frame in frames]
        images[0].save(path, save_all=True, append_images=images[1:], duration=40)
        return path
    return write_clip(path, frames, **BASES[name])


Mutation = Callable[[bytearray, random.Random], bytes]


def _damage(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(4):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def _damage_head(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randrange(1, 5)):
        content[rng.randrange(min(600, len(content)))] = rng.randrange(256)
    return bytes(content)


def _cut(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content[: rng.randrange(1, len(content))])


def _empty_part(content: bytearray, rng: random.Random) -> bytes:
    begin, size = rng.randrange(len(content)), rng.randrange(1, 2000)
    content[begin : begin + size] = bytes(len(content[begin : begin + size]))
    return bytes(content)


def _insert(content: bytearray, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return bytes(content[:place]) + rng.randbytes(rng.randrange(1, 500)) + bytes(content[place:])


def _double(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content) * 2


def _set_lengths(content: bytearray, rng: random.Random) -> bytes:
    """Write huge numbers where lengths or counts may stand."""
    for _ in range(rng.randrange(1, 4)):
        number = rng.choice(
            [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80" + bytes(7), b"\xff" * 8, bytes(4)]
        )
        place = 4 * rng.randrange(max(1, len(content) // 4 - 2))
        place = rng.choice([place, 4 * rng.randrange(64)])
        content[place : place + len(number)] = number
    return bytes(content)


def _set_sizes(content: bytearray, rng: random.Random) -> bytes:
    """Claim huge frames wherever the true size stands."""
    large = rng.choice([16384, 65535, 30000, 8192])
    if rng.random() < 0.5 and content[:3] == b"GIF":  # only the canvas: a bomb of few bytes
        return bytes(content[:6]) + large.to_bytes(2, "little") * 2 + bytes(content[10:])
    if rng.random() < 0.5 and content[12:16] == b"VP8X":
        return bytes(content[:24]) + (large - 1).to_bytes(3, "little") * 2 + bytes(content[30:])
    for order, size in (("big", 2), ("little", 2), ("big", 4), ("little", 4)):
        for side in (168, 112, 167, 111):
            fake = (large - (side % 2)).to_bytes(size, order)
            content = content.replace(side.to_bytes(size, order), fake)
    return bytes(content)


MUTATIONS: dict[str, Mutation] = {
    "4 bytes changed": _damage,
    "head changed": _damage_head,
    "cut short": _cut,
    "a part empty": _empty_part,
    "bytes put in": _insert,
    "twice in one file": _double,
    "false lengths": _set_lengths,
    "false sizes": _set_sizes,
}


def make_playlists(bait: str) -> dict[str, bytes]:
    """Write files that name another one."""
    raw = bait.encode()
    return {
        "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n" + raw + b"\n#EXT-X-ENDLIST\n",
        "key": b'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="' + raw + b'"\n#EXTINF:9,\n' + raw,
        "concat": b"ffconcat version 1.0\nfile '" + raw + b"'\n",
        "dash": b'<?xml version="1.0"?><MPD><Period><AdaptationSet mimeType="video/mp4">'
        b"<Representation><BaseURL>"
        + raw
        + b"</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="' + raw + b'"/></svg>',
        "asx": b'<asx version="3.0"><entry><ref href="' + raw + b'"/></entry></asx>',
        "smil": b"rtsptext" + raw,
        "m3u": b"#EXTM3U\r\n" + raw + b"\r\n",
        "text": raw,
        "html": b'<html><meta http-equiv="refresh" content="0;url=' + raw + b'"></html>',
    }


def point_mp4(content: bytes, bait: str) -> bytes:
    """Let an mp4 say that its frames lie in another file (a data reference that is not its own)."""
    text = bait.encode() + b"\0"
    entry = (12 + len(text)).to_bytes(4, "big") + b"url " + bytes(4) + text
    place = content.index(b"url \0\0\0\1") - 4
    moved = bytearray(content[:place] + entry + content[place + 12 :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = moved.rindex(name, 0, place) - 4
        size = int.from_bytes(moved[start : start + 4], "big") + len(entry) - 12
        moved[start : start + 4] = size.to_bytes(4, "big")
    return bytes(moved)


SUFFIXES = (".mp4", ".mkv", ".m3u8", ".ts", ".avi", ".webm", ".gif", ".webp", ".mov", "")
NAMES = (
    "concat:a.mp4|b.mp4", "http:x.mp4", "-i", "%03d.mp4", "file:x.mp4", "pipe:0", "data:,x",
    "a\nb.mp4",
    "subfile,,start,0,end,0,,:x.mp4", "\x1b[2J.mp4", "é" * 80, "a?b#c.mp4", "async:cache:x.mp4",
)  # fmt: skip


class Film(NamedTuple):
    """A hostile film on disk."""

    kind: str
    path: str
    base: str = ""
    """The whole film that it was made from; empty: it can only be refused."""


def make_film(seed: int, number: int, folder: Path, bases: Path, baits: list[str]) -> Film:
    """Write a case; the same for the same two numbers."""
    rng, group = random.Random(f"{seed}/{number}"), number % 10
    name = list(BASES)[number // 10 % len(BASES)]
    content = (bases / name).read_bytes()
    codec = name.split(".")[0]
    if group < len(MUTATIONS):
        what = list(MUTATIONS)[group]
        path = folder / f"film{number}{Path(name).suffix}"
        path.write_bytes(MUTATIONS[what](bytearray(content), rng))
        return Film(f"{what}|{codec}", str(path), str(bases / name))
    bait = rng.choice(baits)
    if group == 8:
        if rng.random() < 0.25:
            path = folder / f"film{number}{rng.choice(['.mp4', '.mov'])}"
            path.write_bytes(point_mp4((bases / "h264.mp4").read_bytes(), bait))
            return Film("names another file", str(path), str(bases / "h264.mp4"))
        lists = make_playlists(bait)
        path = folder / f"film{number}{rng.choice(SUFFIXES)}"
        path.write_bytes(lists[rng.choice(list(lists))])
        return Film("names another file", str(path))
    return _make_odd(rng, number, folder, bases / name, rng.choice(baits[2:]))


def _make_odd(rng: random.Random, number: int, folder: Path, base: Path, link: str) -> Film:
    """Write a film under an odd name, or what is no film."""
    choice = rng.randrange(8)
    path = folder / f"film{number}.mp4"
    if choice < 3:
        own = folder / f"names{number}"
        own.mkdir()
        path = own / rng.choice(NAMES)
        path.write_bytes(base.read_bytes())
        return Film("odd name", str(path), str(base))
    if choice == 3:
        os.mkfifo(path)
    elif choice == 4:
        path.mkdir()
    elif choice == 5:
        path.symlink_to("/dev/zero")
    elif choice == 6:
        path.write_bytes(rng.randbytes(rng.randrange(200_000)))
    else:
        return Film("no film", rng.choice([f"{path}\0", "x" * 5000, link, "\udcff", str(path)]))
    return Film("no film", str(path))


class Reading(NamedTuple):
    """What the reader says of a film."""

    end: End
    detail: str
    seconds: float
    num_bytes: int
    has_differed: bool = False
    """Frames were shown that the whole film does not have there, without a note."""


def read_films(connection: Connection) -> None:
    """Read films for another process until it says None."""
    opened: list[str] = []
    sys.addaudithook(partial(_note_event, opened))
    right: dict[str, Any] = {}
    while (film := connection.recv()) is not None:
        opened.clear()
        Path("/proc/self/clear_refs").write_text("5")
        before, start = _read_memory("VmRSS"), time.perf_counter()
        end, detail, has_differed = _read_one(film, right)
        seconds = time.perf_counter() - start
        strange = [each for each in opened if not _is_own(each, film)]
        if strange:
            end, detail = End.WRONG, f"opened {strange[:3]}"
        num_bytes = max(0, _read_memory("VmHWM") - before)
        connection.send(Reading(end, detail, seconds, num_bytes, has_differed))


def _note_event(opened: list[str], event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        opened.append(str(arguments[0]))
    elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.exec"):
        opened.append(f"{event} {arguments!r}")


def _is_own(path: str, film: Film) -> bool:
    """True for the film, its base, and what the process itself needs."""
    needed = ("/proc/", sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/usr/lib")
    return path in (film.path, film.base) or path.startswith(needed) or path.isdigit()


def _read_one(film: Film, right: dict[str, Any]) -> tuple[End, str, bool]:
    try:
        video = read_candidate_frames(film.path, _PLAN, timeout_s=TIMEOUT_S)
    except VideoError as error:
        return End.HANDLED, str(error), False
    except Exception as error:  # the boundary of this program: any other exception is a finding
        return End.CRASHED, f"{type(error).__name__}: {error}", False
    if not film.base:
        return End.WRONG, "no film, and yet it was read", False
    if film.base not in right:
        right[film.base] = read_candidate_frames(film.base, _PLAN).frames
    whole = right[film.base]
    if video.notes:
        return End.HANDLED, f"read, with notes {video.notes}", False
    if video.frames.shape != whole.shape:
        return End.HANDLED, f"read as {video.frames.shape}", True
    difference = np.abs(video.frames.astype(int) - whole).mean((1, 2, 3)).max()
    return End.HANDLED, f"differs by {difference:.1f}", bool(difference > _MAX_DIFFERENCE)


def _read_memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise ValueError(f"the kernel does not tell {name}")


class Reader:
    """The process that reads; a new one after a hang or a crash."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=read_films, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def read(self, film: Film) -> Reading:
        self._connection.send(film)
        problem = f"a hang: no word for {HANG_S:g} s"
        try:
            if self._connection.poll(HANG_S):
                return self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(5)
            problem = f"the process died, status {self._process.exitcode}"
        self.close()
        self._start()
        return Reading(End.CRASHED, problem, HANG_S, 0)

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


class Baits:
    """Files and an address that nothing may touch."""

    _IN_OPEN, _NONBLOCK = 0x20, 0o4000

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        write_base(folder, "h264.mp4")
        (folder / "secret.txt").write_text("secret")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watch = self._libc.inotify_init1(self._NONBLOCK)
        mask = self._IN_OPEN
        if self._watch < 0 or self._libc.inotify_add_watch(self._watch, bytes(folder), mask) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        address = f"127.0.0.1:{self._server.getsockname()[1]}"
        files = [str(folder / "h264.mp4"), str(folder / "secret.txt")]
        links = [f"{scheme}://{address}/x.mp4" for scheme in ("http", "tcp", "rtmp", "rtsp", "ftp")]
        self.names = [*files, f"file://{files[0]}", f"concat:{files[0]}", *links]

    def list_visits(self) -> list[str]:
        """Return what was touched since the last call."""
        visits = []
        with suppress(BlockingIOError):
            visits.append(f"a bait was opened: {os.read(self._watch, 4096)!r:.80}")
        with suppress(BlockingIOError):
            self._server.accept()[0].close()
            visits.append("a bait's address was called")
        return visits

    def close(self) -> None:
        os.close(self._watch)
        self._server.close()


@contextmanager
def open_workshop() -> Iterator[tuple[Path, Baits, Reader]]:
    """Write the whole films and the baits, and start the reader."""
    os.environ.setdefault("SVT_LOG", "1")  # its encoder is loud
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "bases").mkdir()
        for name in BASES:
            write_base(folder / "bases", name)
        baits = Baits(folder / "baits")
        stack.callback(baits.close)
        reader = Reader()
        stack.callback(reader.close)
        yield folder, baits, reader


def run(seed: int, first: int, count: int) -> Iterator[Outcome]:
    """Write and read films one by one."""
    with open_workshop() as (folder, baits, reader):
        for name in BASES:  # whole films are read whole; the reader's first use of each library
            reader.read(Film("whole", str(folder / "bases" / name), str(folder / "bases" / name)))
        for number in range(first, first + count):
            with tempfile.TemporaryDirectory(dir=folder) as own:
                film = make_film(seed, number, Path(own), folder / "bases", baits.names)
                baits.list_visits()
                reading = reader.read(film)
                visits = baits.list_visits()
            yield judge(film, reading, visits, f"--seed {seed}, case {number}")


def judge(film: Film, reading: Reading, visits: list[str], where: str) -> Outcome:
    """Turn what was seen of a film into an outcome."""
    kind, _, codec = film.kind.partition("|")
    end, detail = reading.end, reading.detail
    if visits:
        end, detail = End.WRONG, "; ".join(visits)
    elif reading.num_bytes > MAX_BYTES:
        end, detail = End.CRASHED, f"{reading.num_bytes / 1e6:.0f} MB"
    elif reading.has_differed and end is End.HANDLED and kind != "twice in one file":
        end, kind = End.WRONG, f"{KNOWN}damage that the decoder of {codec} does not see"
    return Outcome(kind, end, f"{where}, {codec}: {detail}", 1, reading.seconds, reading.num_bytes)


TRIAL = Trial("films", run, chunk=250, default_count=3000, short_count=100)
