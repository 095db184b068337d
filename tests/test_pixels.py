"""Pixels, files and identity as people have them: what was loaded without a word and wrong becomes right, or is refused with what to do.

Every case is checked on the loaded pixels and labels; inputs come from Pillow, from bytes written by hand, from NumPy and, for DICOM, from pydicom."""
import io, os, struct, warnings, zipfile, zlib
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from catscans.core.basics import Note, UserError
from catscans.datasets.added import add, check_added
from catscans.datasets.depths import Depth, depth_of, shared_range
from catscans.datasets.images import decode
from catscans.datasets.own import from_csv, from_folder, from_npz, from_path
from catscans.study.cli import main


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work")); monkeypatch.setenv("CATSCANS_DATA", str(tmp_path/"data")); (tmp_path/"data").mkdir()
    return tmp_path


def loud(f, *a, **kw):
    "what a call gives, and its notes"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always"); out = f(*a, **kw)
    assert all(w.category is Note for w in heard), [str(w.message) for w in heard if w.category is not Note]
    return out, " | ".join(str(w.message) for w in heard)


# ---- three writers of deep images, each of a ramp over the columns

def ramp(hi, dtype=np.uint16, lo=0): return np.tile(np.linspace(lo, hi, 16).round(0 if np.dtype(dtype).kind in "ui" else 6), (16, 1)).astype(dtype)
def pillow(fmt, **kw):
    def w(a): Image.fromarray(a).save(b := io.BytesIO(), fmt, **kw); return b.getvalue()
    return w
def png_by_hand(a):
    part = lambda kind, d: struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d))
    colour = {2: 0, 3: {1: 0, 2: 4, 3: 2, 4: 6}.get(a.shape[-1])}[a.ndim]
    return (b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", a.shape[1], a.shape[0], 16, colour, 0, 0, 0))
            + part(b"IDAT", zlib.compress(b"".join(b"\0" + r.astype(">u2").tobytes() for r in a))) + part(b"IEND", b""))
def tiff_by_hand(a, photometric=1, order="<"):
    "one strip, without compression"
    n = 1 if a.ndim == 2 else a.shape[2]; bits = 8*a.dtype.itemsize; kind = {"u": 1, "i": 2, "f": 3}[a.dtype.kind]
    data = a.astype(a.dtype.newbyteorder(order)).tobytes(); tags = [(256, 4, a.shape[1]), (257, 4, a.shape[0]), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, n), (278, 4, a.shape[0]), (279, 4, len(data)), (339, 3, kind)]
    pack = lambda t, k, v: struct.pack(order + "HHI", t, k, 1) + (struct.pack(order + "HH", v, 0) if k == 3 else struct.pack(order + "I", v))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(data))
    return head + data + struct.pack(order + "H", len(tags)) + b"".join(pack(*t) for t in tags) + bytes(4)
def pgm(a, most=65535): return b"P5 %d %d %d\n" % (*a.shape[::-1], most) + a.astype(">u2").tobytes()

DEEP = dict(png=(pillow("PNG"), "png"), tiff=(pillow("TIFF"), "tif"), lzw=(pillow("TIFF", compression="tiff_lzw"), "tif"), jp2=(pillow("JPEG2000"), "jp2"),
            png_hand=(png_by_hand, "png"), tiff_hand=(tiff_by_hand, "tiff"), tiff_motorola=(lambda a: tiff_by_hand(a, order=">"), "tif"), pgm=(pgm, "pgm"))


def folder(at, files):
    for name, data in files.items(): (at/name).parent.mkdir(parents=True, exist_ok=True); (at/name).write_bytes(data)
    return at


