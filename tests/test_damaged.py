"""Damaged inputs, each of them certainly damaged: one clear `UserError` that names the culprit, and nothing left behind.

A case is a whole dataset (made once), what is done to it, and what the message must name."""
import gzip, io, re, shutil, tarfile, zipfile, zlib

import h5py
import numpy as np
import pytest
from PIL import Image

import originals
from catscans.core.basics import UserError
from catscans.datasets.loading import load
from catscans.datasets.own import from_csv, from_folder, from_npz, from_path
from catscans.study.cli import main

CASES = {}      # name -> (base, damage(folder), culprit in the message, options)


def case(name, base, damage, culprit, **options):
    assert name not in CASES, name
    CASES[name] = (base, damage, culprit, options)


# ---- whole datasets

PETS = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)]


def pets(d): [originals.picture(d/f, i) for i, f in enumerate(PETS)]


def pets_csv(d):
    pets(d); originals.table(d/"labels.csv", "path,class,patient", *[f"{f},{f[:3]},p{i//2}" for i, f in enumerate(PETS)])


def pets_zip(d, compress=zipfile.ZIP_STORED):
    pets_csv(d)
    with zipfile.ZipFile(d/"pets.zip", "w", compress) as z:
        z.write(d/"labels.csv", "labels.csv")
        for f in PETS: z.write(d/f, f)
    for f in ("cat", "dog"): shutil.rmtree(d/f)
    (d/"labels.csv").unlink()


