"Fetching from a real server, unpacking what may be hostile, adding one's own: wholly or not at all, and in one line when not."
import bz2, gzip, hashlib, io, json, lzma, os, shutil, socket, stat, struct, sys, tarfile, threading, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from catscans.core.basics import UserError
from catscans.datasets import added
from catscans.datasets import archives
from catscans.datasets import cards
from catscans.datasets import catalogue
from catscans.datasets import fetch
from catscans.datasets.fetch import FetchError
from catscans.datasets import layouts
from catscans.datasets.archives import size_text
from catscans.datasets.loading import load
from catscans.datasets.store import copies
from catscans.recommend.ranking import load_target
from catscans.study.cli import main

RNG = np.random.default_rng(0)
BODY = RNG.integers(0, 256, 300_000, np.uint8).tobytes()
sha = lambda b: hashlib.sha256(b).hexdigest()
md5 = lambda b: hashlib.md5(b).hexdigest()


# ---------------------------------------------------------------- a server on this machine

class Server:
    "Serves `files`; what goes wrong with a path stands in `faults[path]`, one per connection."
    def __init__(self):
        self.files, self.faults, self.log, self.etags, self.ranges = {}, {}, [], {}, True
        outer = self
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self): outer.answer(self)
            def log_message(self, *_): pass
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(.01,), daemon=True).start()

    def answer(self, h):
        asked = h.headers.get("Range"); path = h.path.strip("/")
        self.log.append((path, asked))
        fault = (self.faults.get(path) or [None]).pop(0) or {}
        if "reset" in fault:
            h.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); h.connection.close(); return
        if "status" in fault:
            h.send_response(fault["status"])
            for k, v in fault.get("headers", {}).items(): h.send_header(k, v)
            h.send_header("Content-Length", "0"); h.end_headers(); return
        if path not in self.files: h.send_response(404); h.send_header("Content-Length", "0"); h.end_headers(); return
        body, etag, first = self.files[path], self.etags.get(path, '"one"'), 0
        if asked and self.ranges and h.headers.get("If-Range", etag) == etag:
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            if first >= len(body): h.send_response(416); h.send_header("Content-Range", f"bytes */{len(body)}"); h.send_header("Content-Length", "0"); h.end_headers(); return
        h.send_response(206 if first else 200)
        if etag: h.send_header("ETag", etag)
        if first: h.send_header("Content-Range", f"bytes {first + fault.get('shift', 0)}-{len(body)-1}/{len(body)}")
        if not fault.get("silent"): h.send_header("Content-Length", str(len(body) - first))
        h.end_headers()
        h.wfile.write(body[first:fault.get("cut")]); h.wfile.flush()
        if "stall" in fault: fault["stall"].wait(60)
        if "cut" in fault: h.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server():
    s = Server()
    yield s
    s.http.shutdown(); s.http.server_close()


@pytest.fixture
def waits(): return []


@pytest.fixture
def kw(waits): return dict(sleep=waits.append, progress=False)


def file(name, *urls, **facts): return SimpleNamespace(**(dict(name=name, urls=urls, bytes=None, md5="", sha256="", login=False, note="", member=False) | facts))
def tree(folder): return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*"))


def test_a_cut_connection_goes_on_where_it_stopped(server, tmp_path, kw, waits):
    server.files["x.bin"], server.faults["x.bin"] = BODY, [dict(cut=100_000), dict(cut=250_000)]
    p = fetch.fetch(file("x.bin", f"{server.url}/x.bin", sha256=sha(BODY), bytes=len(BODY)), tmp_path, **kw)
    assert p.read_bytes() == BODY
    assert server.log == [("x.bin", None), ("x.bin", "bytes=100000-"), ("x.bin", "bytes=250000-")]
    assert waits == [1, 1]                                  # a try that brought something is not counted against it
    assert tree(tmp_path) == ["fetched.json", "x.bin"]


def test_another_call_goes_on_too(server, tmp_path, kw):
    server.files["x.bin"], server.faults["x.bin"] = BODY, [dict(cut=100_000)] + [dict(status=503)]*3
    f = file("x.bin", f"{server.url}/x.bin")
    with pytest.raises(FetchError, match="HTTP 503"): fetch.fetch(f, tmp_path, **kw)
    assert (tmp_path/"x.bin.part").stat().st_size == 100_000
    server.log.clear()
    assert fetch.fetch(f, tmp_path, **kw).read_bytes() == BODY
    assert server.log == [("x.bin", "bytes=100000-")] and tree(tmp_path) == ["fetched.json", "x.bin"]


def test_a_server_that_cannot_continue_starts_again(server, tmp_path, kw):
    server.files["x.bin"], server.faults["x.bin"], server.ranges = BODY, [dict(cut=100_000)], False
    assert fetch.fetch(file("x.bin", f"{server.url}/x.bin", md5=md5(BODY)), tmp_path, **kw).read_bytes() == BODY
    assert server.log == [("x.bin", None), ("x.bin", "bytes=100000-")]


def test_a_server_that_always_cuts_at_the_same_place_is_given_up(server, tmp_path, kw):
    server.files["x.bin"], server.faults["x.bin"], server.ranges = BODY, [dict(cut=100_000)]*50, False
    with pytest.raises(FetchError, match="cut|tried 4 times"): fetch.fetch(file("x.bin", f"{server.url}/x.bin"), tmp_path, **kw)
    assert len(server.log) < 10


def test_what_changed_at_the_server_meanwhile_is_not_glued_together(server, tmp_path, kw):
    server.files["x.bin"], server.faults["x.bin"] = BODY, [dict(cut=100_000)] + [dict(status=503)]*3
    f = file("x.bin", f"{server.url}/x.bin")
    with pytest.raises(FetchError): fetch.fetch(f, tmp_path, **kw)
    server.files["x.bin"], server.etags["x.bin"] = BODY[::-1], '"two"'
    assert fetch.fetch(f, tmp_path, **kw).read_bytes() == BODY[::-1]


def test_without_checksum_and_validator_it_starts_again(server, tmp_path, kw):
    server.files["x.bin"], server.etags["x.bin"], server.faults["x.bin"] = BODY, "", [dict(cut=100_000)]
    assert fetch.fetch(file("x.bin", f"{server.url}/x.bin"), tmp_path, **kw).read_bytes() == BODY
    assert server.log == [("x.bin", None)]*2


def test_going_on_at_a_wrong_place_starts_again(server, tmp_path, kw):
    server.files["x.bin"], server.faults["x.bin"] = BODY, [dict(cut=100_000), dict(shift=7)]
    assert fetch.fetch(file("x.bin", f"{server.url}/x.bin"), tmp_path, **kw).read_bytes() == BODY
    assert [r for _, r in server.log] == [None, "bytes=100000-", None]


def test_a_killed_process_is_carried_on(server, tmp_path, kw):
    import signal, subprocess, time
    body = BODY*10; go_on = threading.Event()
    server.files["x.bin"], server.faults["x.bin"] = body, [dict(cut=2_000_000, stall=go_on)]
    code = ("import sys; from types import SimpleNamespace as N; from catscans.datasets import fetch\n"
            "fetch.get(N(name='x', files=[N(name='x.bin', urls=(sys.argv[1],), bytes=None, md5='', sha256='', login=False)]), sys.argv[2])")
    p = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/x.bin", str(tmp_path)], stderr=subprocess.DEVNULL)
    part, until = tmp_path/"x"/"x.bin.part", time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 1_000_000) and time.monotonic() < until: time.sleep(.02)
    p.send_signal(signal.SIGKILL); p.wait(); go_on.set()
    had = part.stat().st_size
    assert had > 1_000_000 and any(n.startswith("x/.incoming-") for n in tree(tmp_path))
    fetch.get(SimpleNamespace(name="x", files=[file("x.bin", f"{server.url}/x.bin")]), tmp_path, **kw)
    assert server.log == [("x.bin", None), ("x.bin", f"bytes={had}-")] and (tmp_path/"x"/"x.bin").read_bytes() == body
    assert tree(tmp_path) == ["x", "x/fetched.json", "x/x.bin"]


