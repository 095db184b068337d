"The image store: right pixels from every form of file, the same bytes however it is built, a kill that loses nothing, little memory."
import io, json, os, signal, subprocess, sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catscans.core.basics import UserError, digest
from catscans.datasets.images import Listing, decode, fingerprint
from catscans.datasets.splits import freeze, frozen_splits, make_splits, thaw
from catscans.datasets import store
from catscans.datasets.store import allowed_missing, build, open_store
from catscans.study.checks import check_splits
from fakes import ROOT

RED, BLUE = (200, 30, 60), (20, 40, 220)


def halves(mode="RGB", left=RED, right=BLUE, size=(32, 32)):
    "left half, right half"
    im = Image.new("RGB", size, right)
    im.paste(left, (0, 0, size[0]//2, size[1]))
    return im.convert(mode)


def file(im, fmt, **kw):
    buf = io.BytesIO(); im.save(buf, fmt, **kw)
    return buf.getvalue()


def expect(pixels, left, right, tolerance=0):
    "the middle of both halves: away from the edge, which JPEG blurs"
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    h, w = pixels.shape[:2]
    for got, want in ((pixels[h//2, w//4], left), (pixels[h//2, 3*w//4], right)):
        assert np.abs(got.astype(int) - want).max() <= tolerance, (got, want)


# ---- every form of a file ----

@pytest.mark.parametrize("fmt,kw", [("PNG", {}), ("TIFF", {}), ("BMP", {}), ("PPM", {}), ("WEBP", dict(lossless=True)), ("TIFF", dict(compression="tiff_lzw"))])
def test_rgb_is_exact(fmt, kw):
    expect(decode(file(halves(), fmt, **kw), 32), RED, BLUE)


@pytest.mark.parametrize("progressive", (False, True))
@pytest.mark.parametrize("subsampling", (0, 2))
def test_jpeg(progressive, subsampling):
    data = file(halves(), "JPEG", quality=95, progressive=progressive, subsampling=subsampling)
    assert (b"\xff\xc2" in data) == progressive                # the marker of a progressive frame
    expect(decode(data, 32), RED, BLUE, 4)


def test_progressive_and_baseline_agree():
    im = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    a, b = (decode(file(im, "JPEG", quality=90, progressive=p), 24) for p in (False, True))
    np.testing.assert_array_equal(a, b)                        # the same coefficients in another order


@pytest.mark.parametrize("fmt", ("PNG", "JPEG", "TIFF"))
def test_grey_is_repeated(fmt):
    got = decode(file(halves("L", (50,)*3, (180,)*3), fmt), 32)
    expect(got, (50,)*3, (180,)*3, 2)
    assert (got[..., 0] == got[..., 1]).all() and (got[..., 0] == got[..., 2]).all()


def test_one_bit():
    expect(decode(file(halves("1", (0,)*3, (255,)*3), "PNG"), 32), (0,)*3, (255,)*3)


@pytest.mark.parametrize("fmt", ("PNG", "TIFF"))
def test_sixteen_bits_keep_their_scale(fmt):
    a = np.full((32, 32), 40_000, np.uint16); a[:, 16:] = 4_095              # a 12-bit white stays dark
    expect(decode(file(Image.fromarray(a), fmt), 32), (40_000//256,)*3, (15,)*3)


def test_sixteen_bits_of_the_other_byte_order():
    a = np.full((32, 32), 40_000, ">u2")
    expect(decode(file(Image.frombytes("I;16B", (32, 32), a.tobytes()), "TIFF"), 32), (156,)*3, (156,)*3)


def test_transparency_lies_on_black():
    im = halves("RGBA"); a = np.array(im); a[:, :16, 3] = 128; a[:, 16:, 3] = 0
    expect(decode(file(Image.fromarray(a), "PNG"), 32), tuple(round(c*128/255) for c in RED), (0, 0, 0), 1)
    grey = np.array(halves("LA", (90,)*3, (200,)*3)); grey[:, 16:, 1] = 0
    expect(decode(file(Image.fromarray(grey), "PNG"), 32), (90,)*3, (0,)*3)


def test_palette_with_and_without_transparency():
    im = halves().quantize(2)
    expect(decode(file(im, "PNG"), 32), RED, BLUE, 2); expect(decode(file(im, "GIF"), 32), RED, BLUE, 2)
    expect(decode(file(im, "PNG", transparency=im.getpixel((0, 0))), 32), (0, 0, 0), BLUE, 2)


def test_cmyk_as_adobe_writes_it():
    data = file(halves("CMYK"), "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in data                                                   # inks are stored inverted, and this marker says so
    expect(decode(data, 32), RED, BLUE, 4)
    expect(decode(file(halves("CMYK"), "TIFF"), 32), RED, BLUE)                # and here they are not


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ("JPEG", "PNG", "TIFF", "WEBP"))
def test_exif_rotation_is_applied(fmt, orientation):
    upright = np.zeros((48, 32, 3), np.uint8); upright[:24, :16] = RED; upright[:24, 16:] = BLUE; upright[24:, :16] = (30, 210, 40); upright[24:, 16:] = 240
    undo = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
            6: lambda a: np.rot90(a), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1)}[orientation]
    exif = Image.Exif(); exif[0x0112] = orientation
    kw = dict(lossless=True) if fmt == "WEBP" else dict(quality=95, subsampling=0) if fmt == "JPEG" else {}
    got = decode(file(Image.fromarray(np.ascontiguousarray(undo(upright))), fmt, exif=exif, **kw), 32)
    want = decode(upright, 32)
    for y in (6, 26):
        for x in (6, 26): assert np.abs(got[y, x].astype(int) - want[y, x]).max() <= 5, (y, x)


def test_exif_behind_the_pixels_of_a_png():
    data = file(Image.fromarray(np.uint8([[10, 10], [250, 250]])), "PNG")
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    import struct, zlib
    chunk = struct.pack(">I", len(tiff)) + b"eXIf" + tiff + struct.pack(">I", zlib.crc32(b"eXIf" + tiff))
    end = data.rindex(b"IEND") - 4
    assert decode(data[:end] + chunk + data[end:], 2)[..., 0].tolist() == [[250, 10], [250, 10]]


@pytest.mark.parametrize("mode", ("I", "F"))
def test_pixels_without_one_reading_are_refused(mode):
    a = np.full((4, 4), 70_000) if mode == "I" else np.full((4, 4), .5)
    with pytest.raises(ValueError, match="convert the image to 8 or 16 bits"):
        decode(file(Image.fromarray(a.astype(np.int32 if mode == "I" else np.float32)), "TIFF"), 8)


def test_first_frame():
    a, b = halves(), halves(left=BLUE, right=RED)
    for fmt in ("GIF", "TIFF"): expect(decode(file(a, fmt, save_all=True, append_images=[b]), 32), RED, BLUE, 2)


# ---- drafts ----

@lru_cache(maxsize=2)
def scene(h=450, w=603, seed=0):
    "coarse and fine structure, as in a photograph"
    rng = np.random.default_rng(seed); a = np.zeros((h, w, 3))
    for cell, weight in ((90, .5), (12, .3), (3, .2)):
        a += weight*np.asarray(Image.fromarray(rng.integers(0, 256, (h//cell + 2, w//cell + 2, 3), np.uint8)).resize((w, h), Image.Resampling.BICUBIC))
    return Image.fromarray(a.clip(0, 255).astype(np.uint8))


def apart(data, size, a="draft", b="bilinear"): return np.abs(decode(data, size, a).astype(int) - decode(data, size, b))


@pytest.mark.parametrize("mode,kw", [("RGB", {}), ("RGB", dict(progressive=True)), ("RGB", dict(subsampling=0)), ("L", {}), ("CMYK", {})])
@pytest.mark.parametrize("size", (12, 40, 112))
def test_a_draft_is_close_to_full_decoding(mode, kw, size):
    data = file(scene().convert(mode), "JPEG", quality=90, **kw); d = apart(data, size)
    assert 0 < d.mean() < 2 and d.max() <= 12
    assert d.mean() < apart(data, size, "nearest").mean()/3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_draft_is_turned_as_the_whole_is(orientation):
    exif = Image.Exif(); exif[0x0112] = orientation
    data = file(scene(), "JPEG", quality=90, exif=exif); d = apart(data, 40)
    assert 0 < d.mean() < 1 and d.max() <= 12                                    # 603 is no multiple of 8: the edges have to be at the right side


@pytest.mark.parametrize("fmt,kw", [("PNG", {}), ("TIFF", {}), ("WEBP", dict(quality=80)), ("BMP", {})])
def test_what_is_no_jpeg_is_decoded_as_ever(fmt, kw):
    data = file(scene(), fmt, **kw)
    for size in (12, 112): assert not apart(data, size).any()


def test_a_jpeg_less_than_twice_as_large_is_decoded_whole():
    data = file(scene(), "JPEG")
    assert not apart(data, 226).any() and apart(data, 225).any()                 # 450 = 2 x 225
    assert not apart(file(scene(2000, 200), "JPEG"), 128).any()                  # one side is too short


def test_drafts_have_a_store_of_their_own(tmp_path):
    (tmp_path/"in").mkdir(); files = [tmp_path/"in"/f"{i}.jpg" for i in range(4)]
    for i, f in enumerate(files): scene(200, 300, i).save(f)
    li = Listing("scenes", files, np.arange(4) % 2, ["a", "b"], [f.name for f in files], [f.stat().st_size for f in files])
    made = {r: build(li, 16, r, root=tmp_path/"s") for r in ("draft", "bilinear", "nearest")}
    assert len({im.fingerprint for im in made.values()}) == len([p for p in (tmp_path/"s").iterdir() if p.is_dir()]) == 3
    assert build(li, 16, root=tmp_path/"s").fingerprint == made["draft"].fingerprint
    with pytest.raises(UserError, match="draft, bilinear, nearest"): build(li, 16, "bicubic", root=tmp_path/"s")


def test_a_jpeg_that_was_cut_off_is_no_draft():
    data = file(scene(), "JPEG", quality=90)
    for keep in (.3, .9):
        with pytest.raises(OSError): decode(data[:int(keep*len(data))], 40)


# ---- building ----

def photos(folder, n=40, seed=0):
    rng = np.random.default_rng(seed); folder.mkdir(exist_ok=True)
    files = []
    for i in range(n):
        f = folder/f"{i:03d}.{('png', 'jpg', 'webp')[i % 3]}"
        Image.fromarray(rng.integers(0, 255, (24 + i, 50, 3), np.uint8)).save(f); files.append(f)
    return Listing("photos", files, np.arange(n) % 2, ["a", "b"], [f.name for f in files], [f.stat().st_size for f in files],
                   np.array([f"p{i//2}" for i in range(n)]), np.array(["train", "test"]*(n//2)))


def contents(store): return {f.name: f.read_bytes() for f in sorted(Path(store).iterdir())}


def only_store(root):
    found = [p for p in root.iterdir() if p.is_dir()]
    assert len(found) == 1 and not found[0].name.startswith("."), found
    return found[0]


@pytest.fixture
def small_blocks(monkeypatch): monkeypatch.setattr(store, "_BLOCK", 3*16*16*3)      # three images of 16 pixels


def test_workers_and_blocks_do_not_matter(tmp_path, monkeypatch):
    li = photos(tmp_path/"in")
    made = []
    for i, (workers, block) in enumerate(((1, 16 << 20), (8, 16 << 20), (8, 3*16*16*3), (3, 1))):
        monkeypatch.setattr(store, "_BLOCK", block)
        im = build(li, 16, workers=workers, root=tmp_path/f"w{i}"); made.append(contents(only_store(tmp_path/f"w{i}")))
        np.testing.assert_array_equal(im.x, np.stack([decode(f, 16) for f in li.items]))
        assert im.fingerprint == digest(np.asarray(im.x), im.y, [str(g) for g in im.groups], im.classes)
    assert set(made[0]) == {"pixels.npy", "labels.npy", "meta.json", "seal.json"}
    assert all(m == made[0] for m in made[1:])


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from catscans.datasets import store
from catscans.datasets.images import Listing
from catscans.datasets.store import build
store._BLOCK = 3*16*16*3
folder, root, wait = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
files = sorted(folder.iterdir()); n = len(files)
def item(i):
    if i == wait: print("waiting", flush=True); time.sleep(600)
    return files[i].read_bytes()
class Item:
    def __init__(self, i): self.i, self.asked = i, 0
    def __call__(self):
        self.asked += 1                                                # first its content is looked at, then it is decoded
        return files[self.i].read_bytes() if self.asked == 1 else item(self.i)
li = Listing("photos", [Item(i) for i in range(n)], np.arange(n) % 2, ["a", "b"], [f.name for f in files], [f.stat().st_size for f in files],
             np.array([f"p{i//2}" for i in range(n)]), np.array(["train", "test"]*(n//2)))
build(li, 16, workers=2, root=root)
"""


def kill_while(args, env=None):
    p = subprocess.Popen([sys.executable, "-c", KILLED, *map(str, args)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try: assert p.stdout.readline() == "waiting\n"
    finally: p.send_signal(signal.SIGKILL); p.wait(); p.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and file locks")
def test_two_kills_and_the_same_bytes(tmp_path, small_blocks):
    li = photos(tmp_path/"in"); asked = []
    counting = lambda i: lambda: (asked.append(i), li.items[i].read_bytes())[1]             # once to look, once to decode
    from dataclasses import replace
    whole = build(li, 16, root=tmp_path/"whole")
    for wait in (17, 31): kill_while([tmp_path/"in", tmp_path/"killed", wait])
    left = [p for p in (tmp_path/"killed").iterdir() if p.is_dir()]
    assert len(left) == 1 and left[0].name.startswith("."), "a killed build leaves no store"
    again = build(replace(li, items=[counting(i) for i in range(len(li))]), 16, root=tmp_path/"killed")
    assert contents(only_store(tmp_path/"killed")) == contents(only_store(tmp_path/"whole")) and again.fingerprint == whole.fingerprint
    twice = {i for i in asked if asked.count(i) == 2}
    assert min(twice) >= 17 and 39 in twice, "blocks that were finished are not decoded again"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and file locks")
@pytest.mark.parametrize("damage", ("journal cut", "journal empty", "journal nonsense", "pixels gone", "pixels cut", "pixels changed", "other decoder"))
def test_what_a_kill_left_may_be_damaged(tmp_path, damage, small_blocks):
    li = photos(tmp_path/"in"); build(li, 16, root=tmp_path/"whole")
    kill_while([tmp_path/"in", tmp_path/"killed", 25])
    part, = [p for p in (tmp_path/"killed").iterdir() if p.is_dir()]
    j, px = part/"journal", part/"pixels.npy"; text, data = j.read_text(), px.read_bytes()
    if damage == "journal cut": j.write_text(text[:-7])
    elif damage == "journal empty": j.write_text("")
    elif damage == "journal nonsense": lines = text.splitlines(); j.write_text("\n".join([*lines[:2], "{}", *lines[3:]]) + "\n")
    elif damage == "pixels gone": px.unlink()
    elif damage == "pixels cut": px.write_bytes(data[:len(data)//2])
    elif damage == "pixels changed": px.write_bytes(data[:3000] + b"x" + data[3001:])
    elif damage == "other decoder": j.write_text("0.0.1\n" + text.split("\n", 1)[1])
    build(li, 16, root=tmp_path/"killed")
    assert contents(only_store(tmp_path/"killed")) == contents(only_store(tmp_path/"whole"))


def test_an_error_leaves_nothing(tmp_path):
    li = photos(tmp_path/"in"); li.items[5] = lambda: 1/0
    with pytest.raises(ZeroDivisionError): build(li, 16, root=tmp_path/"s")
    assert not [p for p in (tmp_path/"s").glob("*") if p.is_dir()]


def test_a_full_disk_is_said_before(tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda p: type("U", (), dict(free=1000))())
    with pytest.raises(UserError, match="are needed for 40 images at 16x16"): build(photos(tmp_path/"in"), 16, root=tmp_path/"s")
    assert not [p for p in (tmp_path/"s").iterdir() if p.is_dir()]


# ---- unreadable images ----

def spoil(li, which):
    for k, i in enumerate(which): li.items[i].write_bytes((b"", b"not an image", li.items[i].read_bytes()[:60])[k % 3])
    return [li.paths[i] for i in which]


def test_unreadable_images_are_all_named(tmp_path):
    li = photos(tmp_path/"in"); few = spoil(li, [3, 8, 20])
    with pytest.raises(UserError, match="3 of 40 images cannot be read") as e: build(li, 16, root=tmp_path/"s")
    assert all(n in str(e.value) for n in few)
    assert not [p for p in (tmp_path/"s").iterdir() if p.is_dir()], "no partial store"
    many = few + spoil(li, range(21, 34))
    with pytest.raises(UserError, match="16 of 40 images cannot be read.*and 6 more") as e: build(li, 16, root=tmp_path/"s")
    listed, = (tmp_path/"s").glob("*-unreadable.txt")
    assert str(listed) in str(e.value) and sorted(listed.read_text().split()) == sorted(many)


@pytest.mark.parametrize("way", ("argument", "names", "file"))
def test_allowed_by_name(tmp_path, way, monkeypatch, small_blocks):
    li = photos(tmp_path/"in"); bad = [3, 8, 20, 39]; names = spoil(li, bad)
    kw = dict(allow_unreadable=names) if way == "argument" else {}
    if way == "names": monkeypatch.setenv("CATSCANS_ALLOW_UNREADABLE", ",".join(names))
    if way == "file":
        (tmp_path/"names.txt").write_text("\n".join(names)); monkeypatch.setenv("CATSCANS_ALLOW_UNREADABLE", f"@{tmp_path/'names.txt'}")
    im = build(li, 16, root=tmp_path/"s", **kw)
    good = np.setdiff1d(np.arange(40), bad)
    assert [n for n, why in im.left_out if why] == names and json.loads((only_store(tmp_path/"s")/"meta.json").read_text())["left_out"]
    assert len(im) == len(im.x) == len(im.y) == len(im.groups) == len(im.paths) == len(im.split) == 36
    np.testing.assert_array_equal(im.x, np.stack([decode(li.items[i], 16) for i in good]))
    assert im.paths.tolist() == [li.paths[i] for i in good] and im.groups.tolist() == li.groups[good].tolist() and (im.y == li.y[good]).all()
    assert im.fingerprint == fingerprint(im.x, im.y, im.groups, im.classes) and "4 unreadable left out" in repr(im)
    monkeypatch.delenv("CATSCANS_ALLOW_UNREADABLE", raising=False)
    with pytest.raises(UserError, match="4 of 40"): build(li, 16, root=tmp_path/"s")      # nobody inherits the permission
    with pytest.raises(UserError, match="3 of 40"): build(li, 16, root=tmp_path/"s", allow_unreadable=names[:1])
    assert open_store(im.subset(np.arange(5)).save(tmp_path/"copy")).left_out == im.left_out


def test_permission_changes_nothing_where_all_is_readable(tmp_path):
    li = photos(tmp_path/"in"); a = build(li, 16, root=tmp_path/"s")
    b = build(li, 16, root=tmp_path/"s", allow_unreadable=[li.paths[0]])
    assert a.fingerprint == b.fingerprint and b.left_out == () and len(b) == 40


def test_a_class_that_cannot_be_read_stops_in_any_case(tmp_path):
    li = photos(tmp_path/"in", 6); names = spoil(li, [0, 2, 4])
    with pytest.raises(UserError, match="no image of a can be read"): build(li, 16, root=tmp_path/"s", allow_unreadable=names)


def test_a_file_of_names_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("CATSCANS_ALLOW_UNREADABLE", f"@{tmp_path/'none.txt'}")
    with pytest.raises(UserError, match="none.txt, which cannot be read"): allowed_missing()


# ---- memory ----

MEMORY = """
import resource, sys
import numpy as np
from PIL import Image
from catscans.datasets.images import Listing
from catscans.datasets.store import build
import scipy.fft, json
unit = 1 if sys.platform == "darwin" else 1024
n, size = int(sys.argv[2]), int(sys.argv[3])
pool = np.random.default_rng(0).integers(0, 255, (64, size, size, 3), np.uint8)
class Item:
    __slots__ = ("i",)
    def __init__(self, i): self.i = i
    def __call__(self): return pool[self.i % 64]
Image.fromarray(pool[0]).resize((9, 9))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit
li = Listing("made up", [Item(i) for i in range(n)], np.arange(n) % 2, ["a", "b"], [f"train/{i}" for i in range(n)], [(1, i) for i in range(n)], np.array([f"slide{i//800}" for i in range(n)]))
im = build(li, size, workers=4, root=sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit - before, im.x.nbytes)
"""


def grown(tmp_path, n, size):
    out = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path), str(n), str(size)], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    return map(int, out.stdout.split())


@pytest.mark.slow(3)
@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
def test_memory_does_not_grow_with_the_pixels(tmp_path):
    more, pixels = grown(tmp_path, 16_000, 96)
    assert pixels > 440e6 and more < 220e6, f"{more/1e6:.0f} MB for {pixels/1e6:.0f} MB of pixels"


@pytest.mark.slow(5)
@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
def test_memory_of_the_names(tmp_path):
    "names, labels and groups take at most 3 kB an image: 900 MB for a whole PCam. The pixels are small here, since their number does not matter (see above)"
    more, _ = grown(tmp_path, 60_000, 8)
    assert more < 60_000*3000, f"{more/1e6:.0f} MB"


@pytest.mark.skipif(not os.environ.get("CATSCANS_SLOW"), reason="SKIPPED: set CATSCANS_SLOW=1 to build a made-up PCam of 8.3 GB")
def test_memory_of_a_whole_pcam(tmp_path):
    more, pixels = grown(tmp_path, 300_000, 96)
    assert pixels > 8e9 and more < 1e9, f"{more/1e6:.0f} MB"


# ---- frozen splits ----

class Cut:
    name, classes = "mine", ["a", "b", "c"]
    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.y, self.groups = rng.integers(0, 3, 300), np.array([f"p{i}" for i in rng.integers(0, 60, 300)])
        self.fingerprint = digest(self.y, list(self.groups))


@pytest.mark.parametrize("protocol", ("grouped", "described", "published"))
def test_frozen_splits_come_back(tmp_path, protocol):
    im = Cut(); s = make_splits(im.y, im.groups, protocol, max_train=100)
    back = thaw(freeze(s, tmp_path/"s.json", im), im)
    assert (back.fingerprint, back.protocol, back.k, back.seed) == (s.fingerprint, s.protocol, s.k, s.seed)
    for f, g in zip(s, back):
        for part in ("train", "valid", "test"): np.testing.assert_array_equal(getattr(f, part), getattr(g, part)); assert getattr(f, part).dtype == getattr(g, part).dtype


def test_a_study_goes_on_only_with_the_same(tmp_path):
    im, other = Cut(), Cut(1)
    first = frozen_splits(im, tmp_path/"s.json"); assert frozen_splits(im, tmp_path/"s.json").fingerprint == first.fingerprint
    before = (tmp_path/"s.json").read_bytes()
    for kw in (dict(seed=2), dict(k=4), dict(protocol="published"), dict(max_train=50)):
        with pytest.raises(UserError, match="cannot go on with others"): frozen_splits(im, tmp_path/"s.json", **kw)
    with pytest.raises(UserError, match="other images"): frozen_splits(other, tmp_path/"s.json")
    assert (tmp_path/"s.json").read_bytes() == before


def test_splits_that_name_no_images_cut_none_in_particular(tmp_path):
    im = Cut(); s = make_splits(im.y, im.groups); f = freeze(s, tmp_path/"s.json")
    assert thaw(f).fingerprint == s.fingerprint
    with pytest.raises(UserError, match="does not say which images it cuts"): thaw(f, im)


def test_edited_splits_are_noticed(tmp_path):
    im = Cut(); f = freeze(make_splits(im.y, im.groups), tmp_path/"s.json", im); d = json.loads(f.read_text())
    d["folds"][0]["train"], d["folds"][0]["test"] = d["folds"][0]["test"], d["folds"][0]["train"]
    f.write_text(json.dumps(d))
    with pytest.raises(UserError, match="damaged splits.*fingerprint"): thaw(f, im)
    for text in ("", "[]", "{}", '{"format": 9}', f.read_text()[:400]):
        f.write_text(text)
        with pytest.raises(UserError, match="damaged splits"): thaw(f, im)
    with pytest.raises(UserError, match="no splits at"): thaw(tmp_path/"none.json", im)


def test_a_study_refuses_other_folds_of_the_same_images():
    im = Cut(); s = make_splits(im.y, im.groups, "grouped", 5, 2, 100)
    rec = lambda fingerprint, **kw: dict(slug="finetune-a--mine-grouped-s2", seed=2, settings=dict(max_train=100, **kw), splits=dict(fingerprint=fingerprint, k=5, protocol="grouped"))
    check_splits(im, [rec(s.fingerprint)]*3)
    with pytest.raises(UserError, match=f"other folds than those of finetune-a--mine-grouped-s2 .fingerprints yesterday and {s.fingerprint}"): check_splits(im, [rec(s.fingerprint), rec("yesterday")])