def arrays(n=6, side=8):
    x = np.random.default_rng(0).integers(0, 255, (n, side, side, 3), np.uint8); y = (np.arange(n) % 2)[:, None].astype(np.uint8)
    return dict(train_images=x, train_labels=y, train_groups=np.arange(n)//2, test_images=x[::-1].copy(), test_labels=y[::-1].copy(), test_groups=np.arange(n)//2 + 9)


SIZES = {"pcam-middle": 12, "pcam-small": 4}
BASES = {  # name -> (maker, what reads it)
    "folder": (pets, lambda d, **o: from_folder(d, size=8, **o)),
    "csv": (pets_csv, lambda d, **o: from_csv(d/"labels.csv", size=8, **o)),
    "zip": (pets_zip, lambda d, **o: from_path(d/"pets.zip", size=8, **o)),
    "npz": (lambda d: np.savez(d/"m.npz", **arrays()), lambda d, **o: from_npz(d/"m.npz", size=8, **o)),
    "packed npz": (lambda d: np.savez_compressed(d/"m.npz", **arrays()), lambda d, **o: from_npz(d/"m.npz", size=8, **o)),
    "stl10": (lambda d: originals.stl10(d/"stl10", 10, root="."), lambda d, **o: load("stl10", size=8, **o)),
    "dtd": (lambda d: originals.dtd(d, 3), lambda d, **o: load("dtd", size=8, **o)),
    "isic2018": (lambda d: originals.isic2018(d/"isic2018"), lambda d, **o: load("isic2018", size=8, **o)),
    "chest": (lambda d: originals.chest(d), lambda d, **o: load("chest", size=8, **o)),
    "pcam": (lambda d: originals.pcam(d/"pcam", 8, 4, side=16, chunks=(2, 16, 16, 3)), lambda d, **o: load("pcam-middle", size=8, **{"sizes": SIZES, **o})),
    "kimia960": (lambda d: originals.kimia(d, 2), lambda d, **o: load("kimia960", size=8, **o)),
    "sti10": (lambda d: originals.sti10(d/"sti10", tars=("n02897820",)), lambda d, **o: load("sti10", size=8, **o)),
    "bloodmnist": (lambda d: originals.medmnist(d, "bloodmnist", side=28), lambda d, **o: load("bloodmnist", size=8, **o)),
    "imagenet": (lambda d: [originals.picture(d/"imagenet"/"train"/w/f"{w}_1.JPEG") for w in ("n01440764", "n01443537")], lambda d, **o: load("imagenet", size=8, **o)),
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    "every base, made when it is needed first"
    root, made = tmp_path_factory.mktemp("whole"), {}
    def get(base):
        if base not in made:
            made[base] = root/base; made[base].mkdir(); BASES[base][0](made[base])
        return made[base]
    return get


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work")); monkeypatch.setenv("CATSCANS_DATA", str(tmp_path/"data set"))     # with a space
    return tmp_path/"data set"


def stores(place): return sorted(p.name for p in (place.parent/"work"/"stores").rglob("*") if not p.name.endswith(".lock"))      # a lock is an empty file


# ---- ways to damage a file

def cut(rel, to):
    "truncate: to so many bytes, or to a share of them; negative: from the end"
    def f(d):
        b = (d/rel).read_bytes(); n = int(len(b)*to) if isinstance(to, float) else to if to >= 0 else len(b) + to
        assert n < len(b); (d/rel).write_bytes(b[:n])
    return f


def put(rel, content):
    def f(d): (d/rel).parent.mkdir(parents=True, exist_ok=True); (d/rel).write_bytes(content if isinstance(content, bytes) else content.encode())
    return f


def drop(rel): return lambda d: shutil.rmtree(d/rel) if (d/rel).is_dir() else (d/rel).unlink()
def also(*fs): return lambda d: [f(d) for f in fs]
def edit(rel, old, new, count=1):
    def f(d):
        b = (d/rel).read_bytes(); assert old in b, (rel, old); (d/rel).write_bytes(b.replace(old, new, count))
    return f
def line(rel, i, new): return lambda d: (d/rel).write_text("\n".join([*(r := (d/rel).read_text().splitlines())[:i], *([new] if new is not None else []), *r[i + 1:]]) + "\n")
def picture(rel): return lambda d: originals.picture(d/rel, 77)
def swapped(rel, find):
    "one byte in the middle of some content that a checksum covers"
    def f(d):
        b = bytearray((d/rel).read_bytes()); i = find(d, bytes(b)); b[i] ^= 255; (d/rel).write_bytes(b)
    return f


# ---- images: every format, cut at every kind of place, and what is none

def encoded(fmt, **kw):
    b = io.BytesIO(); Image.fromarray(originals.pixels(1, 64, 64)).save(b, fmt, **kw); return b.getvalue()


FORMATS = dict(jpg=encoded("jpeg"), png=encoded("png"), gif=encoded("gif"), bmp=encoded("bmp"), tif=encoded("tiff"), webp=encoded("webp"), ppm=encoded("ppm"))
PROGRESSIVE = encoded("jpeg", progressive=True)
for suffix, b in FORMATS.items():
    for n in (0, 1, 10, len(b)*3//10, len(b)*6//10): case(f"{suffix} of {n} bytes", "folder", put(f"cat/photo.{suffix}", b[:n]), f"cat/photo.{suffix}")
case("progressive jpg, half", "folder", put("cat/photo.jpg", PROGRESSIVE[:len(PROGRESSIVE)//2]), "cat/photo.jpg")


def other_mode(mode, dtype, fmt="tiff"):
    b = io.BytesIO(); Image.fromarray(np.full((8, 8), 70_000, dtype), mode).save(b, fmt); return b.getvalue()


def bomb():
    "a PNG that says it has 50,000 x 50,000 pixels"
    ihdr = b"IHDR" + (50_000).to_bytes(4, "big")*2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + ihdr + zlib.crc32(ihdr).to_bytes(4, "big") + b"\0\0\0\0IEND\xaeB`\x82"


for name, b in {"a text": "not an image", "a web page": "<html>busy</html>", "zeros": bytes(500), "a zip": b"PK\3\4" + bytes(60), "a bomb": bomb(), "a float tif": other_mode("F", np.float32),
                "a 32-bit tif": other_mode("I", np.int32), "only a jpg's start": b"\xff\xd8\xff\xe0", "a png without pixels": FORMATS["png"][:33] + b"\0\0\0\0IEND\xaeB`\x82"}.items():
    case(f"{name} as image", "folder", put("dog/odd one.png", b), "dog/odd one.png")

# ---- class sub-folders

case("empty folder", "folder", also(drop("cat"), drop("dog")), "is empty")
case("no folders", "folder", also(drop("cat"), drop("dog"), picture("a.png")), "no class sub-folders")
case("one class", "folder", drop("dog"), r"received 1 class \(cat\)")
case("empty class", "folder", lambda d: (d/"cow").mkdir(), "no image in class cow")
case("empty class with a space", "folder", lambda d: (d/"big cow").mkdir(), "no image in class big cow")
case("class of texts", "folder", put("cow/a.txt", "x"), "no image in class cow.*found .txt")
case("class of NIfTI", "folder", put("cow/a.nii", bytes(200)), "no image in class cow.*found .nii")
case("class of broken DICOM", "folder", put("cow/a.dcm", bytes(200)), "1 of 7 images cannot be read: cow/a.dcm")
case("image beside classes", "folder", picture("loose.png"), "loose.png")
case("parts, not classes", "folder", also(drop("cat"), drop("dog"), picture("train/cat/a.png"), picture("test/dog/a.png")), "the parts train, test, not classes|the parts train, test, not classes")
case("dangling link", "folder", lambda d: (d/"cat"/"gone.png").symlink_to("nowhere.png"), "gone.png is a link")
case("folder is a file", "folder", also(drop("cat"), drop("dog"), lambda d: (d.rmdir(), d.write_text("x"))), "is not a folder")
case("folder is not there", "folder", lambda d: shutil.rmtree(d), "there is nothing at .*data set")

# ---- a table

ROW, HEAD = "cat/0.png,cat,p0", "path,class,patient"
T = "labels.csv"
for name, content in {"empty": "", "blank": "\n\n", "zeros": bytes(100), "half of UTF-16": (HEAD + "\n" + ROW).encode("utf-16")[:-1], "letters of no table": HEAD.encode() + bytes(range(1, 256)),
                      "half a letter": (HEAD + "\n" + ROW + "\u00e4").encode()[:-1], "gzip": b"\x1f\x8b\x08" + bytes(range(128, 200)), "open quote": HEAD + '\ncat/0.png,"cat,p0\n',
                      "stray quote": HEAD + '\n"cat/0.png"x,cat,p0\n', "a NUL": HEAD + "\ncat/0.png,c\0at,p0\n", "huge field": HEAD + "\n" + "x"*200_000 + ",cat,p0\n"}.items():
    case(f"table: {name}", "csv", put(T, content), r"labels.csv is not a readable CSV")
case("table: header only", "csv", put(T, HEAD + "\n"), "labels.csv has a header but no rows")
case("table: only a byte order mark and header", "csv", put(T, "\ufeff" + HEAD), "labels.csv has a header but no rows")
for name, head, says in [("no path", "scan,class,patient", "no column path"), ("no class", "path,diagnosis,patient", "no column class"), ("neither", "a,b,c", "no column path, class"),
                         ("semicolons", "path;class;patient", "row 2: 3 fields"),
                         ("two paths", "path,path,class", "two columns 'path'"), ("two classes", "path,class,class", "two columns 'class'"), ("a column less", "path,class", "row 2: 3 fields"),
                         ("a column more", "path,class,patient,age", "row 2: 3 fields")]:
    case(f"table: header with {name}", "csv", line(T, 0, head), f"labels.csv.*{says}")
for i in (1, 3, 6):
    case(f"table: field missing in row {i + 1}", "csv", line(T, i, "cat/0.png"), f"row {i + 1}: 1 fields")
    case(f"table: field too many in row {i + 1}", "csv", line(T, i, ROW + ",x"), f"row {i + 1}: 4 fields")
    case(f"table: cut in row {i + 1}", "csv", lambda d, i=i: (d/T).write_text("\n".join((d/T).read_text().splitlines()[:i] + ["cat/0.p"])), f"row {i + 1}: 1 fields")
    for column, row in {"path": ",cat,p0", "class": "cat/0.png,,p0", "patient": "cat/0.png,cat,"}.items(): case(f"table: no {column} in row {i + 1}", "csv", line(T, i, row), rf"no {column} \(first: row {i + 1}\)")
case("table: class NaN", "csv", line(T, 2, "cat/1.png,nan,p0"), r"1 rows have no class \(first: row 3\)")
case("table: patient NaN", "csv", line(T, 2, "cat/1.png,cat,NaN"), r"1 rows have no patient \(first: row 3\)")
case("table: blank class", "csv", line(T, 2, "cat/1.png,   ,p0"), r"1 rows have no class \(first: row 3\)")
for name, path in {"missing": "cat/9.png", "missing, absolute": "/no/such place/9.png", "a folder": "cat", "very long": "x"*5000 + ".png",
                   "of Windows": "C:\\cat\\0.png", "a url": "https://example.org/0.png"}.items():
    case(f"table: path {name}", "csv", line(T, 1, f"{path},cat,p0"), r"labels.csv names 1 file that is not there: ")
for path in ("../elsewhere.png", "cat/../../elsewhere.png", "..", "./../../etc/hosts", "../data set/cat/0.png"): case(f"table: path {path}", "csv", line(T, 1, f"{path},cat,p0"), f"names {re.escape(path)}, which leaves its folder")
case("table: image twice", "csv", line(T, 2, "cat/0.png,cat,p0"), "lists cat/0.png twice")
case("table: image with two classes", "csv", line(T, 2, "cat/0.png,dog,p0"), "lists cat/0.png with several classes")
case("table: one class", "csv", edit(T, b",dog,", b",cat,", 3), "received 1 class")
case("table: label without file", "csv", drop("dog/1.png"), "not there: dog/1.png")
case("table: dangling link", "csv", also(drop("dog/1.png"), lambda d: (d/"dog"/"1.png").symlink_to("gone.png")), "not there: dog/1.png")
case("table: zero bytes", "csv", put("dog/1.png", b""), "dog/1.png")
case("table: half an image", "csv", cut("dog/1.png", .5), "dog/1.png")
case("table: three broken images", "csv", also(*[put(f"dog/{i}.png", "x") for i in range(3)]), "3 of 6 images cannot be read: dog/0.png")
case("table: is a folder", "csv", also(drop(T), lambda d: (d/T).mkdir()), "labels.csv is a folder")
case("table: not there", "csv", drop(T), "there is nothing at .*labels.csv")
for k, v in dict(path_col="file", class_col="diagnosis", group_col="case").items(): case(f"table: {k} that is not there", "csv", lambda d: None, f"no column {v}", **{k: v})

# ---- a zip archive

for share in (0, 1, 20, .1, .3, .5, .7, .9, .99, -1, -10, -22): case(f"zip: cut to {share}", "zip", cut("pets.zip", share), "pets.zip is not a readable zip")
case("zip: a text", "zip", put("pets.zip", "no archive"), "pets.zip is not a readable zip")
case("zip: zeros", "zip", put("pets.zip", bytes(1000)), "pets.zip is not a readable zip")


def rezip(**change):
    "the archive again, with other members: None leaves one out"
    def f(d):
        with zipfile.ZipFile(d/"pets.zip") as z: old = {n: z.read(n) for n in z.namelist()}
        with zipfile.ZipFile(d/"pets.zip", "w") as z:
            for n, b in {**old, **change}.items():
                if b is not None: z.writestr(n, b)
    return f


def inside(member): return lambda d, b: b.index(zipfile.ZipFile(io.BytesIO(b)).read(member)) + 40
def flag(member, offset, value):
    "set a field in both headers of a member"
    def f(d):
        b = bytearray((d/"pets.zip").read_bytes()); last = b.rindex(member.encode()) - 46
        with zipfile.ZipFile(d/"pets.zip") as z: first = z.getinfo(member).header_offset
        b[first + offset] = value; b[last + offset + 2] = value; (d/"pets.zip").write_bytes(b)
    return f


for m in ("cat/1.png", "dog/2.png"): case(f"zip: a byte of {m}", "zip", swapped("pets.zip", inside(m)), f"{m}.*Bad CRC")
case("zip: a byte of labels.csv", "zip", swapped("pets.zip", inside("labels.csv")), "labels.csv.*Bad CRC")
case("zip: encrypted image", "zip", flag("dog/2.png", 6, 1), "dog/2.png.*(encrypted|password)")
case("zip: unknown compression", "zip", flag("dog/2.png", 8, 77), "dog/2.png.*compression")
case("zip: empty", "zip", rezip(**{n: None for n in ("labels.csv", *PETS)}), "pets.zip is empty")
case("zip: no table, one class", "zip", rezip(**{n: None for n in ("labels.csv", *PETS[3:])}), "pets.zip")
case("zip: file missing", "zip", rezip(**{"dog/1.png": None}), "pets.zip/labels.csv names 1 file that is not there: dog/1.png")
case("zip: table of no use", "zip", rezip(**{"labels.csv": b"a,b\n1,2\n"}), "pets.zip/labels.csv has no column path, class")
case("zip: table in UTF-16", "zip", rezip(**{"labels.csv": HEAD.encode("utf-16")}), "pets.zip/labels.csv has a header but no rows")
case("zip: path that climbs out", "zip", rezip(**{"labels.csv": f"{HEAD}\n../x.png,cat,p\n{ROW}\n".encode()}), "leaves its folder")
case("zip: absolute path", "zip", rezip(**{"labels.csv": f"{HEAD}\n/etc/hosts,dog,p\n{ROW}\n".encode()}), "/etc/hosts, an absolute path")
case("zip: zero bytes", "zip", rezip(**{"dog/1.png": b""}), "dog/1.png")
case("zip: half an image", "zip", rezip(**{"dog/1.png": FORMATS["jpg"][:400]}), "dog/1.png")

# ---- arrays

for base in ("npz", "packed npz"):
    for share in (0, 3, 100, .25, .5, .75, .95, -1, -22): case(f"{base}: cut to {share}", base, cut("m.npz", share), "m.npz is not a readable .npz")
case("npz: a text", "npz", put("m.npz", "no arrays"), "m.npz is not a readable .npz")
case("npz: an .npy", "npz", lambda d: (np.save(d/"x.npy", np.zeros(3)), (d/"x.npy").rename(d/"m.npz")), "m.npz is not a readable .npz")


def other(drop=(), **change):
    def f(d): np.savez(d/"m.npz", **{k: v for k, v in {**arrays(), **change}.items() if k not in drop})
    return f


A = arrays(); X, Y = A["train_images"], A["train_labels"]
for name, change, says in [
        ("float images", dict(train_images=X/255), "train_images is float64 and test_images is uint8"), ("16-bit images", dict(train_images=X.astype(np.uint16)), "train_images is uint16"), ("signed images", dict(test_images=X.astype(np.int8)), "test_images is int8"),
        ("boolean images", dict(train_images=X > 9), "train_images is bool"), ("flat images", dict(train_images=X.reshape(6, -1)), r"train_images is uint8 \(6, 192\)"), ("films", dict(train_images=X[:, None]), "train_images is uint8"),
        ("four channels", dict(train_images=np.zeros((6, 8, 8, 4), np.uint8)), r"\(6, 8, 8, 4\)"), ("channels in the middle", dict(train_images=np.zeros((6, 8, 3, 8), np.uint8)), r"\(6, 8, 3, 8\)"),
        ("no width", dict(train_images=X[:, :, :0]), "train_images"), ("pickled images", dict(train_images=X.astype(object)), "train_images is pickled"), ("pickled labels", dict(train_labels=Y.astype(object)), "train_labels is pickled"),
        ("pickled groups", dict(test_groups=np.array(["a", None]*3, object)), "test_groups is pickled"), 
        ("labels too few", dict(train_labels=Y[:4]), "6 train_images but 4 train_labels"), ("labels too many", dict(train_labels=np.r_[Y, Y]), "6 train_images but 12 train_labels"),
        ("a single label", dict(train_labels=np.uint8(1)), "6 train_images but no list of"), ("several labels", dict(train_labels=np.zeros((6, 14), np.uint8)), "hold labels of different kinds: give each part the same columns"),
        ("float labels", dict(train_labels=Y + .5), "train_labels are float64"), ("NaN labels", dict(train_labels=Y*np.nan), "train_labels are float64"),
        ("negative labels", dict(train_labels=Y.astype(int) - 1), "train_labels holds -1"), ("one negative label", dict(test_labels=np.array([0, 1, 0, -7, 1, 0])), r"test_labels holds -7 \(image 3\)"), ("complex labels", dict(train_labels=Y.astype(complex)), "complex128"),
        ("one class", dict(train_labels=Y*0, test_labels=Y*0), "received 1 class"), ("groups too few", dict(train_groups=np.arange(3)), "3 train_groups for 6 images"), ("NaN groups", dict(train_groups=np.full(6, np.nan)), "train_groups are float64"),
        ("images in columns", dict(train_images=np.asfortranarray(X)), "train_images is stored column by column")]:
    case(f"npz: {name}", "npz", other(**change), f"m.npz.*{says}")
for k in ("train_images", "train_labels", "test_images", "test_labels"): case(f"npz: no {k}", "npz", other((k,)), f"m.npz holds no {k}")
case("npz: groups of one part only", "npz", other(("test_groups",)), "groups are given for 6 of 12 images")
case("npz: other arrays", "npz", lambda d: np.savez(d/"m.npz", scans=X, labels=Y), "holds the arrays scans, labels")
case("npz: no arrays", "npz", lambda d: zipfile.ZipFile(d/"m.npz", "w").close(), "m.npz holds the arrays")
case("npz: a text inside", "npz", lambda d: zipfile.ZipFile(d/"m.npz", "a").writestr("notes.txt", "x"*200), "m.npz is not a readable .npz")


def raw(array): return lambda d, b: b.index(array.tobytes()) + array.nbytes//2
case("npz: a byte of the images", "npz", swapped("m.npz", raw(A["test_images"])), "m.npz.*Bad CRC")
case("npz: a byte of the labels", "npz", lambda d: lie(d, "test_labels", lambda b: b[:-1] + bytes([b[-1] ^ 1]), crc=False), "m.npz.*Bad CRC.*test_labels")
case("npz: a shape that is a lie", "npz", lambda d: lie(d, "train_images", lambda b: b.replace(b"(6, 8, 8, 3)", b"(9, 8, 8, 3)")), r"train_images says it is uint8 \(9, 8, 8, 3\)")
case("npz: a shape beyond measure", "npz", lambda d: lie(d, "train_images", lambda b: b.replace(b"(6, 8, 8, 3), }      ", b"(6000000, 8, 8, 3), }")), r"train_images says it is uint8 \(6000000, 8, 8, 3\)")
case("npz: a shape without an end", "npz", lambda d: lie(d, "train_images", lambda b: b.replace(b"8, 3), }", b"8, 3,   ")), "m.npz is not a readable .npz")
case("npz: half an array", "npz", lambda d: lie(d, "train_images", lambda b: b[:len(b)//2]), "train_images says it is uint8")
case("npz: no header", "npz", lambda d: lie(d, "train_images", lambda b: b"\x93NUMPY"), "m.npz is not a readable .npz")
case("npz: header of nonsense", "npz", lambda d: lie(d, "train_images", lambda b: b.replace(b"'descr'", b"'d(scr'")), "m.npz is not a readable .npz")


def lie(d, key, change, crc=True):
    "replace a member of the .npz; without `crc` its checksum stays that of the old one"
    with zipfile.ZipFile(d/"m.npz") as z: old = {n: z.read(n) for n in z.namelist()}
    new = change(old[f"{key}.npy"]); assert new != old[f"{key}.npy"]
    if not crc:
        b = (d/"m.npz").read_bytes(); i = b.index(old[f"{key}.npy"]); (d/"m.npz").write_bytes(b[:i] + new + b[i + len(new):]); return
    with zipfile.ZipFile(d/"m.npz", "w") as z: [z.writestr(n, new if n == f"{key}.npy" else b) for n, b in old.items()]


case("bloodmnist: cut", "bloodmnist", cut("bloodmnist.npz", .5), "bloodmnist.npz is not a readable .npz")
case("bloodmnist: seven classes", "bloodmnist", lambda d: originals_npz(d, 7), "received 7 classes, its card says 8")


def originals_npz(d, k):
    with np.load(d/"bloodmnist.npz") as z: a = dict(z)
    np.savez(d/"bloodmnist.npz", **{n: v % k if n.endswith("labels") else v for n, v in a.items()})


# ---- STL-10

for f in ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"):
    case(f"stl10: no {f}", "stl10", drop(f"stl10/{f}"), f"holds no {f}")
    for n in (0, .5, -1): case(f"stl10: {f} cut to {n}", "stl10", cut(f"stl10/{f}", n), f[:-5])
    case(f"stl10: {f} too long", "stl10", lambda d, f=f: (d/"stl10"/f).open("ab").write(b"\1"), f[:-5])
for v in (0, 11, 255): case(f"stl10: label {v}", "stl10", put("stl10/test_y.bin", bytes([v] + [1]*9)), f"test_y.bin holds the label {v}")
case("stl10: no names", "stl10", drop("stl10/class_names.txt"), "holds no class_names.txt")
case("stl10: empty names", "stl10", put("stl10/class_names.txt", ""), "class_names.txt: received 0 class names")
case("stl10: a name twice", "stl10", edit("stl10/class_names.txt", b"bird", b"car"), "class_names.txt: received 10 class names, 9 different")
case("stl10: a name more", "stl10", lambda d: (d/"stl10"/"class_names.txt").open("a").write("zebra\n"), "received 11 classes")
case("stl10: names in Latin-1", "stl10", put("stl10/class_names.txt", "V\xf6gel\n".encode("latin-1")), "class_names.txt is not a readable list")
case("stl10: a class without images", "stl10", also(*[put(f"stl10/{p}_y.bin", bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 9])) for p in ("train", "test")]), "no image in class truck")
case("stl10: a folder in place of a file", "stl10", also(drop("stl10/train_y.bin"), lambda d: (d/"stl10"/"train_y.bin").mkdir()), "train_y.bin is not a readable")

# ---- DTD

case("dtd: no images", "dtd", drop("dtd/images"), "that holds images")
case("dtd: an empty class", "dtd", also(*[drop(f"dtd/images/c05/c05_{i}.jpg") for i in range(3)]), "no image in class c05")
case("dtd: a class less", "dtd", drop("dtd/images/c05"), "c05/c05_0.jpg")
case("dtd: label without file", "dtd", drop("dtd/images/c05/c05_1.jpg"), "1 image that is not there: c05/c05_1.jpg")
case("dtd: file without label", "dtd", picture("dtd/images/c05/c05_8.jpg"), "in no list .*c05/c05_8.jpg")
for p in ("train", "val", "test"): case(f"dtd: no list {p}", "dtd", drop(f"dtd/labels/{p}1.txt"), f"{p}1.txt is not there")
case("dtd: an empty list", "dtd", put("dtd/labels/val1.txt", ""), "47 images are in no list")
case("dtd: in two lists", "dtd", edit("dtd/labels/val1.txt", b"c05/c05_1.jpg", b"c05/c05_0.jpg"), "c05/c05_0.jpg, which is in train already")
case("dtd: a list in UTF-16", "dtd", put("dtd/labels/val1.txt", "\u00e4".encode("utf-16")), "val1.txt is not a readable list")
case("dtd: a list that climbs out", "dtd", edit("dtd/labels/val1.txt", b"c05/c05_1.jpg", b"../../x.jpg"), r"not there: \.\./\.\./x.jpg")
case("dtd: half an image", "dtd", cut("dtd/images/c05/c05_1.jpg", .5), "c05/c05_1.jpg")
case("dtd: a dangling link", "dtd", lambda d: (d/"dtd"/"images"/"c05"/"c05_7.jpg").symlink_to("gone"), "c05_7.jpg is a link")
for v in (0, 11, "1"): case(f"dtd: partition {v!r}", "dtd", lambda d: None, "partition of DTD", partition=v)

# ---- ISIC2018

I, G, L = "isic2018/ISIC2018_Task3_Training_Input", "isic2018/ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv", "isic2018/ISIC2018_Task3_Training_LesionGroupings.csv"
S = "ISIC_0024307"
for name, row in {"two classes": "1.0,1.0,0.0,0.0,0.0,0.0,0.0", "no class": "0,0,0,0,0,0,0", "halves": "0.5,0.5,0,0,0,0,0", "minus one": "-1,1,1,0,0,0,0", "a two": "0,2,0,0,0,0,0", "NaN": "nan,1,0,0,0,0,0"}.items():
    case(f"isic: {name}", "isic2018", line(G, 2, f"{S},{row}"), f"GroundTruth.csv, row 3: {S} has")
for name, row, says in [("words", "yes,0,0,0,0,0,0", "GroundTruth.csv is not a readable table"), ("blank", ",1,0,0,0,0,0", "GroundTruth.csv is not a readable table"), ("a column less", "0,1,0,0,0,0", "row 3: 7 fields"), ("a column more", "0,1,0,0,0,0,0,0", "row 3: 9 fields")]:
    case(f"isic: {name}", "isic2018", line(G, 2, f"{S},{row}"), says)
case("isic: no table", "isic2018", drop(G), "holds no ISIC2018_Task3_Training_GroundTruth.csv")
case("isic: empty table", "isic2018", put(G, ""), "GroundTruth.csv is not a readable CSV")
case("isic: table in UTF-16", "isic2018", put(G, "image,MEL".encode("utf-16")), "GroundTruth.csv has a header but no rows")
case("isic: table cut", "isic2018", cut(G, -9), "row 15: [0-9] fields")
case("isic: no image column", "isic2018", edit(G, b"image,", b"name,"), "no column image")
case("isic: six classes", "isic2018", edit(G, b",VASC", b",VASC,VASC"), "two columns 'VASC'")
case("isic: a name that is blank", "isic2018", line(G, 2, ",0,1,0,0,0,0,0"), r"no image \(first: row 3\)")
case("isic: image twice", "isic2018", line(G, 2, "ISIC_0024306,1,0,0,0,0,0,0"), "lists ISIC_0024306 twice")
case("isic: label without file", "isic2018", drop(f"{I}/{S}.jpg"), f"1 images that are not in .*{S}")
case("isic: file without label", "isic2018", picture(f"{I}/ISIC_0099999.jpg"), "1 images without a row .*ISIC_0099999")
case("isic: no images", "isic2018", drop(I), "holds no ISIC2018_Task3_Training_Input")
case("isic: empty folder", "isic2018", also(drop(I), lambda d: (d/I).mkdir()), "14 images that are not in")
case("isic: a class without images", "isic2018", also(*[line(G, i, f"ISIC_{24305 + i:07d},1,0,0,0,0,0,0") for i in (7, 14)]), "no image in class VASC")
case("isic: no lesions", "isic2018", drop(L), "put ISIC2018_Task3_Training_LesionGroupings.csv there")
case("isic: lesion missing", "isic2018", line(L, 2, None), f"no lesion for 1 images: {S}")
case("isic: lesion blank", "isic2018", line(L, 2, f"{S},,histo"), r"LesionGroupings.csv: 1 rows have no lesion_id \(first: row 3\)")
case("isic: lesions without a column", "isic2018", edit(L, b"lesion_id", b"lesion"), "LesionGroupings.csv has no column lesion_id")
case("isic: lesion twice", "isic2018", line(L, 2, "ISIC_0024306,HAM_1,histo"), "LesionGroupings.csv lists ISIC_0024306 twice")
case("isic: lesions cut", "isic2018", cut(L, -20), "LesionGroupings.csv, row 15")
case("isic: half an image", "isic2018", cut(f"{I}/{S}.jpg", .5), f"{S}.jpg")
case("isic: zero bytes", "isic2018", put(f"{I}/{S}.jpg", b""), f"{S}.jpg")
case("isic: a part that does not exist", "isic2018", lambda d: None, "part of ISIC2018: received 'exam'", part="exam")
case("isic: test labels missing", "isic2018", drop("isic2018/ISIC2018_Task3_Test_GroundTruth"), "holds no ISIC2018_Task3_Test_GroundTruth.csv", part="test")

# ---- chest X-rays

for p in ("train", "test"): case(f"chest: no {p}", "chest", drop(f"chest_xray/{p}"), "that holds train" if p == "train" else "holds no test")
for p in ("train", "val", "test"):
    for c, rest in (("NORMAL", "PNEUMONIA"), ("PNEUMONIA", "NORMAL")):
        case(f"chest: no {p}/{c}", "chest", drop(f"chest_xray/{p}/{c}"), f"{p} holds {rest}, needed are")
        case(f"chest: {p}/{c} empty", "chest", also(drop(f"chest_xray/{p}/{c}"), lambda d, p=p, c=c: (d/"chest_xray"/p/c).mkdir()), f"{p}/{c} holds no image")
case("chest: a third class", "chest", picture("chest_xray/test/COVID/a.jpeg"), "test holds COVID, NORMAL, PNEUMONIA")
case("chest: no patient", "chest", picture("chest_xray/test/NORMAL/scan 7.jpeg"), "from the file name test/NORMAL/scan 7.jpeg")
case("chest: half an image", "chest", cut("chest_xray/test/NORMAL/IM-0315-0001.jpeg", .5), "test/NORMAL/IM-0315-0001.jpeg")
case("chest: a dangling link", "chest", lambda d: (d/"chest_xray"/"test"/"NORMAL"/"IM-9.jpeg").symlink_to("gone"), "IM-9.jpeg is a link")

# ---- PCam

H = lambda p, k: f"pcam/{originals.PCAM.format(p, k)}.h5"
for p in ("train", "valid", "test"):
    for k in "xy":
        for n in (0, 7, 300, .5, -1): case(f"pcam: {p}_{k} cut to {n}", "pcam", cut(H(p, k), n), f"{p}_{k}.h5 is not a readable HDF5 file")
        case(f"pcam: no {p}_{k}", "pcam", drop(H(p, k)), f"holds no camelyonpatch_level_2_split_{p}_{k}.h5")
        case(f"pcam: {p}_{k} still packed", "pcam", lambda d, p=p, k=k: (d/H(p, k)).rename(d/(H(p, k) + ".gz")), f"{p}_{k}.h5.gz is packed")
    case(f"pcam: a row less in {p}_meta", "pcam", line(H(p, "meta").replace(".h5", ".csv"), 3, None), f"{p}_meta.csv has 7 rows for 8 patches")
    case(f"pcam: no {p}_meta", "pcam", drop(H(p, "meta").replace(".h5", ".csv")), f"not for {p}")


def h5(p, k, key=None, **data):
    def f(d):
        (d/H(p, k)).unlink()
        with h5py.File(d/H(p, k), "w") as h:
            for n, v in (data or {key or k: key}).items(): h[n] = v
    return f


PX, PY = np.zeros((8, 16, 16, 3), np.uint8), (np.arange(8) % 2).astype(np.uint8).reshape(8, 1, 1, 1)
for name, k, v, says in [("floats", "x", PX/255, "x is float64"), ("16 bits", "x", PX.astype(np.uint16), "x is uint16"), ("grey", "x", PX[..., 0], r"x is uint8 \(8, 16, 16\)"), ("one channel", "x", PX[..., :1], r"\(8, 16, 16, 1\)"),
                         ("no rows", "x", PX[:0], r"\(0, 16, 16, 3\)"), ("a row less", "y", PY[:7], "y is uint8"), ("a row more", "y", np.r_[PY, PY[:1]], "y is uint8"), ("float labels", "y", PY*1., "y is float64"),
                         ("NaN labels", "y", PY*np.nan, "y is float64"), ("a label 2", "y", PY + 1, "holds the label 2"), ("a label -1", "y", PY.astype(np.int8) - 1, "holds the label -1"), ("text labels", "y", np.array([b"a"]*8), r"y is \|S1")]:
    case(f"pcam: {name}", "pcam", h5("valid", k, **{k: v}), f"valid_{k}.h5.*{says}")
for k in "xy":
    case(f"pcam: another key for {k}", "pcam", h5("valid", k, images=PX), f"valid_{k}.h5 holds images, needed is a dataset {k}")
    case(f"pcam: a group named {k}", "pcam", h5("valid", k, **{f"{k}/inner": PX}), f"needed is a dataset {k}")
    case(f"pcam: a text as {k}", "pcam", put(H("valid", k), "not HDF5"), f"valid_{k}.h5 is not a readable HDF5 file")
    case(f"pcam: zeros as {k}", "pcam", put(H("valid", k), bytes(5000)), f"valid_{k}.h5 is not a readable HDF5 file")
case("pcam: no wsi", "pcam", edit(H("test", "meta").replace(".h5", ".csv"), b"wsi", b"slide"), "test_meta.csv has no column wsi")
case("pcam: blank wsi", "pcam", line(H("test", "meta").replace(".h5", ".csv"), 2, "1,1,1,True,True,"), r"test_meta.csv: 1 rows have no wsi \(first: row 3\)")


def wipe_chunk(d):
    "zeros over a compressed chunk: its filter cannot unpack that"
    rng = np.random.default_rng(1); f = d/H("train", "x"); f.unlink()
    with h5py.File(f, "w") as h:
        x = h.create_dataset("x", data=rng.integers(0, 255, (8, 16, 16, 3), np.uint8), chunks=(2, 16, 16, 3), compression="gzip", fletcher32=True); at = [x.id.get_chunk_info(i) for i in range(4)]
    b = bytearray(f.read_bytes())
    for c in at: b[c.byte_offset:c.byte_offset + c.size] = bytes(c.size)
    f.write_bytes(b)


case("pcam: chunks of zeros", "pcam", wipe_chunk, "train_x.h5 is not a readable")
case("pcam: too few patches", "pcam", lambda d: None, "500 patches are drawn", sizes={"pcam-middle": 500, "pcam-small": 4})

# ---- Kimia, STI-10, ImageNet

case("kimia: another name", "kimia960", picture("KIMIA_path_960/overview.tif"), "overview.tif is not named")
case("kimia: small letters", "kimia960", picture("KIMIA_path_960/a9.tif"), "a9.tif is not named")
case("kimia: a class less", "kimia960", also(drop("KIMIA_path_960/T1.tif"), drop("KIMIA_path_960/T2.tif")), "received 19 classes, its card says 20")
case("kimia: a class more", "kimia960", picture("KIMIA_path_960/U1.tif"), "received 21 classes, its card says 20")
case("kimia: half an image", "kimia960", cut("KIMIA_path_960/C2.tif", .5), "C2.tif")
case("kimia: zero bytes", "kimia960", put("KIMIA_path_960/C2.tif", b""), "C2.tif")
case("sti10: a synset less", "sti10", drop("sti10/n07840804"), r"n07840804 \(egg\)")
case("sti10: an empty synset", "sti10", also(drop("sti10/n07840804"), lambda d: (d/"sti10"/"n07840804").mkdir()), r"n07840804 \(egg\)")
case("sti10: no image in a synset", "sti10", also(drop("sti10/n07840804"), put("sti10/n07840804/urls.csv", "x")), r"n07840804 \(egg\)")
case("sti10: half an image", "sti10", cut("sti10/n07840804/n07840804_1.JPEG", .5), "n07840804_1.JPEG")
TAR = "sti10/n02897820.tar"
for n in (0, 100, 512, 700, 1024, 1600): case(f"sti10: tar cut to {n}", "sti10", cut(TAR, n), "n02897820")
case("sti10: a packed tar", "sti10", lambda d: (d/TAR).write_bytes(gzip.compress((d/TAR).read_bytes())), "n02897820.tar is not a readable tar")
case("sti10: a text as tar", "sti10", put(TAR, "no tar"*200), "n02897820.tar is not a readable tar")


def tar_with(member, **kw):
    def f(d):
        with tarfile.open(d/TAR, "a") as t: i = tarfile.TarInfo(member); [setattr(i, k, v) for k, v in kw.items()]; t.addfile(i)
    return f


case("sti10: a symbolic link", "sti10", tar_with("n02897820_9.JPEG", type=tarfile.SYMTYPE, linkname="/etc/hosts"), "holds a link")
case("sti10: a hard link", "sti10", tar_with("n02897820_9.JPEG", type=tarfile.LNKTYPE, linkname="n02897820_0.JPEG"), "holds a link")
case("sti10: an image of zero bytes", "sti10", tar_with("n02897820_9.JPEG"), "n02897820_9.JPEG")
case("sti10: a header overwritten", "sti10", lambda d: (d/TAR).write_bytes((b := (d/TAR).read_bytes())[:(i := b.index(b"n02897820_1"))] + bytes([255]*300) + b[i + 300:]), "n02897820.tar is not a readable tar")
case("imagenet: two classes", "imagenet", lambda d: None, "received 2 classes, its card says 1000")
case("imagenet: an empty class", "imagenet", also(drop("imagenet/train/n01440764/n01440764_1.JPEG")), "no image of n01440764")
case("imagenet: no class", "imagenet", also(drop("imagenet/train/n01440764"), drop("imagenet/train/n01443537")), "holds no synsets")
case("imagenet: no validation images", "imagenet", lambda d: None, "holds no val", part="val")
case("imagenet: no devkit", "imagenet", picture("imagenet/val/ILSVRC2012_val_00000001.JPEG"), "ILSVRC2012_validation_ground_truth.txt, of the devkit", part="val")
case("imagenet: damaged devkit", "imagenet", also(picture("imagenet/val/ILSVRC2012_val_00000001.JPEG"), put("imagenet/devkit/ILSVRC2012_validation_ground_truth.txt", "1\n"), put("imagenet/devkit/meta.mat", "no matrix")), "meta.mat is not a readable devkit file", part="val")


# ---- the tests

@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_one_clear_error_and_nothing_left(name, whole, place):
    base, damage, culprit, options = CASES[name]
    shutil.copytree(whole(base), place); damage(place)
    before = stores(place)
    with pytest.raises(Exception) as e: BASES[base][1](place, **options)
    assert type(e.value) is UserError, repr(e.value)
    message = str(e.value)
    assert re.search(culprit, message), message
    assert "\n" not in message and "Traceback" not in message and len(message) < 3000, message
    assert stores(place) == before == [], "something is left behind"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("base", [b for b in BASES if b != "imagenet"])      # the smallest whole ImageNet has 1,000 classes
def test_the_same_undamaged_is_read(base, whole, place):
    "the cases above fail because of the damage alone, also in a folder with a space"
    shutil.copytree(whole(base), place)
    images = BASES[base][1](place)
    assert len(images) >= 6 and set(images.y) == set(range(len(images.classes)))


def test_there_are_enough(): assert len(CASES) >= 200, len(CASES)


SAID = ("stl10: a name twice", "dtd: a class less", "dtd: no list val", "isic: two classes", "isic: lesion missing", "isic: half an image", "chest: a third class", "chest: no patient",
        "kimia: another name", "sti10: a synset less", "sti10: a text as tar", "one class", "table: no path in row 2", "table: image twice", "zip: file missing", "zip: a text")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SAID)
def test_on_the_command_line_too(name, whole, place, tmp_path, capsys, monkeypatch):
    "one line, exit code 2, nothing left: in process, for a case of each kind"
    base, damage, culprit, options = CASES[name]; assert not options
    shutil.copytree(whole(base), place); damage(place)
    own = {"folder": place, "csv": place/"labels.csv", "zip": place/"pets.zip"}.get(base)
    if own: (tmp_path/"empty").mkdir(); monkeypatch.setenv("CATSCANS_DATA", str(tmp_path/"empty"))
    assert main(["data", "add", str(own), "--name", "new"] if own else ["data", "check", base]) == 2
    out, err = capsys.readouterr()
    lines = [l for l in err.splitlines() if l.startswith("catscans: error: ")]
    assert out == "" and len(lines) == 1 and "Traceback" not in err and (re.search(culprit, lines[0]) or own and own.name in lines[0]), err
    assert stores(place) == [] and not (own and list((tmp_path/"empty").iterdir()))


def test_the_command_line_says_it_in_one_line(whole, place, capsys):
    shutil.copytree(whole("stl10"), place); cut("stl10/train_X.bin", -1)(place)
    assert main(["data", "check", "stl10"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "train_X.bin has" in err and "Traceback" not in err