@pytest.mark.parametrize("part", [BODY[:1000][::-1], BODY + b"more", BODY])
def test_a_part_that_is_wrong_is_fetched_once_more_from_the_first_byte(server, tmp_path, kw, part):
    server.files["x.bin"] = BODY
    (tmp_path/"x.bin.part").write_bytes(part)
    assert fetch.fetch(file("x.bin", f"{server.url}/x.bin", sha256=sha(BODY)), tmp_path, **kw).read_bytes() == BODY
    assert server.log[-1] == ("x.bin", None) and len(server.log) == 2 and tree(tmp_path) == ["fetched.json", "x.bin"]


def test_a_wrong_checksum_falls_to_the_mirror(server, tmp_path, kw):
    server.files |= {"a/x.bin": BODY[::-1], "b/x.bin": BODY}
    f = file("x.bin", f"{server.url}/a/x.bin", f"{server.url}/b/x.bin", sha256=sha(BODY), md5=md5(BODY))
    assert fetch.fetch(f, tmp_path, **kw).read_bytes() == BODY
    assert [p for p, _ in server.log] == ["a/x.bin", "b/x.bin"]
    assert json.loads((tmp_path/"fetched.json").read_text())["x.bin"].items() >= dict(checksum=f"sha256:{sha(BODY)}", published=True, url=f.urls[1]).items()


@pytest.mark.parametrize("alg", [md5, sha])
def test_a_wrong_checksum_everywhere_names_both_sums(server, tmp_path, kw, alg):
    server.files |= {"a/x.bin": BODY[::-1], "b/x.bin": BODY[1:]}
    f = file("x.bin", f"{server.url}/a/x.bin", f"{server.url}/b/x.bin", **{"md5" if alg is md5 else "sha256": alg(BODY)})
    with pytest.raises(FetchError) as e: fetch.fetch(f, tmp_path, **kw)
    for s in (alg(BODY), alg(BODY[::-1]), alg(BODY[1:]), "a/x.bin", "b/x.bin"): assert s in str(e.value)
    assert tree(tmp_path) == [] and len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize("fault", [dict(status=503), dict(status=429, headers={"Retry-After": "7"}), dict(status=500), dict(status=502), dict(reset=True),
                                   dict(status=503, headers={"Retry-After": "99999"}), dict(status=503, headers={"Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT"})])
def test_a_busy_server_is_asked_again(server, tmp_path, kw, waits, fault):
    server.files["x.bin"], server.faults["x.bin"] = BODY, [fault, fault]
    assert fetch.fetch(file("x.bin", f"{server.url}/x.bin"), tmp_path, **kw).read_bytes() == BODY
    said = fault.get("headers", {}).get("Retry-After")
    assert waits == ([7, 7] if said == "7" else [60, 60] if said == "99999" else [1, 2]) and len(server.log) == 3


def test_a_server_that_stays_busy_is_left_for_the_mirror(server, tmp_path, kw, waits):
    server.files |= {"a/x.bin": BODY, "b/x.bin": BODY}; server.faults["a/x.bin"] = [dict(status=503)]*9
    fetch.fetch(file("x.bin", f"{server.url}/a/x.bin", f"{server.url}/b/x.bin"), tmp_path, **kw)
    assert [p for p, _ in server.log] == ["a/x.bin"]*4 + ["b/x.bin"] and waits == [1, 2, 4]


def test_a_part_from_one_mirror_is_not_continued_from_another_unless_a_checksum_tells(server, tmp_path, kw):
    for name, known in (("x.bin", {}), ("y.bin", dict(sha256=sha(BODY)))):
        server.files |= {f"a/{name}": BODY, f"b/{name}": BODY}; server.faults[f"a/{name}"] = [dict(cut=100_000)] + [dict(status=503)]*3
        fetch.fetch(file(name, f"{server.url}/a/{name}", f"{server.url}/b/{name}", **known), tmp_path, **kw)
        assert (tmp_path/name).read_bytes() == BODY
    assert ("b/x.bin", None) in server.log and ("b/y.bin", "bytes=100000-") in server.log


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_not_asked_for_twice(server, tmp_path, kw, status):
    server.files["b/x.bin"] = BODY; server.faults["a/x.bin"] = [dict(status=status)]*9
    with pytest.raises(FetchError, match=f"HTTP {status}"): fetch.fetch(file("x.bin", f"{server.url}/a/x.bin"), tmp_path, **kw)
    fetch.fetch(file("x.bin", f"{server.url}/a/x.bin", f"{server.url}/b/x.bin"), tmp_path, **kw)
    assert [p for p, _ in server.log] == ["a/x.bin", "a/x.bin", "b/x.bin"]


@pytest.mark.parametrize("silent", [False, True])
def test_a_short_file_is_refused(server, tmp_path, kw, silent):
    server.files["x.bin"] = BODY; server.faults["x.bin"] = [dict(silent=silent)]*9
    with pytest.raises(FetchError, match="300,000.*300,001"): fetch.fetch(file("x.bin", f"{server.url}/x.bin", bytes=300_001), tmp_path, **kw)
    assert tree(tmp_path) == [] and len(server.log) == 1


@pytest.mark.parametrize("name,body", [("x.zip", b"<!doctype html><p>please log in"), ("x.npz", b"busy"), ("x.tar.gz", b""), ("x.h5", b"\0"*900), ("x.csv", b"<html>")])
def test_an_error_page_is_not_recorded_as_the_file(server, tmp_path, kw, name, body):
    server.files[name] = body
    with pytest.raises(FetchError, match=f"instead of {name}"): fetch.fetch(file(name, f"{server.url}/{name}"), tmp_path, **kw)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.bin", "http://nowhere.invalid/x.bin", "ftp://127.0.0.1/x.bin", "nonsense", "http://[/x.bin"])
def test_no_server_at_all(tmp_path, kw, url):
    with pytest.raises(FetchError) as e: fetch.fetch(file("x.bin", url), tmp_path, **kw)
    assert len(str(e.value).splitlines()) == 1 and tree(tmp_path) == []


def test_a_full_disk_is_seen_before(server, tmp_path, kw, monkeypatch):
    server.files["x.zip"] = BODY
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(total=10**12, used=10**12, free=200_000))
    with pytest.raises(UserError, match="set CATSCANS_DATA to another disk"):
        fetch.get(SimpleNamespace(name="x", files=[file("x.zip", f"{server.url}/x.zip", bytes=len(BODY))]), tmp_path, **kw)
    assert server.log == [] and tree(tmp_path) == []
    with pytest.raises(UserError, match="300 kB are still to come, 200 kB are free"):                       # how much it is, only the server knows
        fetch.get(SimpleNamespace(name="x", files=[file("x.zip", f"{server.url}/x.zip")]), tmp_path, **kw)
    assert tree(tmp_path) == []


def test_room_is_needed_for_what_it_unpacks_to(server, tmp_path, kw, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(total=10**12, used=10**12, free=500_000))
    f = file("x.zip", f"{server.url}/x.zip", bytes=len(BODY))
    with pytest.raises(UserError, match="are needed"): fetch.wanted(SimpleNamespace(name="x", files=[f]), tmp_path)
    assert fetch.wanted(SimpleNamespace(name="x", files=[f]), tmp_path, unpack=False)[2] == [f]


def test_the_disk_fills_while_unpacking(tmp_path, monkeypatch):
    (tmp_path/"a.zip").write_bytes(zipped({"x": BODY}))
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(total=10**12, used=10**12, free=200_000))
    with pytest.raises(UserError, match="does not fit on the disk"): archives.extract(tmp_path/"a.zip", tmp_path/"out")
    assert tree(tmp_path) == ["a.zip"]