@pytest.mark.parametrize("bits", (10, 12, 14, 16))
@pytest.mark.parametrize("writer", DEEP)
def test_deep_files_share_the_fewest_bits_that_hold_them(place, writer, bits):
    w, suffix = DEEP[writer]; hi = 2**bits - 1
    d = folder(place/"scans", {f"a/0.{suffix}": w(ramp(hi)), f"b/0.{suffix}": w(ramp(hi//2))})
    im, said = loud(from_folder, d, size=16)
    assert im.range == im.card.range == (0, hi) and f"0 to {hi} ({bits} bits)" in said
    assert im.x[0].max() == 255 and im.x[0].min() == 0 and abs(int(im.x[1].max()) - 127) <= 1
    np.testing.assert_array_equal(im.x[0][0, :, 0], ramp(hi)[0] >> (bits - 8))


@pytest.mark.parametrize("channels", (2, 3, 4))
def test_deep_colour_keeps_both_bytes(place, channels):
    a = np.repeat(ramp(4095)[..., None], channels, 2)
    half = a//2
    if channels in (2, 4): a[..., -1] = half[..., -1] = 65535        # opaque: no value of the image
    d = folder(place/"scans", {"a/0.png": png_by_hand(a), "b/0.png": png_by_hand(half)})
    im = loud(from_folder, d, size=16)[0]; assert im.range == (0, 4095)
    assert im.x[0].max() == 255 and len(np.unique(im.x[0])) == 16


@pytest.mark.parametrize("order", "<")
@pytest.mark.parametrize("hi", (4095, 65535))
def test_zero_is_white_where_tiff_says_so(hi, order):
    white, black = (decode(tiff_by_hand(ramp(hi), p, order), 16)[0, :, 0].astype(int) for p in (0, 1))
    assert (white[0], white[-1], black[0], black[-1]) == (255, 0, 0, 255) and (white + black == 255).all()
    eight = decode(tiff_by_hand(ramp(255, np.uint8), 0), 16)[0, :, 0]
    assert eight[0] == 255 and eight[-1] == 0


ODD = dict(int32=(tiff_by_hand(ramp(255, np.int32)), "range=8"), int32_large=(tiff_by_hand(ramp(70_000, np.int32)), r"range=\(0, 70000\)"), uint32=(tiff_by_hand(ramp(4095, np.uint32)), "range=12"),
           int16=(tiff_by_hand(ramp(2000, np.int16, -1000)), r"range=\(-1000, 2000\)"), int8=(tiff_by_hand(ramp(100, np.int8, -100)), r"range=\(-128, 127\)"), float_unit=(tiff_by_hand(ramp(1, np.float32)), r"range=\(0, 1\)"),
           float_hu=(tiff_by_hand(ramp(300, np.float32, -200)), r"range=\(-200, 300\)"), pillow_i=(pillow("TIFF")(ramp(255, np.int32)), "range=8"), pillow_f=(pillow("TIFF")(ramp(1, np.float32)), r"range=\(0, 1\)"))


@pytest.mark.parametrize("name", ODD)
def test_numbers_without_one_way_to_grey_are_refused_and_read_with_a_range(place, name):
    data, says = ODD[name]; d = folder(place/"scans", {"a/0.tif": data, "b/0.tif": data})
    with pytest.raises(UserError, match=f"a/0.tif.*{says}"): from_folder(d, size=16)
    lo, hi = {"int32": (0, 255), "int32_large": (0, 70_000), "uint32": (0, 4095), "int16": (-1000, 2000), "int8": (-100, 100), "float_unit": (0, 1), "float_hu": (-200, 300), "pillow_i": (0, 255), "pillow_f": (0, 1)}[name]
    im, _ = loud(from_folder, d, size=16, range=(lo, hi))
    row = im.x[0][0, :, 0].astype(float)
    assert np.abs(row - np.linspace(0, 255, 16)).max() <= 1.5 and im.range == (lo, hi)


@pytest.mark.parametrize("eight", ("png", "jpeg", "bmp", "gif", "webp"))
@pytest.mark.parametrize("deep", ("png", "tiff", "pgm"))
def test_eight_bits_beside_more_are_refused_unless_a_range_is_stated(place, eight, deep):
    d = folder(place/"scans", {f"a/0.{DEEP[deep][1]}": DEEP[deep][0](ramp(1000)), f"b/0.{eight}": pillow(eight.upper())(np.full((16, 16), 200, np.uint8))})
    with pytest.raises(UserError, match="range=10"): from_folder(d, size=16)
    im, _ = loud(from_folder, d, size=16, range=10)
    assert abs(int(im.x[1].max()) - 200) <= 2 and abs(int(im.x[0].max()) - 250) <= 1


def test_a_subset_and_new_images_have_the_range_of_the_whole(place):
    d = folder(place/"scans", {f"{c}/{i}.png": pillow("PNG")(ramp(300 if i or c == "b" else 4095)) for c in "ab" for i in range(9)})
    (im, _), (few, _) = loud(from_folder, d, size=16), loud(from_folder, d, size=16, max_images=2)
    assert im.range == few.range == im.subset(np.arange(3)).range == im.subset(im.y == 1).range == (0, 4095)
    new = folder(place/"new", {f"{c}/0.png": pillow("PNG")(ramp(300)) for c in "ab"})
    assert loud(from_folder, new, size=16, range=im.range)[0].x.max() == 18 and loud(from_folder, new, size=16)[0].x.max() == 75
    assert add(d, "scans", say=lambda s: None)["range"] == [0, 4095]


@pytest.mark.parametrize("fmt", ("GIF", "TIFF", "PNG", "WEBP"))
def test_pages_after_the_first_are_counted(place, fmt):
    pages = [Image.new("L", (16, 16), v) for v in (90, 200, 30)]; pages[0].putpixel((0, 0), 0)
    b = io.BytesIO(); pages[0].save(b, fmt, save_all=True, append_images=pages[1:], **({"lossless": True} if fmt == "WEBP" else {}))
    d = folder(place/"scans", {f"a/0.{fmt.lower()}": b.getvalue(), "b/0.png": pillow("PNG")(ramp(255, np.uint8))})
    im, said = loud(from_folder, d, size=16)
    assert "more than one page or frame, of which the first is read: 2 left out" in said and f"a/0.{fmt.lower()} has 3" in said
    assert abs(int(im.x[0][8, 8, 0]) - 90) <= 1


@pytest.mark.parametrize("value", (0, 128, 255))
def test_constant_images_are_named(place, value):
    d = folder(place/"scans", {"a/flat one.png": pillow("PNG")(np.full((9, 9), value, np.uint8)), "b/0.png": pillow("PNG")(ramp(255, np.uint8))})
    im, said = loud(from_folder, d, size=16)
    assert "1 image is of one colour (a/flat one.png)" in said and any("a/flat one.png" in n for n in im.notes)
    assert "a/flat one.png" in loud(from_folder, d, size=16)[1], "said again when the store is opened"


def test_masks_of_0_and_1_are_said_and_can_be_seen(place):
    d = folder(place/"scans", {f"{c}/0.{f}": pillow(f.upper())(np.eye(16, dtype=np.uint8)) for c, f in (("a", "png"), ("b", "bmp"))})
    im, said = loud(from_folder, d, size=16); assert im.x.max() == 1 and "state range=(0, 1)" in said
    assert loud(from_folder, d, size=16, range=(0, 1))[0].x.max() == 255


def test_a_range_is_checked():
    assert shared_range({"a": Depth("16", 0, 5)}, "x", "12") == (0, 4095)
    for bad in (9, (5, 5), "a,b"):
        with pytest.raises(UserError, match="range: received"): decode(np.zeros((9, 9), np.uint16), 9, range=bad)


# ---- DICOM

dicom = pytest.mark.skipif(find_spec("pydicom") is None, reason="needs pydicom")


def scan(values, **tags):
    "a DICOM file as pydicom writes it"
    from pydicom.dataset import Dataset, FileMetaDataset
    ds = Dataset(); ds.file_meta = FileMetaDataset(); ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"; ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    *n, ds.Rows, ds.Columns = values.shape[:3] if values.ndim == 3 and values.shape[2] != 3 else values.shape[:2]
    colour = values.ndim == 3 and values.shape[2] == 3; bits = 8*values.dtype.itemsize
    ds.SamplesPerPixel = 3 if colour else 1; ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"; ds.PixelRepresentation = int(values.dtype.kind == "i")
    if colour: ds.PlanarConfiguration = 0
    if n: ds.NumberOfFrames = n[0]
    ds.BitsAllocated = ds.BitsStored = bits; ds.HighBit = bits - 1; ds.PixelData = values.tobytes()
    for k, v in tags.items(): setattr(ds, k, v)
    ds.save_as(b := io.BytesIO(), enforce_file_format=True); return b.getvalue()


CT = ramp(2000, np.int16, -1000)
SCANS = {  # what it is -> (file, first and last grey level, range)
    "12 bits": (lambda: scan(ramp(4095)), (0, 255), None), "monochrome 1": (lambda: scan(ramp(4095), PhotometricInterpretation="MONOCHROME1"), (255, 0), None),
    "8 bits": (lambda: scan(ramp(200, np.uint8)), (0, 200), None), "8 bits, monochrome 1": (lambda: scan(ramp(200, np.uint8), PhotometricInterpretation="MONOCHROME1"), (255, 55), None),
    "a window": (lambda: scan(CT, WindowCenter=500, WindowWidth=3001), (0, 255), None), "two windows": (lambda: scan(CT, WindowCenter=[500, 40], WindowWidth=[3001, 80]), (0, 255), None),
    "slope": (lambda: scan(ramp(3000), RescaleSlope=1, RescaleIntercept=-1000, WindowCenter=500, WindowWidth=3001), (0, 255), None),
    "a window, monochrome 1": (lambda: scan(CT, WindowCenter=500, WindowWidth=3001, PhotometricInterpretation="MONOCHROME1"), (255, 0), None),
    "a stated range beats the window": (lambda: scan(CT, WindowCenter=40, WindowWidth=80), (0, 255), (-1000, 2000)), "Hounsfield": (lambda: scan(ramp(3000), RescaleSlope=1, RescaleIntercept=-1000), (0, 255), (-1000, 2000)),
    "colour": (lambda: scan(np.repeat(ramp(240, np.uint8)[..., None], 3, 2)), (0, 240), None), "sigmoid": (lambda: scan(CT, WindowCenter=500, WindowWidth=300, VOILUTFunction="SIGMOID"), (0, 255), None)}


@dicom
@pytest.mark.parametrize("name", SCANS)
def test_dicom(place, name):
    make, (first, last), span = SCANS[name]; d = folder(place/"scans", {f"{c}/0.dcm": make() for c in "ab"})
    im, _ = loud(from_folder, d, size=16, range=span)
    assert abs(int(im.x[0][0, 0, 0]) - first) <= 1 and abs(int(im.x[0][0, -1, 0]) - last) <= 1


@dicom
def test_dicom_that_needs_a_range_or_mixes_windows_is_refused(place):
    for files, says in (({f"{c}/0.dcm": scan(CT) for c in "ab"}, r"negative pixels from -1000 to 2000.*range=\(-1000, 2000\)"),
                        ({"a/0.dcm": scan(ramp(4095)), "b/0.dcm": scan(CT, WindowCenter=40, WindowWidth=80)}, "cannot be compared.*range=12")):
        with pytest.raises(UserError, match=says): from_folder(folder(place/str(len(says)), files), size=16)
    d = folder(place/"film", {f"{c}/0.dcm": scan(np.stack([ramp(4095)]*5)) for c in "ab"})
    assert "8 left out (a/0.dcm has 5, b/0.dcm has 5)" in loud(from_folder, d, size=16)[1]


@pytest.mark.parametrize("form", ("folder", "zip", "csv", "file"))
def test_dicom_without_pydicom_says_what_to_install(place, monkeypatch, form):
    import sys
    monkeypatch.setitem(sys.modules, "pydicom", None)
    d = folder(place/"scans", {f"{c}/{i}.dcm": bytes(128) + b"DICM" + bytes([i])*50 for c in "ab" for i in range(2)})
    if form == "csv": (d/"scans.csv").write_text(rows("path,class", *[f"{c}/{i}.dcm,{c}" for c in "ab" for i in range(2)]))
    if form == "zip":
        with zipfile.ZipFile(place/"scans.zip", "w") as z: [z.write(f, f.relative_to(d)) for f in d.rglob("*.dcm")]
    at = dict(zip=place/"scans.zip", csv=d/"scans.csv", file=d/"a"/"0.dcm").get(form, d)
    for read in (lambda: decode(at, 16),) if form == "file" else (lambda: from_path(at, size=16), lambda: add(at, "s", say=lambda s: None)):
        with pytest.raises(UserError, match=r"^DICOM files are read with pydicom, which is not installed: pip install 'catscans\[dicom\]', or convert the images to PNG"): read()


# ---- tables

PICTURES = {f"{c}/s {i}.png": pillow("PNG")(np.full((9, 9), 40*i + 20*(c == "b"), np.uint8)) for c in "ab" for i in range(3)}
WANTED = ["a/s 0.png", "a/s 1.png", "b/s 0.png", "b/s 2.png"]


def rows(head, *lines): return "\n".join([head, *lines]) + "\n"


TABLES = {  # what is special -> bytes of labels.csv
    "plain": rows("path,class", "a/s 0.png,é", "a/s 1.png,é", "b/s 0.png,z", "b/s 2.png,z").encode(), "utf-8 mark": rows("path,class", *[f"{p},{'é' if p[0] == 'a' else 'z'}" for p in WANTED]).encode("utf-8-sig"),
    **{how: rows("path,class", *[f"{p},{'é' if p[0] == 'a' else 'z'}" for p in WANTED]).encode(how) for how in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1")},
    "file_name": rows("file_name,class", *[f"{p},{'é' if p[0] == 'a' else 'z'}" for p in WANTED]).encode(), "capitals": rows("Image,Label", *[f"{p},{'é' if p[0] == 'a' else 'z'}" for p in WANTED]).encode(),
    "blanks in the header": rows("path, class", *[f"{p},{'é' if p[0] == 'a' else 'z'}" for p in WANTED]).encode(), "backslashes": rows("path,class", *[f"{p},{'é' if p[0] == 'a' else 'z'}" for p in WANTED]).replace("/", "\\").encode(),
    "without suffix": rows("id,class", *[f"{p[:-4]},{'é' if p[0] == 'a' else 'z'}" for p in WANTED]).encode(), "other capitals": rows("path,class", *[f"{p.upper()},{'é' if p[0] == 'a' else 'z'}" for p in WANTED]).encode(),
    "label of words": rows("path,label", *[f"{p},{'é' if p[0] == 'a' else 'z'}" for p in WANTED]).encode(), "one-hot": rows("path,z,é", *[f"{p},{int(p[0] == 'b')},{int(p[0] == 'a')}" for p in WANTED]).encode(),
    **{f"cut at {k!r}": rows("path,class,age", *[f"{p},{'é' if p[0] == 'a' else 'z'},4" for p in WANTED]).replace(",", k).encode() for k in ";\t|"},
    "semicolons, decimal commas, quotes": rows('"path";"age";"class"', *[f'"{p}";4,5;"{"é" if p[0] == "a" else "z"}"' for p in WANTED]).encode(),
    "one-hot as floats": rows("file_name,é,z", *[f"{p},{float(p[0] == 'a')},{float(p[0] == 'b')}" for p in WANTED]).encode(), "one-hot beside an age": rows("image,age,é,z", *[f"{p},{40 + i},{int(p[0] == 'a')},{int(p[0] == 'b')}" for i, p in enumerate(WANTED)]).encode()}


@pytest.mark.parametrize("form", ("csv", "folder", "zip", "metadata"))
@pytest.mark.parametrize("name", TABLES)
def test_tables_as_people_save_them(place, name, form):
    signs = {"';'": "semicolons", r"'\t'": "tabs", "'|'": "bars", "quotes": "semicolons"}
    table = "metadata.csv" if form == "metadata" else "labels.csv"
    if form == "metadata" and "one-hot" in name: pytest.skip("metadata.csv holds a class column")
    d = folder(place/"set", {**PICTURES, table: TABLES[name]})
    if form == "zip":
        with zipfile.ZipFile(place/"set.zip", "w") as z:
            for f in [*PICTURES, table]: z.write(d/f, f)
    im, said = loud({"csv": lambda: from_csv(d/table, size=9), "zip": lambda: from_path(place/"set.zip", size=9)}.get(form, lambda: from_path(d, size=9)))
    assert said.count("its fields are cut at " + signs[name.split()[-1]]) == 1 if name.split()[-1] in signs else "are cut at" not in said
    assert sorted(im.classes) == ["z", "é"] and [im.classes[i] for i in im.y] == ["é", "é", "z", "z"]
    assert im.x[:, 0, 0, 0].tolist() == [0, 40, 20, 100] and im.paths.tolist() == WANTED


@pytest.mark.parametrize("text,says", [("path,class\ns 0,a\ns 1,b\n", "could be a/s 0.png, b/s 0.png"), ("path,a,b\na/s 0.png,1,0\na/s 1.png,0,0\n", "row 3 has 0 with 1.*--class-col"), ("path,a,b\na/s 0.png,0,0\na/s 1.png,0,1\n", "needed is a single 1"),
                                       ("what,class\na/s 0.png,a\n", "no column path.*--path-col"), ("path,class\nC:\\a.png,a\n", "not there"), ("path,class\n..\\x.png,a\n", "leaves its folder")])
def test_tables_that_stay_refused_say_what_to_do(place, text, says):
    d = folder(place/"set", {**PICTURES, "l.csv": text.encode()})
    with pytest.raises(UserError, match=says): loud(from_csv, d/"l.csv", size=9)


# ---- arrays

X, Y = (np.arange(6*8*8) % 251).reshape(6, 8, 8).astype(np.uint8), np.array([0, 1, 1, 0, 1, 0])
ARRAYS = {"keras": dict(x_train=X, y_train=Y), "keras, two parts": dict(x_train=X[:4], y_train=Y[:4], x_test=X[4:], y_test=Y[4:]), "capitals": dict(X_train=X, Y_train=Y), "plain": dict(images=X, labels=Y), "X y": dict(X=X, y=Y), "data target": dict(data=X, target=Y),
          "one-hot": dict(train_images=X, train_labels=np.eye(2)[Y]), "one-hot, whole": dict(x=X, y=np.eye(2, dtype=int)[Y]), "channel in front": dict(x=X[:, None], y=Y), "channel behind": dict(x=X[..., None], y=Y), "column": dict(x=X, y=Y[:, None].astype(float)),
          "words": dict(x=X, y=np.array(["cat", "dog"])[Y]), "bytes": dict(x=X, y=np.array([b"cat", b"dog"])[Y]), "colour in front": dict(x=np.repeat(X[:, None], 3, 1), y=Y), "unit": dict(x=X/255, y=Y), "unit, single": dict(x=(X/255).astype(np.float32), y=Y),
          "16 bits": dict(x=(X.astype(np.uint16)*16 + 15).astype(np.uint16), y=Y), "validation": dict(train_images=X[:4], train_labels=Y[:4], valid_images=X[4:], valid_labels=Y[4:])}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_as_people_save_them(place, name):
    np.savez(place/"m.npz", **ARRAYS[name])
    im, said = loud(from_npz, place/"m.npz", size=8)
    np.testing.assert_allclose(im.x[..., 0].astype(int), X, atol=1); assert im.y.tolist() == Y.tolist()
    assert "not read" not in said


def test_arrays_that_are_not_read_are_named_and_those_that_cannot_be_are_refused(place):
    np.savez(place/"m.npz", x_train=X, y_train=Y, names=np.array(["a", None], object), x_extra=X)
    assert "arrays that are not read: names, x_extra" in loud(from_npz, place/"m.npz", size=8)[1]
    for arrays, says in ((dict(x=X*1., y=Y), r"floating-point pixels from 0 to 250.*range=\(0, 250\)"), (dict(x=X.astype(np.int64), y=Y), "range=8"), (dict(x=X, y=np.ones((6, 3))), "multi-label"), (dict(a=X, b=Y), "or x_train and y_train"),
                         (dict(x_train=X, y_train=Y, x_test=X/255, y_test=Y), "x_train is uint8 and x_test is float64: save all parts in one type")):
        np.savez(place/"n.npz", **arrays)
        with pytest.raises(UserError, match=says): loud(from_npz, place/"n.npz", size=8)
    np.savez(place/"n.npz", x=X*1., y=Y); np.testing.assert_array_equal(from_npz(place/"n.npz", size=8, range=(0, 255)).x[..., 0], X)


@pytest.mark.parametrize("suffix,fmt", [("jfif", "JPEG"), ("jp2", "JPEG2000"), ("JPE.JPG", "JPEG"), ("TIF", "TIFF")])
def test_suffixes(place, suffix, fmt):
    d = folder(place/"scans", {f"{c}/0.{suffix}": pillow(fmt)(ramp(200, np.uint8)) for c in "ab"})
    assert abs(int(from_folder(d, size=16).x.max()) - 200) < 6


def test_a_zip_of_windows_is_read_as_its_folder(place):
    folder(place/"set", PICTURES)
    with zipfile.ZipFile(place/"set.zip", "w") as z:
        for f, b in PICTURES.items(): z.writestr(f.replace("/", "\\"), b)
    (one, _), (two, _) = loud(from_path, place/"set", size=9), loud(from_path, place/"set.zip", size=9)
    assert one.fingerprint == two.fingerprint and one.paths.tolist() == two.paths.tolist()


# ---- identity

def bmp(v): return pillow("BMP")(np.full((9, 9), v, np.uint8))


@pytest.mark.parametrize("form", ("folder", "csv", "npz", "zip"))
def test_a_store_is_not_taken_for_other_files_of_the_same_names_sizes_and_times(place, form):
    means = []
    for v, grey in (("v1", 50), ("v2", 200)):
        d = folder(place/v/"scans", {"a/0.bmp": bmp(grey), "b/0.bmp": bmp(grey + 1), "labels.csv": b"path,class\na/0.bmp,a\nb/0.bmp,b\n"})
        if form == "npz": np.savez(d/"m.npz", images=np.full((4, 9, 9), grey, np.uint8), labels=np.arange(4) % 2)
        if form == "zip":
            with zipfile.ZipFile(d/"m.zip", "w") as z: [z.writestr(zipfile.ZipInfo(f), (d/f).read_bytes()) for f in ("a/0.bmp", "b/0.bmp")]
        for f in d.rglob("*.*"): os.utime(f, (0, 0))
        means.append(loud(from_path, {"folder": d, "csv": d/"labels.csv"}.get(form, d/f"m.{form}"), size=9)[0].x.mean())
    assert [round(m) for m in means] in ([50, 200], [51, 201], [50, 201], [50, 200])


@pytest.mark.parametrize("changed", ("a/0.bmp", "b/1.bmp", "labels.csv", "pixels.npy", "labels.npy", "meta.json", "seal.json"))
@pytest.mark.parametrize("where", (0.4, -3))
def test_check_notices_one_changed_byte_of_files_and_store(place, changed, where):
    table = changed == "labels.csv"
    d = folder(place/"scans", {f"{c}/{i}.bmp": bmp(60*i + 5) for c in "ab" for i in range(2)})
    if table: folder(d, {"labels.csv": b"path,class,age\n" + b"".join(f"{c}/{i}.bmp,{c},444444\n".encode() for c in "ab" for i in range(2))})
    add(d, "s", say=lambda s: None); assert loud(check_added, "s")[0].name == "s"
    f = d/changed if (d/changed).exists() else next((place/"work"/"stores").glob(f"*/{changed}"))
    st, b = f.stat(), bytearray(f.read_bytes()); at = int(where*len(b)) if where > 0 else len(b) + where
    b[at] ^= 1; f.write_bytes(b); os.utime(f, ns=(st.st_atime_ns, st.st_mtime_ns))
    try: said = loud(check_added, "s")[1]
    except UserError as e: said = str(e)
    assert any(w in said for w in ("has changed", "are damaged", "not what was written", "cannot be read", "not there", "has no", "class"))


def test_check_reads_the_files_whatever_is_kept(place, monkeypatch):
    from catscans.datasets import contents
    monkeypatch.setattr(contents, "KEPT_FROM", 0); monkeypatch.setattr(contents, "may_be_kept", lambda *a: True); monkeypatch.setattr(contents, "sign_of", lambda p: [1, 2, 3, 4, 5])
    d = folder(place/"scans", {f"{c}/0.bmp": bmp(60) for c in "ab"}); add(d, "s", say=lambda s: None)
    (d/"a"/"0.bmp").write_bytes(bmp(61))                                     # even where nothing tells that the file has changed
    with pytest.raises(UserError, match="has changed"): loud(check_added, "s")


def test_data_check_says_it(place, capsys):
    d = folder(place/"scans", {f"{c}/0.bmp": bmp(60) for c in "ab"}); assert main(["data", "add", str(d), "--name", "s"]) == 0
    assert main(["data", "check", "s"]) == 0; (d/"b"/"0.bmp").write_bytes(bmp(61)); capsys.readouterr()
    assert main(["data", "check", "s"]) == 2 and "has changed, 1 of its files are others (first: b/0.bmp)" in capsys.readouterr().err


def test_depth_is_read_from_the_head_alone():
    for fmt in ("JPEG", "PNG", "BMP", "WEBP"): assert depth_of(pillow(fmt)(ramp(200, np.uint8))[:60]).kind == "8"