def test_what_was_recorded_first_counts_from_then_on(server, tmp_path, kw):
    server.files["x.bin"] = BODY
    f = file("x.bin", f"{server.url}/x.bin")
    fetch.fetch(f, tmp_path, **kw)
    assert fetch.manifest(tmp_path)["x.bin"].items() >= dict(checksum=f"sha256:{sha(BODY)}", published=False, bytes=len(BODY)).items()
    fetch.fetch(f, tmp_path, **kw)
    assert len(server.log) == 1                                                                              # there and right: not fetched again
    (tmp_path/"x.bin").write_bytes(BODY[::-1]); said = []
    assert fetch.fetch(f, tmp_path, said.append, **kw).read_bytes() == BODY                                  # there and wrong: fetched again
    assert sha(BODY[::-1]) in said[0] and sha(BODY) in said[0]
    server.files["x.bin"] = BODY[::-1]; (tmp_path/"x.bin").unlink()
    with pytest.raises(FetchError) as e: fetch.fetch(f, tmp_path, **kw)
    assert sha(BODY) in str(e.value) and sha(BODY[::-1]) in str(e.value) and "delete its entry" in str(e.value)
    assert tree(tmp_path) == ["fetched.json"]


def test_a_wrong_file_stays_until_a_right_one_has_come(server, tmp_path, kw):
    (tmp_path/"x.bin").write_bytes(b"mine")
    with pytest.raises(FetchError): fetch.fetch(file("x.bin", f"{server.url}/x.bin", sha256=sha(BODY)), tmp_path, **kw)
    assert (tmp_path/"x.bin").read_bytes() == b"mine"


@pytest.mark.parametrize("text", ["{", "[]", "", '{"x.bin": 3}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path/"fetched.json").write_text(text)
    with pytest.raises(UserError, match="fetched.json"): fetch.fetch(file("x.bin", "http://127.0.0.1:9/"), tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "a\\..\\..\\x", "x.part", "fetched.json", "a/../b"])
def test_a_card_cannot_name_a_file_outside(tmp_path, name):
    with pytest.raises(UserError, match="file "): fetch.fetch(file(name, "http://127.0.0.1:9/"), tmp_path)


def test_an_interruption_keeps_what_has_come(server, tmp_path):
    server.files["x.bin"], server.faults["x.bin"] = BODY, [dict(cut=100_000)]
    def interrupt(seconds): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fetch.fetch(file("x.bin", f"{server.url}/x.bin"), tmp_path, sleep=interrupt, progress=False)
    assert tree(tmp_path) == ["x.bin.part", "x.bin.part.json"] and (tmp_path/"x.bin.part").read_bytes() == BODY[:100_000]


# ---------------------------------------------------------------- archives

def zipped(files, **kw):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kw.get("how", zipfile.ZIP_DEFLATED)) as z:
        for n, b in files.items(): z.writestr(n, b)
    return out.getvalue()


def tarred(files, mode="w", format=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=format) as t:
        for n, b in files.items():
            i = n if isinstance(n, tarfile.TarInfo) else tarfile.TarInfo(n)
            if isinstance(b, bytes): i.size = len(b); t.addfile(i, io.BytesIO(b))
            else: t.addfile(i)
    return out.getvalue()


def special(name, kind, target="", **more):
    i = tarfile.TarInfo(name); i.type, i.linkname = kind, target
    for k, v in more.items(): setattr(i, k, v)
    return {i: None}


def zip_mode(name, mode, content=b"x"):
    i = zipfile.ZipInfo(name); i.create_system, i.external_attr = 3, mode << 16
    return zipped({i: content})


def encrypted():
    b = bytearray(zipped({"a.txt": b"secret"})); b[6] |= 1; b[b.index(b"PK\1\2") + 8] |= 1
    return bytes(b)


def method(n):
    b = bytearray(zipped({"a.txt": b"secret"*9})); at = b.index(b"PK\1\2")
    b[8:10] = b[at+10:at+12] = struct.pack("<H", n)
    return bytes(b)


def swapped(b, at, n=8): return b[:at] + bytes(255 - c for c in b[at:at+n]) + b[at+n:]
def image(seed=0, mode="png"): out = io.BytesIO(); Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 10, 3), np.uint8)).save(out, mode); return out.getvalue()


PETS = {f"pets/{c}/{i}.png": image(i + 9*(c == "dog")) for c in ("cat", "dog") for i in range(4)}
ZIP, TAR, GZ, XZ, BZ = zipped(PETS), tarred(PETS), tarred(PETS, "w:gz"), tarred(PETS, "w:xz"), tarred(PETS, "w:bz2")
H5 = gzip.compress(BODY)
LONG = "d/"*20 + "x"


def _negative():
    "a tar member whose size is below zero: leads an unguarded reader round in circles"
    b = bytearray(tarred({"a": b"x"*600})); b[124:136] = b"\xff"*4 + struct.pack(">q", -1024)
    b[148:156] = b" "*8; b[148:156] = b"%06o\0 " % sum(b[:512])
    return bytes(b)


def _pax_bomb():
    "a header that claims to be longer than any memory"
    i = tarfile.TarInfo("p"); i.type, i.size = tarfile.XHDTYPE, 1 << 40
    return i.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)


def _sparse():
    i = tarfile.TarInfo("s"); i.type = tarfile.GNUTYPE_SPARSE
    b = bytearray(i.tobuf(tarfile.GNU_FORMAT)); b[483:495] = b"%011o\0" % (1 << 33)
    b[148:156] = b" "*8; b[148:156] = b"%06o\0 " % sum(b[:512])
    return bytes(b) + bytes(1024)


HOSTILE = {
    # out of the folder
    **{f"{kind} {what}": (f"a.{kind}", make({name: b"x", **PETS}), why) for kind, make in (("zip", zipped), ("tar", tarred), ("tar.gz", lambda f: tarred(f, "w:gz")))
       for what, name, why in (("dot-dot", "../x", "leads out"), ("deep dot-dot", "a/b/../../../x", "leads out"), ("absolute", "/etc/x", "absolute"), ("backslash", "..\\..\\x", "leads out"),
                               ("drive", "C:\\x", "absolute"), ("newline", "a\nb.png", "plain text"), ("endless name", "x"*300, "too long"))},
    "tar links out": ("a.tar", tarred({**special("pets/l", tarfile.SYMTYPE, "/etc"), "pets/l/x": b"x"}), "it is a link"),
    "tar links up": ("a.tar", tarred(special("pets/l", tarfile.SYMTYPE, "../..")), "it is a link"),
    "tar links inside": ("a.tar", tarred({**PETS, **special("pets/l", tarfile.SYMTYPE, "cat/0.png")}), "it is a link"),
    "tar hard link": ("a.tar", tarred({**PETS, **special("pets/h", tarfile.LNKTYPE, "pets/cat/0.png")}), "it is a link"),
    "tar hard link out": ("a.tar.gz", tarred(special("h", tarfile.LNKTYPE, "/etc/passwd"), "w:gz"), "it is a link"),
    "tar character device": ("a.tar", tarred(special("null", tarfile.CHRTYPE, devmajor=1, devminor=3)), "it is a device"),
    "tar block device": ("a.tar", tarred(special("sda", tarfile.BLKTYPE, devmajor=8)), "it is a device"),
    "tar pipe": ("a.tar", tarred(special("pipe", tarfile.FIFOTYPE)), "it is a device"),
    "tar sparse": ("a.tar", _sparse(), "a sparse file"),
    "zip link": ("a.zip", zip_mode("l", stat.S_IFLNK | 0o777, b"/etc/passwd"), "it is a link"),
    "zip device": ("a.zip", zip_mode("d", stat.S_IFCHR | 0o666), "it is a device"),
    "zip pipe": ("a.zip", zip_mode("p", stat.S_IFIFO | 0o666), "it is a device"),
    "zip socket": ("a.zip", zip_mode("s", stat.S_IFSOCK | 0o666), "it is a device"),
    "zip with a password": ("a.zip", encrypted(), "encrypted"),
    # too much
    "zip bomb": ("a.zip", lambda: zipped({"zeros": bytes(66 << 20)}), "may hold"),
    "zip of many": ("a.zip", lambda: zipped({f"{i}": bytes(9 << 20) for i in range(9)}), "may hold"),
    "tar.gz bomb": ("a.tar.gz", lambda: tarred({"zeros": bytes(66 << 20)}, "w:gz"), "may hold"),
    "tar.xz bomb": ("a.tar.xz", lambda: tarred({"zeros": bytes(66 << 20)}, "w:xz"), "may hold"),
    "gz bomb": ("a.h5.gz", lambda: gzip.compress(b"x"*(66 << 20)), "may hold"),
    "bz2 bomb": ("a.bz2", lambda: bz2.compress(b"x"*(66 << 20)), "may hold"),
    "tar header of 1 TB": ("a.tar", _pax_bomb(), "damaged"),
    "tar size below zero": ("a.tar", _negative(), "damaged"),
    "tar claims more than it has": ("a.tar", tarred({"a": b"x"*600}).replace(b"%011o" % 600, b"%011o" % (1 << 32)), "of no known kind"),
    # one name for two
    "zip case": ("a.zip", zipped({"A.png": b"1", "a.png": b"2"}), "case of letters"),
    "tar folders by case": ("a.tar", tarred({"Cat/1.png": b"1", "cat/2.png": b"2"}), "case of letters"),
    "tar accents": ("a.tar", tarred({"\u00e9.png": b"1", "e\u0301.png": b"2"}), "case of letters"),
    "tar twice": ("a.tar", tarred({tarfile.TarInfo("a.png"): b"1", tarfile.TarInfo("./a.png"): b"2"}), "twice"),
    "tar file and folder": ("a.tar", tarred({"a": b"1", "a/b": b"2"}), "twice"),
    "tar folder and file": ("a.tar", tarred({"a/b": b"1", "a": b"2"}), "twice"),
    # damaged
    **{f"{name} cut at {share}": (f"a.{name}", b[:int(len(b)*share)], "of no known kind" if (name, share) == ("tar", .05) else "is damaged at") for name, b in (("zip", ZIP), ("tar", TAR.rstrip(b"\0")), ("tar.gz", GZ), ("tar.xz", XZ), ("tar.bz2", BZ), ("h5.gz", H5))
       for share in (.05, .3, .6, .95)},
    "tar without its end": ("a.tar", TAR[:-10240] if TAR.endswith(bytes(10240)) else TAR.rstrip(b"\0") + b"\0", "damaged"),
    "tar.gz without its last bytes": ("a.tar.gz", GZ[:-4], "damaged"),
    **{f"{name} swapped at {at}": (f"a.{name}", swapped(b, at), "of no known kind" if name == "tar" and at < 512 else "is damaged at") for name, b, ats in (("zip", ZIP, (60, 700, len(ZIP)-400, len(ZIP)-10)), ("tar", TAR, (0, 100, 1024, 148)), ("tar.gz", GZ, (60, 700, len(GZ)-6)),
       ("tar.xz", XZ, (60, 700, len(XZ)-20)), ("tar.bz2", BZ, (60, 700)), ("h5.gz", H5, (60, 70_000, len(H5)-6))) for at in ats},
    "tar with a damaged second header": ("a.tar", swapped(TAR, TAR.index(b"pets/cat/1.png") + 100, 20), "damaged"),
    "zip of an unknown method": ("a.zip", method(77), "is damaged at a.txt"),
    "gz with garbage behind": ("a.h5.gz", H5 + b"garbage", "damaged"),
    # not what it is called
    "empty": ("a.zip", b"", "not an archive"),
    "zip without members": ("a.zip", zipped({}), "holds no file"),
    "tar without members": ("a.tar", tarred({}), "holds no file"),
    "tar of folders only": ("a.tar", tarred(special("a", tarfile.DIRTYPE)), "holds no file"),
    "web page": ("a.tar.gz", b"<html><body>login</body></html>", "a web page"),
    "picture": ("a.zip", image(), "not an archive"),
    "text": ("a.zip", b"path,class\na.png,cat\n", "a table"),
    "noise": ("a.tar", RNG.integers(0, 256, 4096, np.uint8).tobytes(), "not an archive"),
    "hdf5": ("a.zip", b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file"),
    "rar": ("a.rar", b"Rar!\x1a\x07\x01\0" + bytes(600), "not an archive"),
}


def test_there_are_enough_of_them(): assert len(HOSTILE) >= 100 and all(why for *_, why in HOSTILE.values())


@pytest.fixture
def lands(tmp_path, monkeypatch):
    "a folder for data, one for stores, one of the user"
    for d in ("data", "mine"): (tmp_path/d).mkdir()
    monkeypatch.setenv("CATSCANS_DATA", str(tmp_path/"data")); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    return tmp_path


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_or_damaged_archive_leaves_nothing(lands, case, capsys):
    name, content, why = HOSTILE[case]
    (lands/"mine"/name).write_bytes(content() if callable(content) else content)          # bombs are made when needed
    before = tree(lands)
    with pytest.raises(UserError) as e: archives.extract(lands/"mine"/name, lands/"data"/"new")
    said = str(e.value)
    assert len(said.splitlines()) == 1 and name in said and why in said, said
    said.encode()                                                    # can be printed
    assert tree(lands) == before
    assert main(["data", "add", str(lands/"mine"/name), "--name", "new"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("catscans: error: ") and name in err, err
    assert tree(lands/"data") == [] and tree(lands/"mine") == [name]


@pytest.mark.parametrize("name,content", [("a.zip", ZIP), ("a.tar", TAR), ("a.tar.gz", GZ), ("a.tar.xz", XZ), ("a.tar.bz2", BZ), ("dtd.tar.gz", TAR), ("a.zip", GZ), ("a.tar", ZIP), ("archive", XZ)])
def test_a_sound_archive_whatever_its_name(tmp_path, name, content):
    (tmp_path/name).write_bytes(content)
    out = archives.extract(tmp_path/name, tmp_path/"deep"/"out")
    assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == PETS
    assert all(stat.S_IMODE(p.stat().st_mode) & 0o022 == 0 for p in out.rglob("*"))
    with pytest.raises(UserError, match="exists already"): archives.extract(tmp_path/name, out)


@pytest.mark.parametrize("packer,name", [(gzip, "x.h5.gz"), (bz2, "x.h5.bz2"), (lzma, "x.h5.xz")])
def test_a_single_packed_file(tmp_path, packer, name):
    (tmp_path/name).write_bytes(packer.compress(BODY))
    assert (archives.extract(tmp_path/name, tmp_path/"out")/"x.h5").read_bytes() == BODY


def test_what_a_mac_adds_is_left_out(tmp_path):
    (tmp_path/"a.zip").write_bytes(zipped({**PETS, "__MACOSX/pets/cat/._0.png": b"", "pets/.DS_Store": b"", "pets/cat/._1.png": b""}))
    assert [p for p in tree(archives.extract(tmp_path/"a.zip", tmp_path/"out")) if p.endswith(".png")] == sorted(PETS)


# ---------------------------------------------------------------- whole datasets

def card(server, **kinds): return SimpleNamespace(name="pets", licence="", files=[file(n, f"{server.url}/{n}", **f) for n, f in kinds.items()])


def test_get_unpacks_beside_the_archive_and_does_it_once(server, tmp_path, kw):
    server.files |= {"flat.zip": zipped({"1.tif": b"1", "2.tif": b"2"}), "top.tar.gz": GZ, "x.h5.gz": H5, "meta.csv": b"a,b\n", "m.npz": zipped({"x.npy": b"1"}),
                     "inner.zip": zipped({"n01/n01.tar": tarred({"1.JPEG": b"1"}), "n01/all.tar.gz": tarred({"all/2.JPEG": b"2"}, "w:gz")})}
    c = card(server, **{n: dict(sha256=sha(b)) for n, b in server.files.items()})
    folder = fetch.get(c, tmp_path, say=lambda s: None, **kw)
    files = [n for n in tree(folder) if (folder/n).is_file()]
    assert files == sorted([*server.files, "fetched.json", "flat/1.tif", "flat/2.tif", *PETS, "x.h5", "n01/n01/1.JPEG", "n01/all/2.JPEG"])
    asked = len(server.log); (folder/"top.tar.gz").unlink(); before = tree(folder)
    fetch.get(c, tmp_path, say=lambda s: None, **kw)                                  # an archive may be deleted when it is unpacked
    assert len(server.log) == asked and tree(folder) == before
    shutil.rmtree(folder/"pets")
    fetch.get(c, tmp_path, say=lambda s: None, **kw)                                  # neither there: fetched again
    assert server.log[asked:] == [("top.tar.gz", None)] and all((folder/n).read_bytes() == b for n, b in PETS.items())


def test_get_stops_at_a_hostile_archive(server, tmp_path, kw):
    server.files["a.zip"] = zipped({"../x": b"1"})
    with pytest.raises(UserError, match="leads out"): fetch.get(card(server, **{"a.zip": {}}), tmp_path, say=lambda s: None, **kw)
    assert tree(tmp_path) == ["pets", "pets/a.zip", "pets/fetched.json"]


def test_members_are_checked_where_their_checksum_is_known(server, tmp_path, kw):
    server.files["top.tar.gz"] = GZ
    c = card(server, **{"top.tar.gz": {}, "pets/cat/0.png": dict(urls=(), member=True, md5=md5(PETS["pets/cat/0.png"]))})
    folder = fetch.get(c, tmp_path, say=lambda s: None, **kw)
    (folder/"pets"/"cat"/"0.png").write_bytes(b"other")
    with pytest.raises(UserError, match="cat/0.png is not what it should be"): fetch.get(c, tmp_path, say=lambda s: None, **kw)


def test_two_at_once(server, tmp_path, kw):
    (tmp_path/"pets").mkdir(); c = card(server, **{"top.tar.gz": {}})
    with fetch.alone_in(tmp_path/"pets"), pytest.raises(UserError, match="another process is at work"): fetch.get(c, tmp_path, **kw)


def test_files_that_need_an_account(tmp_path, kw):
    c = SimpleNamespace(name="kimia", files=[file("k.zip", "https://example.org/k", login=True, bytes=4_200_000), file("k.csv", "https://example.org/k", login=True, md5=md5(b"a,b\n"))])
    with pytest.raises(UserError) as e: fetch.get(c, tmp_path, **kw)
    for s in ("k.zip (4.2 MB)", "k.csv", md5(b"a,b\n"), "https://example.org/k", f"{tmp_path}/kimia/"): assert s in str(e.value)
    assert tree(tmp_path) == []
    (tmp_path/"kimia").mkdir(); (tmp_path/"kimia"/"k.zip").write_bytes(ZIP); (tmp_path/"kimia"/"k.csv").write_bytes(b"a;b\n")
    with pytest.raises(UserError, match="put the right file there"): fetch.get(c, tmp_path, say=lambda s: None, **kw)
    (tmp_path/"kimia"/"k.csv").write_bytes(b"a,b\n")
    fetch.get(c, tmp_path, say=lambda s: None, **kw)
    assert (tmp_path/"kimia"/"pets"/"cat"/"0.png").exists() and fetch.manifest(tmp_path/"kimia")["k.zip"]["published"] is False


def test_a_damaged_file_put_there_by_hand_does_not_lock_the_right_one_out(tmp_path, kw):
    c = SimpleNamespace(name="kimia", licence="", files=[file("k.zip", "https://example.org/k", login=True)]); quiet = dict(say=lambda s: None, **kw)
    (tmp_path/"kimia").mkdir(); k = tmp_path/"kimia"/"k.zip"
    for content, why in ((ZIP[:-200], "damaged"), (b"no zip.", "received of no known kind; put the right file there"), (b"<html>log in</html>", "a web page")):
        k.write_bytes(content)
        with pytest.raises(UserError, match=why): fetch.get(c, tmp_path, **quiet)
        assert "k.zip" not in fetch.manifest(tmp_path/"kimia")
    k.write_bytes(ZIP); fetch.get(c, tmp_path, **quiet)
    assert (tmp_path/"kimia"/"pets"/"cat"/"0.png").exists() and fetch.manifest(tmp_path/"kimia")["k.zip"]["checksum"] == f"sha256:{sha(ZIP)}"
    k.write_bytes(zipped({"other/1.png": b"1"}))                             # another one later: refused, and the message says how it can be meant
    with pytest.raises(UserError, match="delete its entry in .*fetched.json"): fetch.get(c, tmp_path, **quiet)


def test_a_hand_put_error_page_in_place_of_an_open_file_is_fetched_again(server, tmp_path, kw):
    server.files["x.zip"] = ZIP; (tmp_path/"x.zip").write_bytes(b"<html>busy</html>")
    assert fetch.fetch(file("x.zip", f"{server.url}/x.zip"), tmp_path, **kw).read_bytes() == ZIP


def test_folders_where_files_belong(tmp_path, kw):
    c = lambda name: SimpleNamespace(name="dr", licence="", files=[file(name, "https://example.org", login=True)])
    (tmp_path/"dr"/"k.zip").mkdir(parents=True); (tmp_path/"dr"/"competition").mkdir()
    with pytest.raises(UserError, match="k.zip is a folder"): fetch.get(c("k.zip"), tmp_path, **kw)
    with pytest.raises(UserError, match="competition is empty"): fetch.get(c("competition"), tmp_path, **kw)
    (tmp_path/"dr"/"competition"/"1.png").write_bytes(image())
    assert fetch.get(c("competition"), tmp_path, **kw) == tmp_path/"dr"                # its owner offers no archive by a name: unpacked will do
    (tmp_path/"dtd").write_text("")
    with pytest.raises(UserError, match="dtd is a file"): fetch.get(SimpleNamespace(name="dtd", licence="", files=[file("x.zip", "http://127.0.0.1:9/x")]), tmp_path, **kw)


def test_an_alternative_that_is_there_is_taken_and_else_named(server, tmp_path, kw):
    other = dict(instead=("x.zip",), login=True)
    c = card(server, **{"x.zip": {}, "y.zip": dict(other, note="instead of x.zip: Kaggle"), "z.zip": dict(other, note="instead of x.zip: a third", urls=())})
    with pytest.raises(FetchError, match=r"or put y.zip \(Kaggle; http.*/y.zip\) into .*, or z.zip \(a third\) into "): fetch.get(c, tmp_path, say=lambda s: None, **kw)
    (tmp_path/"pets").mkdir(exist_ok=True); (tmp_path/"pets"/"y.zip").write_bytes(ZIP); server.log.clear()
    folder = fetch.get(c, tmp_path, say=lambda s: None, **kw)
    assert server.log == [] and (folder/"pets"/"cat"/"0.png").exists()
    (folder/"y.zip").unlink(); fetch.get(c, tmp_path, say=lambda s: None, **kw); assert server.log == []


def test_files_are_compared_with_their_checksums(tmp_path):
    (tmp_path/"a").write_bytes(BODY); (tmp_path/"m").write_bytes(b"1"); (tmp_path/"free").write_bytes(b"2")
    c = SimpleNamespace(name="pets", files=[file("a", "http://x.org/a", sha256=sha(BODY)), file("m", member=True, md5=md5(b"1")), file("free"), file("gone", md5=md5(b""))])
    assert fetch.check_files(c, tmp_path) == {"a": "sha256", "m": "md5"}
    for name, why in (("m", "get pets again"), ("a", "fetches it again")):
        (tmp_path/name).write_bytes(b"other")
        with pytest.raises(UserError, match=f"{name} is not what it should be.*{why}"): fetch.check_files(c, tmp_path)


def test_every_card_with_files_is_understood(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(free=1 << 50))
    for c in catalogue.CATALOGUE.values():
        for f in c.files: assert fetch._name_of(f) == f.name
        if not c.files: continue
        files = fetch.files_of(c)
        assert files and not any(f.member for f in files)
        if c.open: assert fetch.wanted(c, tmp_path)[2] == files and not any(f.login for f in files)
        else:
            with pytest.raises(UserError, match="an account is needed" if c.access == "login" else "nothing fetches it"): fetch.wanted(c, tmp_path)
    assert fetch.home_of(catalogue.DATASETS["pcam-small"], tmp_path) == fetch.home_of(catalogue.DATASETS["pcam-middle"], tmp_path) == tmp_path/"pcam"


# ---------------------------------------------------------------- one's own images

def fill(folder, files=PETS):
    for n, b in files.items(): (folder/n).parent.mkdir(parents=True, exist_ok=True); (folder/n).write_bytes(b)
    return folder


def npz(**more):
    out = io.BytesIO(); x = np.arange(6*9*9, dtype=np.uint8).reshape(6, 9, 9)
    np.savez(out, **(dict(train_images=x[:4], train_labels=np.array([[0], [1], [0], [1]]), test_images=x[4:], test_labels=np.array([[0], [1]])) | more))
    return out.getvalue()


ROWS = "path,class,patient\n" + "".join(f"{n},{n.split('/')[1]},p{i//2}\n" for i, n in enumerate(PETS))
FORMS = {"folder": ("pets", None), "labels.csv": ("pets", {"labels.csv": ROWS.replace("pets/", "").encode()}), "table.csv": ("table.csv", {"table.csv": ROWS.encode()}),
         "table.txt": ("table.txt", {"table.txt": ROWS.encode()}), "a.npz": ("a.npz", {"a.npz": npz()}), "npz.zip": ("npz.zip", {"npz.zip": npz()}), "a.zip": ("a.zip", {"a.zip": ZIP}),
         "a.tar": ("a.tar", {"a.tar": TAR}), "a.tgz": ("a.tgz", {"a.tgz": GZ}), "loose.zip": ("loose.zip", {"loose.zip": zipped({n.split("/", 1)[1]: b for n, b in PETS.items()})}),
         "npz in a zip": ("z.zip", {"z.zip": zipped({"set.npz": npz()})}), "packed npz": ("n.npz.gz", {"n.npz.gz": gzip.compress(npz())}),
         "zip with a table": ("t.zip", {"t.zip": zipped({"set/labels.csv": ROWS.replace("pets/", "").encode(), **{n.replace("pets/", "set/"): b for n, b in PETS.items()}})})}


@pytest.mark.parametrize("form", FORMS)
def test_add_and_find_again(lands, form, capsys):
    mine, (given, more) = lands/"mine", FORMS[form]
    fill(mine, PETS if form in ("folder", "labels.csv", "table.csv", "table.txt") else {})
    for n, b in (more or {}).items(): (mine/("pets/labels.csv" if form == "labels.csv" else n)).write_bytes(b)
    assert main(["data", "add", str(mine/given), "--name", "friends"]) == 0
    out, err = capsys.readouterr()
    n = 6 if "npz" in form else 8
    assert out.startswith(f"friends: {n} images, 2 classes, ") and all(l.startswith("note: ") for l in err.splitlines())
    assert ("groups: patient" in out) == (form in ("labels.csv", "table.csv", "table.txt", "zip with a table"))
    images = added.open_added("friends", size=16)
    assert images.x.shape == (n, 16, 16, 3) and images.name == "friends"
    assert main(["data", "check", "friends"]) == 0 and main(["data", "where", "friends"]) == 0 and main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert added.entries()["friends"]["fingerprint"] in out and str(added.added()["friends"]) in out and ["friends", str(n), "2", "there"] in [l.split()[:4] for l in out.splitlines()]
    stays = form in ("folder", "labels.csv", "table.csv", "table.txt", "a.npz", "npz.zip")
    assert added.added()["friends"] == (mine/given if stays else added.added()["friends"]) and str(lands/("mine" if stays else "data")) in str(added.added()["friends"])
    assert main(["data", "add", str(mine/given), "--name", "Friends"]) == 2


def test_the_default_name_is_the_files(lands, capsys):
    (lands/"mine"/"cats.v2.tar.gz").write_bytes(GZ)
    assert main(["data", "add", str(lands/"mine"/"cats.v2.tar.gz")]) == 0 and list(added.added()) == ["cats"]
    assert [p for p in tree(lands/"data") if "/" not in p] == ["added.json", "cats"]


@pytest.mark.parametrize("name", ["dtd", "DTD", "toy-mine", "../up", "a/b", "", " ", "a b", "-x", ".x", "a--b", "x"*65, "random", "imagenet", "pcam", "there", "added.json", "a\nb", "caf\u00e9"])
def test_names_that_cannot_be_given(lands, name, capsys):
    (lands/"data"/"there.npz").write_bytes(b""); (lands/"mine"/"a.zip").write_bytes(ZIP)
    assert main(["data", "add", str(lands/"mine"/"a.zip"), f"--name={name}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "--name" in err and tree(lands/"data") == ["there.npz"]


WRONG = {
    "semicolons": ("t.csv", {"t.csv": b"path;class\na.png;cat;x\n"}, "separated by semicolons"), "tabs": ("t.csv", {"t.csv": b"path\tclass|x\na.png\tcat|x\n"}, "separated by tabs"),
    "nothing there": ("gone", {}, "nothing at"), "empty folder": ("e", {"e/.keep": b""}, "is empty"), "one class": ("e", {"e/cat/0.png": image()}, "received 1 class"),
    "loose images": ("e", {"e/0.png": image()}, "no class sub-folders"), "empty class": ("e", {**{f"e/{n}": b for n, b in PETS.items()}, "e/pets/cow/x.txt": b""}, ""),
    "damaged image": ("pets", {**PETS, "pets/dog/9.png": image()[:60]}, "9.png"), "text as image": ("pets", {**PETS, "pets/dog/9.png": b"no"}, "9.png"), "no image at all": ("pets", {"pets/cat/1.txt": b"", "pets/dog/1.txt": b""}, "no image"),
    "missing file": ("t.csv", {"t.csv": b"path,class\na.png,cat\nb.png,dog\n"}, "not there"), "wrong columns": ("t.csv", {"t.csv": b"scan,kind\na.png,cat\n"}, "no column"),
    "header only": ("t.csv", {"t.csv": b"path,class\n"}, "t.csv"), "pickled": ("p.npz", {"p.npz": npz(train_labels=np.array([0, 1, 0, 1], object))}, "pickled"),
    "wrong arrays": ("p.npz", {"p.npz": zipped({"x.npy": b"123"})}, "p.npz"), "cut npz": ("p.npz", {"p.npz": npz()[:400]}, "p.npz"), "image": ("0.png", {"0.png": image()}, "is a single image"),
    "page": ("a.html", {"a.html": b"<html>"}, "a web page"), "hdf5": ("x.h5", {"x.h5": b"\x89HDF\r\n\x1a\n"}, "HDF5"), "empty file": ("x.csv", {"x.csv": b""}, "it is empty"),
    "zip of one class": ("a.zip", {"a.zip": zipped({"cat/0.png": image()})}, "received 1 class"), "zip with a damaged image": ("a.zip", {"a.zip": zipped({**PETS, "pets/dog/9.png": b"x"})}, "dog/9.png"),
    "zip of text": ("a.zip", {"a.zip": zipped({"readme.txt": b"hello"})}, "a.zip"), "zip with a cut npz": ("a.zip", {"a.zip": zipped({"m.npz": npz()[:400]})}, "a.zip"),
    "tar of parts": ("a.tar", {"a.tar": tarred({f"{p}/{n}": b for p in ("train", "test") for n, b in PETS.items()})}, "not classes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_images_that_cannot_be_added(lands, case, capsys):
    given, files, why = WRONG[case]
    fill(lands/"mine", files); before = tree(lands/"mine")
    assert main(["data", "add", str(lands/"mine"/given), "--name", "new"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("catscans: error: ") and why in err and "Traceback" not in err, err
    assert sum(l.startswith("catscans: error") for l in err.splitlines()) == 1
    assert tree(lands/"data") == [] and tree(lands/"mine") == before
    assert not [p for p in tree(lands) if p.endswith(("pixels.npy", "meta.json"))]                       # no store either


def test_no_path_and_no_file(lands, capsys, monkeypatch):
    os.mkfifo(lands/"mine"/"pipe.csv"); monkeypatch.chdir(lands/"mine")
    for path, why in (("", "an empty path"), (" ", "an empty path"), (str(lands/"mine"/"pipe.csv"), "is a pipe")):
        assert main(["data", "add", path, "--name", "new"]) == 2
        err = capsys.readouterr().err; assert why in err and len(err.splitlines()) == 1
    assert tree(lands/"data") == []


def test_a_register_that_is_a_folder_is_named(lands, capsys):
    (lands/"data"/"added.json").mkdir()
    assert main(["data", "list"]) == 2 and "added.json is not readable" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 3}', '{"a": {"path": "a"}}'])
def test_a_damaged_register_is_named(lands, capsys, text):
    (lands/"data"/"added.json").write_text(text); (lands/"mine"/"a.zip").write_bytes(ZIP)
    for line in (["list"], ["where", "a"], ["add", str(lands/"mine"/"a.zip")]):
        assert main(["data", *line]) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and "added.json" in err
    assert tree(lands/"data") == ["added.json"]


def test_what_was_added_and_has_changed(lands, capsys):
    fill(lands/"mine"); assert main(["data", "add", str(lands/"mine"/"pets")]) == 0
    (lands/"mine"/"pets"/"cat"/"0.png").write_bytes(image(99))
    assert main(["data", "check", "pets"]) == 2 and "has changed" in capsys.readouterr().err
    shutil.rmtree(lands/"mine"/"pets")
    assert main(["data", "check", "pets"]) == 2 and "nothing is any more" in capsys.readouterr().err


# ---------------------------------------------------------------- the command line

@pytest.fixture
def cli(lands, server, monkeypatch):
    "`data get` as a user gives it, the cards' files on our server, no waiting"
    def serve(name, **files):
        server.files |= {n: b for n, (b, _) in files.items()}
        own = {**cards._files(), name: tuple(cards.File(n, (f"{server.url}/{n}",), **f) for n, (_, f) in files.items())}
        monkeypatch.setattr(cards, "_files", lambda: own)
    monkeypatch.setattr(fetch.Resume.__init__, "__defaults__", (False, None, 2, lambda s: None, (10, 60), True))
    return serve


def test_get_on_the_command_line(cli, lands, server, capsys):
    cli("malaria", **{"cell_images.zip": (ZIP, dict(sha256=sha(ZIP), bytes=len(ZIP)))})
    assert main(["data", "get", "malaria"]) == 0
    out, err = capsys.readouterr()
    assert out == f"malaria: {lands}/data/malaria\n" and "cell_images.zip" in err and (lands/"data"/"malaria"/"pets"/"cat"/"0.png").exists()
    assert main(["data", "get", "malaria", "malaria"]) == 0 and len(server.log) == 1


def test_list_where_and_check_know_what_get_knows(cli, lands, server, capsys):
    cli("cifar10", **{"cifar-10-python.tar.gz": (GZ, dict(md5=md5(GZ)))})
    assert main(["data", "list"]) == 0 and main(["data", "where", "cifar10"]) == 2
    out = capsys.readouterr().out
    assert "Facts only" in out and all(n in out for n in catalogue.short(catalogue.CATALOGUE)) and f"{server.url}/cifar-10-python.tar.gz" in out and md5(GZ) in out and "licence: " in out
    assert main(["data", "get", "cifar10"]) == 0 and main(["data", "where", "cifar10"]) == 0 and main(["data", "check", "cifar10"]) == 0
    out = capsys.readouterr().out
    assert str(lands/"data"/"cifar10") in out and "files that are what they should be: 1 (md5)" in out
    (lands/"data"/"cifar10"/"cifar-10-python.tar.gz").write_bytes(b"x")
    assert main(["data", "check", "cifar10"]) == 2 and "is not what it should be" in capsys.readouterr().err
    assert main(["data", "check", "cifar10", "--quick"]) == 2 and "facts only" in capsys.readouterr().err


def test_archives_alone_are_not_there(lands, capsys):
    (lands/"data"/"chest").mkdir(); (lands/"data"/"chest"/"ChestXRay2017.zip").write_bytes(ZIP)
    (lands/"data"/"pcam").mkdir(); (lands/"data"/"pcam"/"camelyonpatch_level_2_split_test_x.h5.gz").write_bytes(H5)
    for name in ("chest", "pcam-small"): assert main(["data", "where", name]) == 2 and "no images under CATSCANS_DATA" in capsys.readouterr().err


def test_a_failing_network_is_exit_code_1(cli, lands, server, capsys):
    cli("malaria", **{"cell_images.zip": (ZIP, dict(sha256=sha(GZ)))})
    assert main(["data", "get", "malaria"]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("catscans: error: malaria: cell_images.zip could not be fetched") and sha(ZIP) in err and sha(GZ) in err and "Traceback" not in err
    assert tree(lands/"data") == []


def test_added_columns_a_name_for_rank_and_remove(lands, capsys):
    "what was added under a name of its own columns is loaded by that name, until it is forgotten"
    fill(lands/"mine")
    own = lands/"mine"/"own.csv"; files = [f for f in sorted((lands/"mine"/"pets").rglob("*.png"))]
    own.write_text("file,kind\n" + "".join(f"{f},{f.parent.name}\n" for f in files))
    assert main(["data", "add", str(own)]) == 2 and "--path-col C" in capsys.readouterr().err
    assert main(["data", "add", str(own), "--path-col", "file", "--class-col", "kind"]) == 0
    with pytest.raises(UserError, match="own: fewer than 10 images"): load_target("own")          # found by its name, and checked
    with pytest.raises(UserError, match="neither a file or folder nor a dataset"): load_target("owns")
    before = tree(lands/"mine")
    load("own", size=24)
    capsys.readouterr()
    for line in (["data", "where", "own"], ["data", "list"]): assert main(line) == 0 and "4 decoded copies (24 px, 32 px, 64 px, 112 px), " in capsys.readouterr().out
    others = [c.path for c in copies() if c.name != "own"]
    size = sum(f.stat().st_size for c in copies("own") for f in c.path.iterdir())
    assert main(["data", "remove", "own"]) == 0
    out = capsys.readouterr().out
    assert "they stay at" in out and f"removed: 4 decoded copies (24 px, 32 px, 64 px, 112 px), {size_text(size)} in " in out and copies("own") == [] and [c.path for c in copies()] == others
    assert added.added() == {} and tree(lands/"mine") == before and main(["data", "remove", "own"]) == 2


@pytest.mark.parametrize("line,why", [("get", "required"), ("get nothing", "unknown dataset"), ("get toy-dtd", "is generated"), ("get kermany", "medical_chest_kermany_224.zip"), ("get kimia960", "an account is needed"),
                                      ("get malaria imagenet", "ILSVRC2012_img_train.tar (148 GB"), ("get malaria nothing", "unknown dataset"), ("get kylberg", "kylberg"), ("add", "required"), ("add /nowhere/x", "nothing at"),
                                      ("fetch dtd", "invalid choice")])
def test_wrong_requests(cli, lands, server, capsys, line, why):
    cli("malaria", **{"cell_images.zip": (ZIP, {})})
    assert main(["data", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("catscans: error: ") and why in err, err
    assert server.log == [] and tree(lands/"data") == []


@pytest.mark.parametrize("line", ["get malaria", "add pets"])
@pytest.mark.parametrize("set_to,why", [(None, "CATSCANS_DATA is not set"), ("gone", "not a folder")])
def test_without_a_place_for_data(cli, lands, monkeypatch, capsys, line, set_to, why):
    cli("malaria", **{"cell_images.zip": (ZIP, {})})
    monkeypatch.delenv("CATSCANS_DATA") if set_to is None else monkeypatch.setenv("CATSCANS_DATA", str(lands/set_to))
    before = tree(lands)
    assert main(["data", *line.split()]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and why in err and tree(lands) == before


def test_importing_opens_no_connection_and_loads_little():
    import subprocess
    code = ("import socket, sys\ndef no(*a, **k): raise SystemExit('a connection')\nsocket.socket.connect = socket.create_connection = no\n"
            "import catscans.datasets.fetch\nprint(sorted({'requests', 'pooch', 'pandas', 'keras', 'PIL', 'catscans.datasets.images', 'catscans.datasets.store', 'catscans.datasets.own', 'catscans.datasets.loading'} & set(sys.modules)))")
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (p.returncode, p.stdout.strip()) == (0, "[]"), p.stderr


# ---------------------------------------------------------------- from a server to images: archives in the layout of their makers

def jpg(seed): return image(seed, "jpeg")


def hot(names, classes): return ("image," + ",".join(classes) + "\n" + "".join(f"{n}," + ",".join(str(float(i % len(classes) == j)) for j in range(len(classes))) + "\n" for i, n in enumerate(names))).encode()


def stl10():
    out = {"class_names.txt": "\n".join(f"class{i}" for i in range(10)).encode(), "fold_indices.txt": b""}
    for part, n in (("train", 20), ("test", 30)):
        out |= {f"{part}_X.bin": RNG.integers(0, 256, n*3*96*96, np.uint8).tobytes(), f"{part}_y.bin": bytes(i % 10 + 1 for i in range(n))}
    return tarred({f"stl10_binary/{n}": b for n, b in out.items()}, "w:gz")


def isic2018():
    names, input_ = [f"ISIC_{i:07}" for i in range(14)], "ISIC2018_Task3_Training_Input"
    return {f"{input_}.zip": zipped({f"{input_}/{n}.jpg": jpg(i) for i, n in enumerate(names)} | {f"{input_}/LICENSE.txt": b"CC"}),
            "ISIC2018_Task3_Training_GroundTruth.zip": zipped({"ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv": hot(names, "MEL NV BCC AKIEC BKL DF VASC".split())}),
            "ISIC2018_Task3_Training_LesionGroupings.csv": b"image,lesion_id,diagnosis_confirm_type\n" + "".join(f"{n},HAM_{i//2},histo\n" for i, n in enumerate(names)).encode()}


def chest():
    files = {f"chest_xray/{p}/{c}/{n}_{i}.jpeg" if c == "PNEUMONIA" else f"chest_xray/{p}/{c}/{n}-{i:04}-0001.jpeg": jpg(i) for p in ("train", "test")
             for c, n in (("NORMAL", "IM"), ("PNEUMONIA", f"person{3 if p == 'train' else 4}_virus")) for i in range(3)}
    return zipped(files | {f"__MACOSX/{n.rsplit('/', 1)[0]}/._{n.rsplit('/', 1)[1]}": b"\0" for n in files})


def dtd(): return tarred({f"dtd/images/{c}/{c}_{i:04}.jpg": jpg(47*i + k) for k, c in enumerate(f"texture{chr(97 + k//26)}{chr(97 + k % 26)}" for k in range(47)) for i in range(2)})
def cells(): return zipped({f"cell_images/{c}/C{33 + i}P1thinF_{i}.png": image(i) for c in ("Parasitized", "Uninfected") for i in range(3)})


MAKERS = {   # dataset -> its files, images, groups
    "stl10": (lambda: {"stl10_binary.tar.gz": stl10()}, 50, None), "isic2018": (isic2018, 14, 7), "chest": (lambda: {"ChestXRay2017.zip": chest()}, 12, None),
    "dtd": (lambda: {"dtd-r1.0.1.tar.gz": dtd()}, 94, None),                                                      # a plain tar, whatever it is called
    "malaria": (lambda: {"cell_images.zip": cells()}, 6, 3), "breastmnist": (lambda: {"breastmnist.npz": npz()}, 6, None),
    "sti10": (lambda: {f.name: tarred({f"{f.name[:-4]}_{i}.JPEG": jpg(i) for i in range(2)}) for f in catalogue.DATASETS["sti10"].files}, 20, None)}


@pytest.mark.parametrize("name", MAKERS)
def test_from_a_server_to_images(cli, lands, server, name, capsys):
    make, n, groups = MAKERS[name]; files = make()
    assert set(files) <= {f.name for f in catalogue.DATASETS[name].files}
    cli(name, **{k: (b, dict(md5=md5(b))) for k, b in files.items()})
    big = max(files, key=lambda k: len(files[k])); server.faults[big] = [dict(cut=len(files[big])//2)]
    assert main(["data", "get", name]) == 0, capsys.readouterr().err
    images = load(name, size=16)
    assert len(images) == n and len(images.classes) == catalogue.DATASETS[name].classes
    if groups: assert len(set(images.groups)) == groups
    assert [r for p, r in server.log if p == big] == [None, f"bytes={len(files[big])//2}-"]


def test_pcam_is_unpacked_once_for_both_of_its_subsets(cli, lands, server, capsys):
    import h5py
    files = {}
    for part in ("train", "valid", "test"):
        for k, a in (("x", RNG.integers(0, 256, (8, 96, 96, 3), np.uint8)), ("y", (np.arange(8) % 2).astype(np.uint8).reshape(8, 1, 1, 1))):
            out = io.BytesIO()
            with h5py.File(out, "w") as h: h[k] = a
            files[f"camelyonpatch_level_2_split_{part}_{k}.h5.gz"] = gzip.compress(out.getvalue())
        files[f"camelyonpatch_level_2_split_{part}_meta.csv"] = (",wsi\n" + "".join(f"{i},camelyon16_{part}_{i//2:03}\n" for i in range(8))).encode()
    cli("pcam", **{k: (b, dict(sha256=sha(b))) for k, b in files.items()})
    assert main(["data", "get", "pcam-small", "pcam-middle"]) == 0, capsys.readouterr().err
    assert len(server.log) == 9 and {n.removesuffix(".gz") for n in files} <= set(tree(lands/"data"/"pcam"))
    assert len(layouts.pcam(lands/"data"/"pcam")) == 24
    sizes = {"pcam-middle": 8, "pcam-small": 4}
    small, middle = (load(n, size=16, sizes=sizes) for n in ("pcam-small", "pcam-middle"))
    assert (len(small), small.card.group_key, np.bincount(small.y).tolist()) == (4, "wsi", [2, 2]) and not set(small.groups) & set(middle.groups)
    assert all(g.startswith("camelyon16_") for g in small.groups)
    assert main(["data", "check", "pcam-small"]) == 2 and "24" in capsys.readouterr().err          # not the whole of PCam
