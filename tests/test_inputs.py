"""What people give to a program on a bad day: at least twelve inputs of each of eight kinds, each held to the pixels, classes, groups and parts that it must give.

Everything is made here, by different hands: Pillow, PNG, BMP, PGM and TIFF written byte by byte, `csv` and pandas, `zipfile`, `tarfile`, NumPy and h5py.
An image is one grey level, by which it is known again."""
import csv, io, os, re, struct, tarfile, warnings, zipfile, zlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catscans.core.basics import Note, UserError
from catscans.datasets.added import add, check_added
from catscans.datasets.doctor import checks, examine
from catscans.datasets.images import decode
from catscans.datasets.loading import load
from catscans.datasets.own import from_folder, from_path
from catscans.datasets.splits import make_splits, official_splits, shared_group_rate, single_split
from catscans.recommend.ranking import load_target
from catscans.study import main

pytestmark = pytest.mark.slow(15)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    "stores and added images of a test are its own, and nobody writes to where the test stands"
    for k in ("data", "work"): monkeypatch.setenv(f"CATSCANS_{k.upper()}", str(tmp_path/k))
    (tmp_path/"data").mkdir()
    (tmp_path/"here").mkdir()
    monkeypatch.chdir(tmp_path/"here")
    return tmp_path


# ---- images, by five hands

SIDE = 10


def flat(v): return np.full((SIDE, SIDE), v, np.uint8)


def pillow(v, kind="PNG", **how):
    Image.fromarray(flat(v) if isinstance(v, int) else v).save(b := io.BytesIO(), kind, **how)
    return b.getvalue()


def part(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, size, depth=8, colour=0, more=b""):
    "a PNG of packed rows, by hand"
    return (b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)) + more
            + part(b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows))) + part(b"IEND", b""))


def png_hand(v): return png([bytes([v])*SIDE]*SIDE, (SIDE, SIDE))
def pgm_hand(v): return b"P5\n# made by hand\n%d %d\n255\n" % (SIDE, SIDE) + bytes([v])*SIDE*SIDE


def bmp_hand(v, upside=False):
    "24 bits; rows are filled up to four bytes"
    row = bytes([v, v, v])*SIDE + bytes(-3*SIDE % 4)
    return b"BM" + struct.pack("<IHHI", 54 + len(row)*SIDE, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, SIDE, -SIDE if upside else SIDE, 1, 24, 0, 0, 0, 0, 0, 0) + row*SIDE


def tiff_hand(data, size, tags):
    "one strip of bytes, and tags (number, kind, values) beside the usual ones"
    tags = {256: (4, [size[0]]), 257: (4, [size[1]]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 273: (4, [8]), 277: (3, [1]), 278: (4, [size[1]]), 279: (4, [len(data)])} | tags
    at, body, entries = 8 + len(data), b"", b""
    end = at + 2 + 12*len(tags) + 4
    for n, (kind, values) in sorted(tags.items()):
        raw = b"".join(struct.pack("<H" if kind == 3 else "<I", v) for v in values)
        if len(raw) > 4:
            entries += struct.pack("<HHII", n, kind, len(values), end + len(body))
            body += raw
        else: entries += struct.pack("<HHI", n, kind, len(values)) + raw.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", at) + data + struct.pack("<H", len(tags)) + entries + bytes(4) + body


def tiff_flat(v): return tiff_hand(bytes([v])*SIDE*SIDE, (SIDE, SIDE), {})


# ---- containers: a folder, a zip with entries of its own order, a tar that is added

def files(root, tree, image=pillow):
    "relative path -> grey level, or bytes as they are"
    for rel, v in tree.items():
        (root/rel).parent.mkdir(parents=True, exist_ok=True)
        (root/rel).write_bytes(image(v) if isinstance(v, int) else v)
    return root


def zipped(path, tree, image=bmp_hand, store=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", store) as z:
        for rel, v in reversed(tree.items()): z.writestr(zipfile.ZipInfo(rel), image(v) if isinstance(v, int) else v)
    return path


def tarred(path, tree, image=pgm_hand):
    with tarfile.open(path, "w:gz") as t:
        for rel, v in tree.items():
            data = image(v) if isinstance(v, int) else v
            (i := tarfile.TarInfo(f"./{rel}")).size = len(data)
            t.addfile(i, io.BytesIO(data))
    return path


def loud(f, *a, **kw):
    "what a call gives, and its notes; nothing else may be said"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        out = f(*a, **kw)
    assert all(w.category is Note for w in heard), [str(w.message) for w in heard if w.category is not Note]
    said = [str(w.message) for w in heard]
    assert not any("\n" in s for s in said)
    return out, " | ".join(s for s in said if "of one colour" not in s and "nearly black" not in s)


def by_tar(path, **reading):
    "what is read of an archive that was added"
    said = []
    add(path, "tarred", say=said.append, **reading)
    (images, more) = loud(load, "tarred", size=SIDE)
    return images, " | ".join(said) + more


def told(images, group=False, split=False):
    "(class, grey level[, group][, part]) of each image, sorted"
    x = images.x
    assert (x == x[:, :1, :1, :1]).all(), "each image is one grey level"
    return sorted((images.classes[c], int(x[i, 0, 0, 0]), *([str(images.groups[i])] if group else []), *([str(images.split[i])] if split else []))
                  for i, c in enumerate(images.y))


# ---- 2. layout

def tree(*folders, n=2, start=10): return {f"{d}/{i}.png": start + 10*k + i for k, d in enumerate(folders) for i in range(n)}


CATS = tree("cat", "dog")
PLAIN = [("cat", 10), ("cat", 11), ("dog", 20), ("dog", 21)]
def under(d, of=CATS): return {f"{d}/{k}": v for k, v in of.items()}


LAYOUTS = {  # files -> classes and grey levels, or words of the refusal; and how they are read
    "each class in a folder of its own name": ({k.replace("/", f"/{k[:3]}/"): v for k, v in CATS.items()}, PLAIN, {}),
    "a class deeper than the other": ({"cat/0.png": 10, "cat/more/even/1.png": 11, "dog/0.png": 20, "dog/1.png": 21}, PLAIN, {}),
    "a wrapper with papers beside the classes": (under("pets-v2/data") | {"pets-v2/README.md": b"x", "pets-v2/data/licence.pdf": b"x", "pets-v2/docs/how.txt": b"x"}, PLAIN, {}),
    "what editors and systems leave": (CATS | {"cat/.ipynb_checkpoints/0-checkpoint.png": 99, "dog/.~lock.0.png#": b"x", ".git/objects/1.png": 99, "lost+found/2.png": 99, "#recycle/3.png": 99}, PLAIN, {}),
    "other files beside images": (CATS | {"cat/0.png.bak": b"x", "cat/0.xml": b"<a/>", "dog/1.json": b"{}", "dog/2.dcm.txt": b"x"}, PLAIN, {}),
    "one numbered training set beside another": (under("train1") | under("train2", {k: v + 50 for k, v in CATS.items()}), "holds the parts train1, train2", {}),
    "pooled parts, one without classes": (under("train") | {"test/0.png": 60}, "the part test holds images without a class: parts are taken", dict(parts="pool")),
    "CycleGAN": ({"trainA/0.png": 1, "trainB/0.png": 2, "testA/0.png": 3, "testB/0.png": 4}, "holds the parts", {}),
    "parts in capitals with dates": (under("TRAIN_2019") | under("TEST_2019", {k: v + 50 for k, v in CATS.items()}), "holds the parts TRAIN_2019, TEST_2019", {}),
    "pooled parts, one class in capitals": (under("train") | {"test/Cat/9.png": 60, "test/dog/9.png": 70}, sorted([*PLAIN, ("cat", 60), ("dog", 70)]), dict(parts="pool", rename={"Cat": "cat"})),
    "pooled parts, a class that was called otherwise": (under("train") | {"test/feline/9.png": 60, "test/dog/9.png": 70}, sorted([*PLAIN, ("cat", 60), ("dog", 70)]), dict(parts="pool", rename={"feline": "cat"})),
    "pooled parts, capitals and no word of it": (under("train") | {"test/Cat/9.png": 60, "test/dog/9.png": 70}, "--rename Cat=cat", dict(parts="pool")),
    "pooled folds with a blank behind a class": (under("fold_1") | {"fold_2/cat /9.png": 60, "fold_2/dog/9.png": 70}, sorted([*PLAIN, ("cat", 60), ("dog", 70)]), dict(parts="pool")),
    "masks in a folder of masks, by class": (under("images") | under("Ground Truth", dict.fromkeys(CATS, 255)), PLAIN, {}),
    "overlays": (CATS | {"cat/0_contour.png": 200, "dog/1_annotation.png": 201}, PLAIN, {}),
    "an image beside the classes, one folder down": (under("pets") | {"pets/preview.png": 99}, "1 image.* beside .*preview.png", {}),
    "classes by number, ten of them": (tree(*map(str, range(11)), n=1), [(str(i), 10 + 10*i) for i in sorted(range(11), key=str)], {}),
    "a class whose name has a dot": (tree("v1.0", "v1.5"), [("v1.0", 10), ("v1.0", 11), ("v1.5", 20), ("v1.5", 21)], {}),
}
MAKERS = {"folder, Pillow": lambda root, t: (from_path, files(root, t)), "zip, BMP by hand": lambda root, t: (from_path, zipped(root.with_suffix(".zip"), t)),
          "tar, PGM by hand": lambda root, t: (by_tar, tarred(root.with_suffix(".tgz"), t))}


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name, made, place):
    t, want, reading = LAYOUTS[name]
    read, path = MAKERS[made](place/"set", t)
    if isinstance(want, str):
        with pytest.raises(UserError, match=want): loud(read, path, **reading, **({} if read is by_tar else dict(size=SIDE)))
        return
    images = read(path, **reading)[0] if read is by_tar else loud(read, path, size=SIDE, **reading)[0]
    assert told(images) == want
    if path.is_dir(): assert told(loud(from_folder, path, size=SIDE, **reading)[0]) == want


TABLED = CATS | {"labels.csv": b"path,class\ncat/0.png,x\ncat/1.png,y\ndog/0.png,x\ndog/1.png,y\n"}
BY_TABLE = [("x", 10), ("x", 20), ("y", 11), ("y", 21)]


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("name,t", {"beside the classes": TABLED, "in one folder": under("set-1", TABLED), "in two folders": under("a/b", TABLED), "in capitals": {("Labels.CSV" if k == "labels.csv" else k): v for k, v in TABLED.items()}}.items())
def test_a_table_is_found_where_it_lies(name, t, made, place):
    read, path = MAKERS[made](place/"set", t)
    images = read(path)[0] if read is by_tar else loud(read, path, size=SIDE)[0]
    assert told(images) == BY_TABLE


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("t,said", [(tree("north/cat", "south/dog"), "every class holds one folder .cat, dog."), (tree("2019/cat", "2019/dog", "2020/cat", "2020/dog"), "the same folders .cat, dog."), (tree("cat/cat", "dog/dog"), ""), (tree("cat/images", "dog/scans"), "")])
def test_folders_that_may_be_the_classes_are_said(t, said, made, place):
    read, path = MAKERS[made](place/"set", t)
    images, notes = read(path) if read is by_tar else loud(read, path, size=SIDE)
    assert images.classes == sorted({k.split("/")[0] for k in t}) and bool(re.search(said or "the classes are taken to be", notes)) == bool(said)


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("name", ["annotations.csv", "Train.tsv", "labels.xlsx", "metadata.jsonl"])
def test_a_table_that_is_not_read_is_named(name, made, place):
    read, path = MAKERS[made](place/"set", CATS | {name: b"path,diagnosis\ncat/0.png,x\n"})
    images, said = read(path) if read is by_tar else loud(read, path, size=SIDE)
    assert told(images) == PLAIN and re.search(f"{re.escape(name)}.* not read", said)


ZIPS = {  # what is wrong with an archive -> entries (name, content), and what is read or said
    "every name begins with ./": ([(f"./{k}", v) for k, v in CATS.items()], PLAIN),
    "one name twice": ([*CATS.items(), ("cat/0.png", 99)], "cat/0.png.* twice"),
    "names that climb": ([*CATS.items(), ("../dog/2.png", 99)], r"\.\./dog/2.png"),
    "absolute names": ([(f"/{k}", v) for k, v in CATS.items()], "/cat/0.png"),
    "a name of another machine": ([(f"C:\\pets\\{k}", v) for k, v in CATS.items()], "C:"),
    "folders as entries": ([("cat/", b""), ("dog/", b""), *CATS.items()], PLAIN),
    "an empty class": ([*CATS.items(), ("cow/", b"")], "no image in class cow"),
    "letters as Windows writes them": ([(k.replace("cat", "k\xe4tze"), v) for k, v in CATS.items()], [("dog", 20), ("dog", 21), ("k\xe4tze", 10), ("k\xe4tze", 11)]),
    "a zip in a zip": ([("cats.zip", b"PK\5\6" + bytes(18)), ("dogs.zip", b"PK\5\6" + bytes(18))], "unpack"),
    "nothing": ([], "is empty|holds no file"),
    "a workbook": ([("[Content_Types].xml", b"<a/>"), ("xl/workbook.xml", b"<a/>"), ("xl/worksheets/sheet1.xml", b"<a/>")], "workbook.*CSV"),
}


@pytest.mark.parametrize("name", ZIPS)
def test_archive(name, place):
    entries, want = ZIPS[name]
    with warnings.catch_warnings(), zipfile.ZipFile(p := place/("set.xlsx" if name == "a workbook" else "set.zip"), "w") as z:
        warnings.simplefilter("ignore")
        for k, v in entries: z.writestr(zipfile.ZipInfo(k), png_hand(v) if isinstance(v, int) else v)
    if isinstance(want, list):
        assert told(loud(from_path, p, size=SIDE)[0]) == want
        return
    for read in (lambda: loud(from_path, p, size=SIDE), lambda: add(p, "x", say=lambda s: None)):
        with pytest.raises(UserError, match=want) as e: read()
        assert "\n" not in str(e.value)


def locked(path):
    "a zip whose entries say, in both headers, that they are encrypted"
    b = bytearray(zipped(path, CATS).read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        i = -1
        while (i := b.find(mark, i + 1)) >= 0: b[i + at] |= 1
    path.write_bytes(b)
    return path


# ---- a table, by three hands: the csv module beside the images, pandas in a zip, bytes by hand in a folder

def by_csv(root, columns, image=pillow):
    files(root, {f"{i}.png": 10 + i for i in range(len(next(iter(columns.values()))))}, image)
    with open(root/"mine.csv", "w", newline="", encoding="utf-8") as f:
        w = csv.writer(f, quoting=csv.QUOTE_ALL)
        w.writerows([["path", *columns], *[[f"{i}.png", *r] for i, r in enumerate(zip(*columns.values()))]])
    return root/"mine.csv"


def by_pandas(root, columns):
    n = len(next(iter(columns.values())))
    df = pd.DataFrame(dict(file_name=[f"img/{i}.bmp" for i in range(n)]) | columns)
    return zipped(root.with_suffix(".zip"), {f"img/{i}.bmp": 10 + i for i in range(n)} | {"labels.csv": df.to_csv().encode("utf-8-sig")})


def by_hand(root, columns):
    "utf-16, with lines of Windows, in a folder"
    quoted = lambda v: '"' + str(v).replace('"', '""') + '"'
    n = len(next(iter(columns.values())))
    rows = [",".join(["image", *columns])] + [",".join([f"{i}", *map(quoted, r)]) for i, r in enumerate(zip(*columns.values()))]
    return files(root, {f"{i}.pgm": 10 + i for i in range(n)} | {"labels.csv": ("\r\n".join(rows) + "\r\n").encode("utf-16")}, pgm_hand)


def by_npz(root, columns):
    n = len(columns["class"])
    np.savez(root.with_suffix(".npz"), images=np.stack([flat(10 + i) for i in range(n)]), labels=np.array([str(v) for v in columns["class"]]),
             **({"groups": np.array([str(v) for v in columns["patient"]])} if "patient" in columns else {}))
    return root.with_suffix(".npz")


TABLES = {"csv": by_csv, "pandas in a zip": by_pandas, "bytes in a folder": by_hand, "npz": by_npz}


# ---- 3. labels

LABELS = {  # labels of 0.png, 1.png, ... -> the class of each, or words of the refusal
    "a blank that does not break": (["cat", "cat\xa0", "\xa0cat", "dog"], ["cat", "cat", "cat", "dog"]),
    "a soft hyphen": (["mela\xadnoma", "melanoma", "nevus", "nevus"], ["melanoma", "melanoma", "nevus", "nevus"]),
    "marks of direction": (["\u200ecat\u200f", "cat", "\u202acat\u202c", "dog"], ["cat", "cat", "cat", "dog"]),
    "wide letters": (["\uff23\uff21\uff34", "CAT", "CAT", "DOG"], "--rename"),
    "wide digits": (["\uff11", "1", "1", "2"], "--rename"),
    "a line of two": (["no\nfinding", "no finding", "mass", "mass"], ["no finding", "no finding", "mass", "mass"]),
    "tied with _ and with a blank": (["no_finding", "no finding", "no finding", "mass"], "--rename no_finding='no finding'"),
    "tied with - and with _": (["no-finding", "no_finding", "no_finding", "mass"], "--rename no-finding=no_finding"),
    "numbers with noughts before": (["01", "1", "1", "2"], "--rename 01=1"),
    "words that are numbers elsewhere": (["inf", "1e5", "0x10", "inf"], ["inf", "1e5", "0x10", "inf"]),
    "quotes and commas": (['the "good", the', "bad", "bad", 'the "good", the'], ['the "good", the', "bad", "bad", 'the "good", the']),
    "a sign at the end tells them apart": (["HER2+", "HER2-", "HER2+", "HER2-"], ["HER2+", "HER2-", "HER2+", "HER2-"]),
    "not labelled": (["cat", "dog", "unlabelled", "cat"], "1 image has no class"),
    "to do": (["cat", "dog", "TODO", "cat"], "1 image has no class"),
    "an error of Excel": (["cat", "dog", "#REF!", "cat"], "1 image has no class"),
    "a letter that only looks like another": (["\u0421AT", "CAT", "CAT", "DOG"], "look alike|--rename"),
    "faces": (["\U0001f63a", "\U0001f436", "\U0001f63a", "\U0001f436"], ["\U0001f63a", "\U0001f436", "\U0001f63a", "\U0001f436"]),
}


def test_an_npz_called_zip_is_read_as_what_it_is(place):
    p = by_npz(place/"set", {"class": list("abab"), "patient": list("1122")})
    q = p.rename(p.with_suffix(".zip"))
    want = [("a", 10, "1"), ("a", 12, "2"), ("b", 11, "1"), ("b", 13, "2")]
    assert told(loud(from_path, q, size=SIDE)[0], group=True) == want == told(by_tar(q)[0], group=True)


@pytest.mark.parametrize("made", TABLES)
@pytest.mark.parametrize("name", LABELS)
def test_labels(name, made, place):
    labels, want = LABELS[name]
    path = TABLES[made](place/"set", {"class": labels})
    if isinstance(want, str):
        with pytest.raises(UserError, match=re.escape(want) if "rename " in want else want): loud(from_path, path, size=SIDE)
        return
    images, _ = loud(from_path, path, size=SIDE)
    assert told(images) == sorted((c, 10 + i) for i, c in enumerate(want))


NUMBERS = {  # labels of an array -> classes in order, or words
    "bytes of 8 bits": (np.array([3, 200, 3, 7], np.uint8), ["3", "7", "200"]), "Motorola's order": (np.array([0, 2, 10, 2], ">i4"), ["0", "2", "10"]),
    "truth": (np.array([True, False, True, False]), ["0", "1"]), "halves": (np.array([0, .5, 1, 1]), "needed are whole numbers"), "no number": (np.array([0, np.nan, 1, 1]), "needed are whole numbers"),
    "below zero": (np.array([0, -1, 1, 1], np.int8), "labels count from 0"), "a column": (np.array([[0], [1], [1], [0]], np.uint16), ["0", "1"]), "a deep column": (np.array([0, 1, 1, 0])[:, None, None], ["0", "1"]),
    "words with blanks": (np.array(["b ", "a", "b", "a"]), ["a", "b"]), "too few": (np.array([0, 1, 1]), "4 images but 3 labels"), "one class": (np.zeros(4, int), "received 1 class"), "huge": (np.array([0, 2**40, 0, 1]), ["0", "1", str(2**40)]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_labels_of_arrays(name, place):
    y, want = NUMBERS[name]
    (np.savez_compressed if "e" in name else np.savez)(place/"m.npz", images=np.stack([flat(10 + i) for i in range(4)]), labels=y)
    if isinstance(want, str):
        with pytest.raises(UserError, match=want): loud(from_path, place/"m.npz", size=SIDE)
        return
    images, _ = loud(from_path, place/"m.npz", size=SIDE)
    words = [str(v).strip() if y.dtype.kind == "U" else str(int(v)) for v in y.ravel()]
    assert images.classes == want and told(images) == sorted((w, 10 + i) for i, w in enumerate(words))


# ---- 4. groups

GROUPS = {  # patients of 0.png, 1.png, ... -> the group of each, or words of the refusal
    "a blank that does not break": (["p1", "p1\xa0", "p2", "p3"], "1123"), "an unseen mark": (["p1", "\ufeffp1", "p2", "p3"], "1123"), "noughts before": (["007", "7", "8", "9"], "1123"),
    "tied otherwise": (["P_12", "P-12", "P 12", "P_13"], "1112"), "wide digits": (["p\uff11", "p1", "p2", "p3"], "1123"), "numbers as Excel has them": (["12.0", "12", "13.0", "14"], "1123"),
    "an error of Excel": (["p1", "#VALUE!", "p2", "p3"], "1 image has no"), "a name was taken out": (["p1", "ANONYMOUS", "anonymous", "p3"], "2 images have no"),
    "taken out otherwise": (["p1", "de-identified", "p2", "REDACTED"], "2 images have no"), "to be done": (["p1", "tbd", "p2", "p3"], "1 image has no"), "dots": (["p1", "...", "p2", "p3"], "1 image has no"),
    "crosses": (["p1", "xxx", "p2", "XXX"], "2 images have no"), "numbers that differ late": (["10000000000000000001", "10000000000000000002", "3", "4"], "1234"), "dates": (["2019-03-01", "2019-03-02", "2019-03-01", "x"], "1213"),
}


@pytest.mark.parametrize("made", TABLES)
@pytest.mark.parametrize("name", GROUPS)
def test_groups(name, made, place):
    groups, want = GROUPS[name]
    path = TABLES[made](place/"set", {"class": list("abab"), "patient": groups})
    if " " in want:
        with pytest.raises(UserError, match=want): loud(from_path, path, size=SIDE)
        return
    images, _ = loud(from_path, path, size=SIDE)
    at = {x: str(g) for (_, x, g) in told(images, group=True)}
    assert len(at) == 4 and all((at[10 + i] == at[10 + j]) == (want[i] == want[j]) for i in range(4) for j in range(4))


def names_of(*patients, form="P{:04}_{}.png"):
    "file names of patients with so many images each"
    return [form.format(p + 1, i + 1) for p, n in enumerate(patients) for i in range(n)]


NAMED = {  # paths, class of each -> what is suspected, or nothing
    "one image of most patients": (names_of(*[1]*40, *[2]*4), None, "names"), "two eyes": ([f"{p}_{s}.jpeg" for p in range(10, 30) for s in ("left", "right")], None, "names"),
    "two views": ([f"pat{p:02}-{s}.png" for p in range(20) for s in ("CC", "MLO")], None, "names"), "slices": ([f"vol{p}_slice{s:03}.png" for p in range(6) for s in range(9)], None, "names"),
    "one image of each": (names_of(*[1]*40), None, None), "numbers only": ([f"{i:05}.png" for i in range(40)], None, None), "a camera": ([f"IMG_2019_{i:04}.jpg" for i in range(40)], None, None),
    "minutes of a clock": ([f"2021-03-{d:02} 10.{m:02}.{(7*m + d) % 60:02}.png" for d in range(1, 9) for m in (3, 8, 19, 19, 31)], None, None),
    "classes that are numbered": ([f"KL{c}_{i:03}.png" for c in range(6) for i in range(8)], [f"KL{c}" for c in range(6) for _ in range(8)], None),
    "folders of classes": ([f"images/KL{c}/{i}.jpg" for c in range(6) for i in range(8)], [str(c) for c in range(6) for _ in range(8)], None),
    "parts and classes": ([f"{p}/grade{c}/{i}.jpg" for p in ("train", "test") for c in range(4) for i in range(6)], [f"grade{c}" for _ in "ab" for c in range(4) for _ in range(6)], None),
    "classes in parts": ([f"grade{c}/{p}/{i}.jpg" for p in ("Train", "Val", "Test") for c in range(4) for i in range(6)], [f"g{c}" for _ in "abc" for c in range(4) for _ in range(6)], None),
    "patients in classes": ([f"{'ab'[p % 2]}/pat{p}/{i}.png" for p in range(12) for i in range(4)], ["ab"[p % 2] for p in range(12) for _ in range(4)], "sub-folders"),
    "patients in a folder of images": ([f"images/{p:04}/{i}.png" for p in range(12) for i in range(4)], ["ab"[p % 2] for p in range(12) for _ in range(4)], "sub-folders"),
    "patients in parts": ([f"{('train', 'test')[p % 2]}/s{p}/{i}.png" for p in range(12) for i in range(4)], ["ab"[i % 2] for p in range(12) for i in range(4)], "sub-folders"),
}


def path_table(place, paths, labels, maker):
    t = {p: 3 + i for i, p in enumerate(paths)}
    if maker == "folder": return files(place/"set", {f"{c}/{p}": v for (p, v), c in zip(t.items(), labels)})
    rows = pd.DataFrame({"path": paths, "class": labels})
    if maker == "zip": return zipped(place/"set.zip", t | {"labels.csv": rows.to_csv(index=False).encode()})
    files(place/"set", t, png_hand)
    with open(place/"set"/"l.csv", "w", newline="") as f: csv.writer(f).writerows([["path", "class"], *zip(paths, labels)])
    return place/"set"/"l.csv"


@pytest.mark.parametrize("maker", ("csv", "zip", "folder"))
@pytest.mark.parametrize("name", NAMED)
def test_patients_in_names(name, maker, place):
    paths, labels, want = NAMED[name]
    paths = list(dict.fromkeys(paths))
    labels = labels or ["ab"[i//2 % 2] for i in range(len(paths))]
    if maker == "folder" and "/" in paths[0] and name != "patients in a folder of images": return      # the folders are the classes there
    images, _ = loud(from_path, path_table(place, paths, labels, maker), size=8)
    said = [s for s in checks(images) if "look like groups" in s]
    assert len(images) == len(paths) and (want is None and not said or bool(want) and len(said) == 1 and want in said[0]), said


def test_one_patient_with_most_of_the_images_is_said(place):
    "a word for nobody that is in no list"
    path = by_csv(place/"set", {"class": list("ab")*20, "patient": ["Zentrum Nord"]*20 + [f"p{i//2}" for i in range(20)]})
    images, said = loud(from_path, path, size=SIDE)
    assert len(set(images.groups)) == 11 and "Zentrum Nord" in said and "20 of 40" in said
    assert "one patient" not in loud(from_path, by_csv(place/"even", {"class": list("ab")*20, "patient": [f"p{i//4}" for i in range(40)]}), size=SIDE)[1]


@pytest.mark.parametrize("key", ["patient", "patients", "patient_id", "PatientID", "group", "subject_ids"])
@pytest.mark.parametrize("before", ["", "train_"])
def test_patients_of_an_array(key, before, place):
    "read under the names that a table may have, named where they look like it"
    x, y, g = np.stack([flat(10 + i) for i in range(6)]), np.arange(6) % 2, np.arange(6)//2
    np.savez(place/"m.npz", **{f"{before}images": x, f"{before}labels": y, f"{before}{key}": g})
    images, said = loud(from_path, place/"m.npz", size=SIDE)
    if images.groups is None: assert re.search(f"{before}{key} looks like a group", said)
    else: assert told(images, group=True) == sorted((str(i % 2), 10 + i, str(i//2)) for i in range(6))
    assert (images.groups is not None) == (key in ("patient", "patients", "patient_id", "group"))


# ---- 1. identity: what is changed while names, sizes and times stay

def keeping_times(*paths):
    "to be called once the files were changed: it gives them their old times"
    old = [(p, p.stat()) for p in paths]
    return lambda: [os.utime(p, ns=(s.st_atime_ns, s.st_mtime_ns)) for p, s in old]


def swap(a, b): x, y = a.read_bytes(), b.read_bytes(); a.write_bytes(y); b.write_bytes(x)


def rewrite(path, old, new):
    assert old in (data := path.read_bytes()) and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def two_table(d, more=b""): return files(d, {f"{i}.bmp": 10 + i for i in range(4)} | {"labels.csv": b"path,class,patient,split\n0.bmp,x,p1,train\n1.bmp,y,p1,train\n2.bmp,x,p2,test\n3.bmp,y,p2,test\n" + more}, bmp_hand)


def two_arrays(path, x=(10, 11, 20, 21), y="xxyy", g="1122", save=np.savez):
    save(path, images=np.stack(list(map(flat, x))), labels=np.array(list(y)), groups=np.array(list(g)))
    return path


def zipped_again(path, tree): path.unlink(); return zipped(path, tree)


TAGGED = pillow(10)[:-12] + part(b"tEXt", b"Title\0one") + pillow(10)[-12:]
# what is there, what is done to it, what must be read then (None: the same pixels, and yet other files)
CHANGES = {
    "two images exchanged": (lambda d: files(d, CATS, bmp_hand), lambda d: swap(d/"cat"/"0.png", d/"dog"/"1.png"), [("cat", 11), ("cat", 21), ("dog", 10), ("dog", 20)]),
    "one byte, by hand": (lambda d: files(d, CATS, pgm_hand), lambda d: (d/"cat"/"0.png").write_bytes(pgm_hand(12)), [("cat", 11), ("cat", 12), ("dog", 20), ("dog", 21)]),
    "a file put in its place": (lambda d: files(d, CATS, bmp_hand), lambda d: ((d/"new").write_bytes(bmp_hand(77)), os.replace(d/"new", d/"dog"/"0.png")), [("cat", 10), ("cat", 11), ("dog", 21), ("dog", 77)]),
    "a comment in a PNG": (lambda d: files(d, CATS | {"cat/0.png": TAGGED}), lambda d: rewrite(d/"cat"/"0.png", TAGGED[-28:-12], part(b"tEXt", b"Title\0two")[-16:]), None),
    "an image moved to the other class": (lambda d: files(d, CATS, png_hand), lambda d: (d/"cat"/"1.png").rename(d/"dog"/"9.png"), [("cat", 10), ("dog", 11), ("dog", 20), ("dog", 21)]),
    "an image gone": (lambda d: files(d, CATS, png_hand), lambda d: (d/"cat"/"1.png").unlink(), [("cat", 10), ("dog", 20), ("dog", 21)]),
    "an image more": (lambda d: files(d, CATS), lambda d: (d/"cat"/"2.png").write_bytes(pillow(12)), [("cat", 10), ("cat", 11), ("cat", 12), ("dog", 20), ("dog", 21)]),
    "a link turned": (lambda d: ((files(d, CATS)/"cat"/"1.png").unlink(), files(d.parent/"far", {"1.png": 50, "2.png": 60}), (d/"cat"/"1.png").symlink_to(d.parent/"far"/"1.png"), d)[-1],
                      lambda d: ((d/"cat"/"1.png").unlink(), (d/"cat"/"1.png").symlink_to(d.parent/"far"/"2.png")), [("cat", 10), ("cat", 60), ("dog", 20), ("dog", 21)]),
    "written through another name": (lambda d: (files(d, CATS), os.link(d/"cat"/"0.png", d.parent/"other.png"), d)[-1], lambda d: (d.parent/"other.png").write_bytes(pillow(13)), [("cat", 11), ("cat", 13), ("dog", 20), ("dog", 21)]),
    "labels of a table": (two_table, lambda d: rewrite(d/"labels.csv", b"1.bmp,y", b"1.bmp,x"), [("x", 10), ("x", 11), ("x", 12), ("y", 13)]),
    "files of a table": (two_table, lambda d: rewrite(d/"labels.csv", b"0.bmp,x,p1,train\n1.bmp", b"1.bmp,x,p1,train\n0.bmp"), [("x", 11), ("x", 12), ("y", 10), ("y", 13)]),
    "patients of a table": (two_table, lambda d: rewrite(d/"labels.csv", b"1.bmp,y,p1", b"1.bmp,y,p2"), [("x", 10, "p1"), ("x", 12, "p2"), ("y", 11, "p2"), ("y", 13, "p2")]),
    "entries of a zip exchanged": (lambda d: zipped(d.with_suffix(".zip"), CATS), lambda d: zipped_again(d, CATS | {"cat/0.png": 21, "dog/1.png": 10}), [("cat", 11), ("cat", 21), ("dog", 10), ("dog", 20)]),
    "labels of an array": (lambda d: two_arrays(d.with_suffix(".npz")), lambda d: two_arrays(d, y="xyxy"), [("x", 10), ("x", 20), ("y", 11), ("y", 21)]),
    "patients of an array": (lambda d: two_arrays(d.with_suffix(".npz")), lambda d: two_arrays(d, g="1212"), [("x", 10, "1"), ("x", 11, "2"), ("y", 20, "1"), ("y", 21, "2")]),
    "pixels of a packed array": (lambda d: two_arrays(d.with_suffix(".npz"), save=np.savez_compressed), lambda d: two_arrays(d, (10, 12, 20, 21), save=np.savez_compressed), [("x", 10), ("x", 12), ("y", 20), ("y", 21)]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_identity(name, place):
    make, change, want = CHANGES[name]
    path = make(place/"set")
    again = keeping_times(*[p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()])
    add(path, "mine", say=lambda s: None)
    before = loud(from_path, path, size=SIDE)[0]
    assert loud(check_added, "mine")[0].name == "mine"
    change(path)
    try: again()
    except FileNotFoundError: pass
    after = loud(from_path, path, size=SIDE)[0]
    if want is None: assert np.array_equal(before.x, after.x) and before.content != after.content
    else: assert told(after, group=len(want[0]) == 3) == want and told(before) != told(after) or before.groups.tolist() != after.groups.tolist()
    if path.suffix == ".zip": return                                        # what was added of it is a copy
    with pytest.raises(UserError, match="mine at .* has changed"): loud(check_added, "mine")


def test_files_that_were_only_touched_are_the_same(place):
    d = files(place/"set", CATS)
    add(d, "mine", say=lambda s: None)
    for f in d.rglob("*.png"): os.utime(f, (1, 1))
    (place/"moved").mkdir()
    assert loud(check_added, "mine")[0].fingerprint == loud(from_path, d, size=32)[0].fingerprint


@pytest.mark.parametrize("one,two", [(dict(range=12), dict(range=16)), (dict(range=12), dict(range=(0, 4095))), (dict(rename={"cat": "lion"}), {}), (dict(size=9), {}), (dict(resample="nearest", size=8), dict(resample="bilinear", size=8))])
def test_other_ways_of_reading_have_stores_of_their_own(one, two, place):
    d = files(place/"set", {k: png([np.arange(0, 4000, 400, ">u2").astype(">u2").tobytes()]*SIDE, (SIDE, SIDE), 16) for k in CATS})
    a, b = (loud(from_path, d, **{"size": SIDE} | {"range": 12} | how)[0] for how in (one, two))
    same = one == dict(range=12) and two == dict(range=(0, 4095))
    assert (a.fingerprint == b.fingerprint) == same and (a.x.filename == b.x.filename) == same


def test_the_official_split_is_part_of_it(place):
    d = two_table(place/"set")
    before = loud(from_path, d, size=SIDE)[0]
    rewrite(d/"labels.csv", b"p1,train\n2", b"p1,test \n2")
    assert told(before, split=True)[2] == ("y", 11, "train") and told(loud(from_path, d, size=SIDE)[0], split=True)[2] == ("y", 11, "test ")


DAMAGE = {"pixels.npy": ("cut", "empty", "head only", "longer", "another's"), "meta.json": ("cut", "empty", "no object", "a key less", "another's"), "labels.npy": ("cut", "empty", "gone", "another's")}


@pytest.mark.parametrize("name,how", [(f, h) for f, hs in DAMAGE.items() for h in hs])
def test_a_damaged_store_is_made_again_and_that_is_said(name, how, place):
    "a disk that was full, or a computer that was switched off"
    d = two_table(place/"set")
    before = loud(from_path, d, size=SIDE)[0]
    other = Path(loud(from_path, files(place/"more", tree("cat", "dog", n=3)), size=SIDE)[0].x.filename).parent
    f = Path(before.x.filename).with_name(name)
    data, other = f.read_bytes(), (other/name).read_bytes()
    want, made = told(before, True, True), before.fingerprint
    del before
    if how == "gone": f.unlink()
    else: f.write_bytes({"cut": data[:len(data)*2//3], "empty": b"", "head only": data[:100], "longer": data + bytes(300), "another's": other, "no object": b"[]", "a key less": data.replace(b'"paths"', b'"pathz"')}[how])
    after, said = loud(from_path, d, size=SIDE)
    assert told(after, True, True) == want and after.fingerprint == made and re.search("decoded images at .* are damaged .*made again", said)
    assert "damaged" not in loud(from_path, d, size=SIDE)[1]


@pytest.mark.parametrize("junk", (b"", b"{", b"[1, 2]", b"null", b"\xff\xfe"))
def test_damaged_notes_of_hashes_are_not_needed(junk, place, monkeypatch):
    from catscans.datasets import contents
    monkeypatch.setattr(contents, "KEPT_FROM", 0)
    monkeypatch.setattr(contents, "may_be_kept", lambda *a: True)
    d = files(place/"set", CATS)
    loud(from_path, d, size=SIDE)
    f, = (place/"work"/"looks").glob("*.json")
    f.write_bytes(junk)
    assert told(loud(from_path, d, size=SIDE)[0]) == PLAIN and f.read_bytes() != junk


# ---- 5. pixels

UP = np.arange(SIDE)*28                                                     # one row, dark to bright
GREY = np.tile(UP, (SIDE, 1)).astype(np.uint8)
DOWN = np.ascontiguousarray(GREY.T)
FEW = np.tile(np.arange(SIDE), (SIDE, 1))


def packed(a, bits):
    "rows of values as bits"
    return [np.packbits(((r[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).ravel()).tobytes() for r in a]


def bmp_rows(a, top_first=False, palette=None):
    "24 bits, or 8 with a palette"
    h, w = a.shape[:2]
    rows = [(r if palette is not None else np.repeat(r[:, None], 3, 1)).astype(np.uint8).tobytes() for r in a]
    rows = [r + bytes(-len(r) % 4) for r in (rows if top_first else rows[::-1])]
    colours = b"" if palette is None else b"".join(struct.pack("<BBBB", *p[::-1], 0) for p in palette)
    at = 54 + len(colours)
    return b"BM" + struct.pack("<IHHI", at + len(b"".join(rows)), 0, 0, at) + struct.pack("<IiiHHIIiiII", 40, w, -h if top_first else h, 1, 24 if palette is None else 8, 0, 0, 0, 0, len(palette or ()), 0) + colours + b"".join(rows)


COLOURS = [(25*i, 255 - 25*i, 7) for i in range(SIDE)]
RGB = np.array(COLOURS)[FEW].astype(np.uint8)
PLTE = part(b"PLTE", bytes(v for c in COLOURS for v in c))
FILES = {  # suffix, bytes -> the picture
    "PNG, 1 bit": ("png", png(packed(FEW % 2, 1), (SIDE, SIDE), 1), (FEW % 2)*255), "PNG, 2 bits": ("png", png(packed(FEW % 4, 2), (SIDE, SIDE), 2), (FEW % 4)*85), "PNG, 4 bits": ("png", png(packed(FEW, 4), (SIDE, SIDE), 4), FEW*17),
    "PNG, a palette of 4 bits": ("png", png(packed(FEW, 4), (SIDE, SIDE), 4, 3, PLTE), RGB), "PNG, a grey that is clear": ("png", png([GREY[0].tobytes()]*SIDE, (SIDE, SIDE), more=part(b"tRNS", struct.pack(">H", 252))), np.where(GREY == 252, 0, GREY)),
    "PNG, half clear": ("png", png([np.stack([GREY[0], np.full(SIDE, 51, np.uint8)], 1).tobytes()]*SIDE, (SIDE, SIDE), colour=4), np.round(GREY.astype(int)*51/255)), "PNG, named JPEG": ("jpg", png([r.tobytes() for r in DOWN], (SIDE, SIDE)), DOWN),
    "BMP, upside down": ("bmp", bmp_rows(DOWN), DOWN), "BMP, top first": ("bmp", bmp_rows(DOWN, True), DOWN), "BMP, a palette": ("bmp", bmp_rows(FEW, palette=COLOURS), RGB),
    "PGM, up to 9": ("pgm", b"P5 10 10 9\n" + FEW.astype(np.uint8).tobytes(), FEW*255/9), "PGM in words": ("pgm", b"P2\n10 10\n# bright\n252\n" + "\n".join(" ".join(map(str, r)) for r in GREY).encode(), GREY.astype(int)*255/252), "PBM": ("pnm", b"P4 10 10\n" + b"".join(packed(1 - FEW % 2, 1)), (FEW % 2)*255),
    "PPM": ("ppm", b"P6 10 10 255\n" + RGB.tobytes(), RGB), "TIFF, white is 0": ("tif", tiff_hand((255 - GREY).tobytes(), (SIDE, SIDE), {262: (3, [0])}), GREY), "TIFF, two strips": ("tif", tiff_hand(DOWN.tobytes(), (SIDE, SIDE), {273: (4, [8, 58]), 278: (4, [5]), 279: (4, [50, 50])}), DOWN),
    "TIFF, colours one after the other": ("tiff", tiff_hand(np.ascontiguousarray(RGB.transpose(2, 0, 1)).tobytes(), (SIDE, SIDE), {258: (3, [8, 8, 8]), 262: (3, [2]), 273: (4, [8, 108, 208]), 277: (3, [3]), 279: (4, [100]*3), 284: (3, [2])}), RGB),
    "TIFF, a palette of 16 bits": ("tif", tiff_hand(FEW.astype(np.uint8).tobytes(), (SIDE, SIDE), {262: (3, [3]), 320: (3, [c[k]*257 if c else 0 for k in range(3) for c in [*COLOURS, *[None]*246]])}), RGB),
    "TIFF, 4 bits": ("tif", tiff_hand(b"".join(packed(FEW, 4)), (SIDE, SIDE), {258: (3, [4])}), FEW*17), "GIF": ("gif", pillow(GREY, "GIF"), GREY), "WebP": ("webp", pillow(np.ascontiguousarray(RGB), "WEBP", lossless=True), RGB), "JPEG, named PNG": ("png", pillow(np.full((SIDE, SIDE), 120, np.uint8), "JPEG", quality=95), np.full((SIDE, SIDE), 120)),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels(name, place):
    suffix, data, want = FILES[name]
    want = np.broadcast_to(want if want.ndim == 3 else want[..., None], (SIDE, SIDE, 3))
    t = {f"{c}/{i}.{suffix}": data for c in "ab" for i in range(2)}
    paths = files(place/"set", t), zipped(place/"set.zip", t, store=zipfile.ZIP_DEFLATED), tarred(place/"set.tgz", t)
    many = [loud(from_path, paths[0], size=SIDE)[0], loud(from_path, paths[1], size=SIDE)[0], by_tar(paths[2])[0]]
    for im in many: assert len(im) == 4 and np.abs(im.x.astype(float) - want).max() <= 1 and im.range is None, name
    assert len({im.fingerprint for im in many}) == 1


ARRAYS = {  # images -> what they show, or words
    "truth": (GREY > 100, (GREY > 100)*255), "unit": ((GREY/255).astype(np.float32), GREY), "12 bits of Motorola": ((GREY.astype(">u2")*16 + 7), GREY), "signed, 12 bits": (GREY.astype(np.int16)*16, GREY), "channels in front": (RGB.transpose(2, 0, 1), RGB),
    "colour": (RGB, RGB), "one channel behind": (GREY[..., None], GREY), "Hounsfield": (GREY.astype(np.int16)*8 - 1000, r"range=\(-1000, 1016\)"), "no number among them": (np.where(GREY == 0, np.nan, GREY).astype(np.float64), "range="),
    "half precision": ((GREY/255).astype(np.float16), GREY), "32 bits": (GREY.astype(np.uint32), "range=8"), "four channels": (np.repeat(GREY[..., None], 4, 2), "needed is"), "complex": (GREY.astype(complex), "needed is"), "column by column": (None, "column by column"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_pixels_of_arrays(name, place):
    a, want = ARRAYS[name]
    x = np.asfortranarray(np.stack([GREY]*4)) if a is None else np.stack([a]*4)
    np.savez(place/"m.npz", x_train=x, y_train=np.arange(4) % 2)
    if isinstance(want, str):
        with pytest.raises(UserError, match=want): loud(from_path, place/"m.npz", size=SIDE)
        return
    im, _ = loud(from_path, place/"m.npz", size=SIDE)
    assert np.abs(im.x.astype(float) - (want if want.ndim == 3 else want[..., None])).max() <= 1


@pytest.mark.parametrize("save", (np.savez, np.savez_compressed))
def test_pixels_that_are_no_number_are_counted(save, place):
    x = np.stack([GREY/255]*4).astype(np.float32)
    x[1, 2, 3:5], x[2, 0, 0] = np.nan, np.inf
    save(place/"m.npz", images=x, labels=np.arange(4) % 2)
    im, said = loud(from_path, place/"m.npz", size=SIDE)
    assert "3 values that are no number" in said and im.x[1, 2, 3:5].max() == 0 and im.x[2, 0, 0, 0] == 255 and np.abs(im.x[3, ..., 0].astype(int) - GREY).max() <= 1


def blind(orientation=6):
    "a JPEG whose EXIF has half a table"
    (exif := Image.Exif())[0x0112] = orientation
    d = pillow(50, "JPEG", exif=exif.tobytes())
    return d[:(i := d.index(b"Exif\0\0") + 14)] + b"\xff\xff" + d[i + 2:]


@pytest.mark.parametrize("held", ("folder", "zip", "csv"))
@pytest.mark.parametrize("suffix,data,says", [("jpg", blind(), "Corrupt EXIF"), ("png", png([bytes(5)]*30, (40, 30), 1), "1200 pixels")], ids=("EXIF", "a slide"))
def test_what_libraries_warn_of_is_one_note(suffix, data, says, held, place, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)                    # Pillow's own is 89 million
    path = HELD[held](place/"set", {f"{c}/0.{suffix}": data for c in "ab"} | {f"{c}/1.png": 9 for c in "ab"} | {"labels.csv": lines(*[f"{c}/{i}.{s},{c}" for c in "ab" for i, s in ((0, suffix), (1, "png"))]).encode()})
    for _ in range(2):
        images, said = loud(from_path, path, size=SIDE)
        assert len(images) == 4 and said.count("while images were decoded") == 1 and says in said


DEEP = {"PNG by hand": lambda a: png([r.astype(">u2").tobytes() for r in a], a.shape[::-1], 16), "TIFF by hand": lambda a: tiff_hand(a.astype("<u2").tobytes(), a.shape[::-1], {258: (3, [16])}), "Pillow": lambda a: pillow(a.astype(np.uint16)),
        "PGM by hand": lambda a: b"P5 %d %d 65535\n" % a.shape[::-1] + a.astype(">u2").tobytes()}


@pytest.mark.parametrize("suffix", ("jpg", "bmp", "tif"))
@pytest.mark.parametrize("writer", DEEP)
def test_files_of_more_bits_are_known_whatever_they_are_called(writer, suffix, place):
    "in a folder, a zip and a tar: one range for all, though each alone would have another"
    a = GREY.astype(int)*16
    t = {f"a/0.{suffix}": DEEP[writer](a), f"b/0.{suffix}": DEEP[writer](a//8), "b/1.png": DEEP["PNG by hand"](a//2)}
    many = [loud(from_path, files(place/"set", t), size=SIDE)[0], loud(from_path, zipped(place/"set.zip", t), size=SIDE)[0], by_tar(tarred(place/"set.tgz", t))[0]]
    for im in many:
        assert im.range == (0, 4095) and [int(x[0, -1, 0]) for x in im.x] == [252, 31, 126], writer


# ---- 6. splits

SPLIT = {  # the column, its words -> parts of the four images; a note; or words of the refusal when it is asked for
    "in capitals": ("SPLIT", ["TRAIN", "Test", "train ", "test"], "0101"), "with a blank": (" Split", ["training", "validation", "training", "valid"], "0101"), "numbers": ("split", ["1", "2", "1", "2"], "0101"), "folds": ("split", ["fold_1", "fold-2", "Fold 1", "fold 2"], "0101"),
    "short": ("split", ["trn", "tst", "trn", "tst"], "0101"), "held out": ("split", ["train", "hold-out", "train", "held out"], "one word"), "a column set": ("set", ["train", "test", "train", "test"], "set looks like an official split"), "a column Usage": ("Usage", ["Training", "Testing", "Training", "Testing"], "Usage looks like"),
    "a column fold": ("fold", ["1", "2", "1", "2"], "fold looks like"), "a mark": ("is_train", ["1", "0", "1", "0"], "is_train looks like"), "one without": ("split", ["train", "test", "train", ""], "split holds ''"), "a word that is none": ("split", ["train", "later", "train", "later"], "split holds 'later'"),
    "one part": ("split", ["train"]*4, "all images are in the part train"), "no training": ("split", ["val", "test", "val", "test"], "but no train"), "a class that is not tested": ("split", ["train", "train", "train", "test"], "no image of class 'a' in the held-out part"),
    "a grade": ("grade", ["1", "2", "1", "2"], None), "a word beside": ("site", ["train station", "airport", "train station", "airport"], None),
}


@pytest.mark.parametrize("made", [m for m in TABLES if m != "npz"])
@pytest.mark.parametrize("name", SPLIT)
def test_official_split_of_a_table(name, made, place):
    column, words, want = SPLIT[name]
    images, said = loud(from_path, TABLES[made](place/"set", {"class": ["a", "a", "b", "b"] if "class that" not in name else ["a", "b", "a", "b"], column: words}), size=SIDE)
    if want is None or "looks like" in want: assert images.split is None and ("looks like an official split" in said) == (want is not None) and (want or "") in said
    elif set(want) <= set("01"):
        s = official_splits(images)
        at = {10 + i: int(v) for i, v in enumerate(want)}
        mine = {int(x[0, 0, 0]): (0 if i in s.folds[0].train else 1) for i, x in enumerate(images.x)}
        assert mine == at or len(s) == 2 and mine == {k: 1 - v for k, v in at.items()}
    elif want == "one word": assert images.split is not None and loud(official_splits, images)[0].folds[0].test.tolist() == [1, 3]
    else:
        with pytest.raises(UserError, match=want): official_splits(images)


PARTS = {  # parts of arrays, images in them -> sizes of train, valid, test
    "MedMNIST": (("train_images", "val_images", "test_images"), ("train_labels", "val_labels", "test_labels"), (4, 4, 4)), "Keras": (("x_train", "x_test"), ("y_train", "y_test"), (4, 0, 4)), "capitals": (("X_train", "X_valid"), ("Y_train", "Y_valid"), (4, 0, 4)),
    "behind": (("images_train", "images_test"), ("labels_train", "labels_test"), (4, 0, 4)), "words": (("training_data", "testing_data"), ("training_target", "testing_target"), (4, 0, 4)),
}


@pytest.mark.parametrize("save", (np.savez, np.savez_compressed))
@pytest.mark.parametrize("name", PARTS)
def test_official_split_of_arrays(name, save, place):
    xs, ys, want = PARTS[name]
    save(place/"m.npz", **{k: np.stack([flat(20*i + j) for j in range(4)]) for i, k in enumerate(xs)}, **{k: np.arange(4) % 2 for k in ys})
    images, _ = loud(from_path, place/"m.npz", size=SIDE)
    f, = official_splits(images).folds
    assert (len(f.train), len(f.valid), len(f.test)) == want and images.x[f.train, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert {int(v)//20 for v in images.x[f.test, 0, 0, 0]} == {len(xs) - 1}


def crowd(n_groups, per, seed=0):
    "groups of unlike sizes"
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(n_groups), rng.integers(1, per + 1, n_groups))
    return g, rng


CUTS = {  # class and patient of each image, folds -> what the folds must be, or words
    "a class of five patients": lambda: ((g := crowd(40, 6)[0]), (g % 8 == 0).astype(int), 5, None), "a class of four": lambda: ((g := crowd(40, 6)[0]), (g % 10 == 0).astype(int), 5, "has 4 groups, fewer than the 5 folds"), "one large patient": lambda: ((g := np.r_[np.zeros(200, int), np.repeat(np.arange(1, 30), 3)]), g % 2, 5, None),
    "both classes in each patient": lambda: (np.repeat(np.arange(20), 6), np.arange(120) % 2, 5, None), "three rare classes": lambda: ((g := np.repeat(np.arange(60), 2)), np.where(g < 5, 1, np.where(g < 10, 2, np.where(g < 15, 3, 0))), 5, None), "three folds": lambda: ((g := crowd(9, 9)[0]), g % 3, 3, None),
    "more folds than patients": lambda: (np.repeat(np.arange(4), 10), np.arange(40) % 2, 5, "has 4 groups, fewer than the 5 folds"), "one class in one patient": lambda: ((g := np.repeat(np.arange(12), 5)), (g == 3).astype(int), 5, "has 1 groups"), "a patient who has all of a class but four": lambda: (np.r_[np.zeros(50, int), np.arange(1, 5), np.repeat(np.arange(5, 30), 2)], np.r_[np.ones(54, int), np.zeros(50, int)], 5, None),
}


@pytest.mark.parametrize("made", ("numbers", "words", "table"))
@pytest.mark.parametrize("name", CUTS)
def test_folds_are_whole_or_refused_before_anything_is_trained(name, made, place):
    g, y, k, why = CUTS[name]()
    groups = g if made == "numbers" else np.array([f"pat {v:03}" for v in g])
    if made == "table":
        df = pd.read_csv(io.StringIO(pd.DataFrame(dict(y=y, patient=groups)).to_csv(index=False)))
        y, groups = df.y.to_numpy(), df.patient.to_numpy()
    if why:
        with pytest.raises(UserError, match=why): make_splits(y, groups, "grouped", k, 1)
        return
    s = make_splits(y, groups, "grouped", k, 1)
    assert shared_group_rate(s, groups) == 0 and all(set(y[f.test]) == set(y) == set(y[f.train]) for f in s)
    assert sorted(np.concatenate([np.r_[f.valid, f.test] for f in s])) == list(range(len(y)))


@pytest.mark.parametrize("patients,why", [(9, "at least 10 groups .*received 9"), (10, None)])
def test_a_source_needs_ten_patients(patients, why):
    g, y = np.repeat(np.arange(patients), 12), np.arange(12*patients) % 2
    if why is None: assert shared_group_rate([single_split(y, g)], g) == 0
    else:
        with pytest.raises(UserError, match=why): single_split(y, g)


# ---- 7. files people have

SHOTS = {"img/a 1.png": 10, "img/a 2.png": 11, "img/b 1.png": 20, "img/E\u0301 2.png": 21}         # the last as a Mac writes it
def lines(*rows, end="\n"): return end.join(("path,class", *rows)) + end


ROWS = ["img/a 1.png,x", "img/a 2.png,x", "img/b 1.png,y", "img/E\u0301 2.png,y"]
SAVED = {  # what is special -> the bytes of labels.csv
    "lines of an old Mac": lines(*ROWS, end="\r").encode(), "empty lines": lines("", ROWS[0], "", *ROWS[1:], "", "").encode(), "columns and rows of nothing": ("path,class,,\n" + "".join(f"{r},,\n" for r in ROWS) + ",,,\n,,,\n").encode(),
    "rows of blanks": lines(*ROWS, " , ").encode(), "the line that Excel asks for": b"sep=,\n" + lines(*ROWS).encode(), "quotes everywhere": "\n".join(",".join(f'"{v}"' for v in r.split(",")) for r in ["path,class", *ROWS]).encode("utf-8-sig"),
    "an accent of one letter": lines(*[r.replace("E\u0301", "\u00c9") for r in ROWS]).encode(), "the same in UTF-16": lines(*[r.replace("E\u0301", "\u00c9") for r in ROWS], end="\r\n").encode("utf-16"), "the same of Windows": lines(*[r.replace("E\u0301", "\u00c9") for r in ROWS], end="\r\n").encode("cp1252"),
    "a web address's blanks": lines(*[r.replace(" ", "%20").replace("E\u0301", "%C3%89") for r in ROWS]).encode(), "./ and \\": lines(".\\" + ROWS[0].replace("/", "\\"), "./" + ROWS[1], *ROWS[2:]).encode(), "blanks around paths": lines(*[f" {r}" for r in ROWS]).encode(),
    "a report over two lines": ("path,report,class\n" + "".join(f'{r.split(",")[0]},"no ""mass"",\nno effusion",{r.split(",")[1]}\n' for r in ROWS)).encode(), "an index": pd.DataFrame([r.split(",") for r in ROWS], columns=["path", "class"]).to_csv().encode(), "other columns first": ("age,class,path\n" + "".join(f"40,{','.join(r.split(',')[::-1])}\n" for r in ROWS)).encode(),
    "file names alone": lines(*[r.removeprefix("img/") for r in ROWS]).encode(), "no line at the end": lines(*ROWS).encode()[:-1], "capitals": lines(*[r.replace("img/", "IMG/") for r in ROWS]).upper().replace("PATH,CLASS", "Path,Class").replace(",X", ",x").replace(",Y", ",y").encode(),
}
HELD = {"csv": lambda d, t: files(d, t)/"labels.csv", "folder": lambda d, t: files(d, t, png_hand), "zip": lambda d, t: zipped(d.with_suffix(".zip"), t), "tar": lambda d, t: tarred(d.with_suffix(".tgz"), t)}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("name", SAVED)
def test_tables(name, held, place):
    path = HELD[held](place/"set", SHOTS | {"labels.csv": SAVED[name]})
    images = by_tar(path)[0] if held == "tar" else loud(from_path, path, size=SIDE)[0]
    assert told(images) == [("x", 10), ("x", 11), ("y", 20), ("y", 21)]


@pytest.mark.parametrize("held", ("folder", "zip", "tar"))
def test_images_in_no_row_are_counted(held, place):
    t = SHOTS | {"img/c 1.png": 99, "more/d 1.png": 98, "img/a 1_mask.png": 255}
    path = HELD[held](place/"set", t | {"labels.csv": lines(*ROWS).encode()})
    images, said = by_tar(path) if held == "tar" else loud(from_path, path, size=SIDE)
    assert told(images) == [("x", 10), ("x", 11), ("y", 20), ("y", 21)] and "2 images that lie there and in no row of the table are left out (first: img/c 1.png)" in said
    if held != "tar": assert "no row" not in loud(from_path, HELD[held](place/"all", SHOTS | {"labels.csv": lines(*ROWS).encode()}), size=SIDE)[1]


OUTSIDE = {"an absolute path": "{T}/out/0.png", "up and out": "../out/0.png", "up by \\": "..\\out\\0.png", "down, up and out": "img/../../out/0.png", "a drive": "C:/out/0.png", "from the root": "/etc/hosts"}


@pytest.mark.parametrize("held", ("zip", "tar", "zip, added"))
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_table_in_an_archive_names_nothing_outside(name, held, place):
    files(place/"data"/"out", {"0.png": 99})
    files(place/"out", {"0.png": 99})
    p = OUTSIDE[name].replace("{T}", str(place))
    path = HELD[held.split(",")[0]](place/"set", SHOTS | {"labels.csv": lines(*ROWS, f"{p},x").encode()})
    with pytest.raises(UserError) as e: loud(from_path, path, size=SIDE) if held == "zip" else add(path, "x", say=lambda s: None)
    assert re.search("leaves its folder|an absolute path", str(e.value)) and p[:20] in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 500
    assert not (place/"data"/"x").exists()


def hdf(path):
    with h5py.File(path, "w") as f: f["images"], f["labels"] = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    return path


def saved_npz(**arrays):
    def make(path): np.savez(path, **arrays); return path
    return make


def bytes_of(data): return lambda path: (path.write_bytes(data), path)[1]


NOT_READ = {  # suffix, maker -> what to do
    "HDF5": (".h5", hdf, "np.savez"), "one array": (".npy", lambda p: (np.save(p, np.zeros((4, 8, 8), np.uint8)), p)[1], "np.savez"), "a workbook": (".xlsx", lambda p: zipped(p, {"xl/workbook.xml": b"<a/>"}), "save its sheet as CSV"), "JSON": (".json", bytes_of(b'[{"file": "a.png"}]'), "make a CSV"),
    "MATLAB": (".mat", bytes_of(b"MATLAB 5.0 MAT-file"), "np.savez"), "Parquet": (".parquet", bytes_of(b"PAR1"), "make a CSV"), "an image": (".png", bytes_of(pillow(3)), "give the folder"), "arrays without names": (".npz", lambda p: (np.savez(p, np.zeros((4, 8, 8), np.uint8), np.arange(4)), p)[1], "arr_0, arr_1; needed are"),
    "pickled labels": (".npz", saved_npz(images=np.zeros((4, 8, 8), np.uint8), labels=np.array(["a", None, "b", "c"], object)), "pickled"), "nothing": (".csv", bytes_of(b""), "it is empty"), "a head alone": (".csv", bytes_of(b"path,class\n"), "no rows"), "a page of the web": (".csv", bytes_of(b"<!DOCTYPE html><html><body>Sign in</body></html>"), "web page"),
    "a password": (".zip", locked, "encrypted"), "cut off": (".zip", lambda p: bytes_of(zipped(p, CATS).read_bytes()[:-30])(p), "get it again|copy it again"),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_not_read_says_what_to_do_in_every_command(name, place, capsys):
    suffix, make, says = NOT_READ[name]
    path = make(place/f"mine{suffix}")
    for command in (["rank"], ["data", "doctor"], ["data", "add"]):
        assert main([*command, str(path)]) == 2, command
        out = capsys.readouterr()
        errors = [s for s in out.err.splitlines() if s.startswith("catscans: error: ")]
        assert len(errors) == 1 and re.search(says, out.err) and "Traceback" not in out.err, (command, out.err)


# ---- 8. words and places

WHERE = {  # where the images lie, and how that is typed
    "a slash behind": ("set", "{}/"), "two slashes": ("set", "{}//"), "up and down": ("set", "{}/cat/.."), "a blank and a sharp": ("my set #1", "{}"), "per cent": ("100%25 sure", "{}"), "a dash": ("-set", "{}"), "a colon": ("a:b", "{}"), "quotes": ("it's \"mine\"", "{}"), "letters of Greece": ("\u03b5\u03b9\u03ba\u03cc\u03bd\u03b5\u03c2", "{}"),
    "a line break": ("one\ntwo", "{}"), "a face": ("\U0001f63a", "{}"), "stars": ("*[a-z]?", "{}"), "braces": ("{0}", "{}"), "called like a zip": ("set.zip", "{}"), "called like a table": ("labels.csv", "{}"), "called like a picture": ("scan.png", "{}"), "deep down": ("/".join(["d"*60]*12), "{}"),
}


@pytest.mark.parametrize("held", ("folder", "zip", "csv"))
@pytest.mark.parametrize("name", WHERE)
def test_places(name, held, place):
    at, typed = WHERE[name]
    d = place/at
    t = {"cat/0 \n.png": 10, "cat/1%20.png": 11, "dog/#0.png": 20, "dog/-1.png": 21}
    if held == "folder": path = typed.replace("{}", str(files(d, t)))
    elif held == "zip":
        if "{}" != typed or name.startswith("called"): return                       # a file has no slash behind it
        d.parent.mkdir(parents=True, exist_ok=True)
        path = str(zipped(d.with_name(d.name + ".zip"), {k.replace("\n", ""): v for k, v in t.items()}))
    else:
        if "{}" != typed: return
        files(d, t)
        with open(d/"my table.csv", "w", newline="", encoding="utf-8") as f: csv.writer(f).writerows([["path", "class"], *[[k, k[:3]] for k in t]])
        path = str(d/"my table.csv")
    before = sorted(place.rglob("*"))
    images, _ = loud(from_path, path, size=SIDE)
    assert told(images) == PLAIN
    new = [p for p in sorted(place.rglob("*")) if p not in before]
    assert all(p.is_relative_to(place/"work") for p in new), "nothing is written beside the images, or where one stands"


def test_places_that_are_short(place, monkeypatch):
    "a point, the home, a link, a way from here"
    d = files(place/"home"/"set", CATS)
    monkeypatch.setenv("HOME", str(place/"home"))
    (place/"link").symlink_to(d)
    for path in ("~/set", place/"link", "../home/set", str(d)): assert told(loud(from_path, path, size=SIDE)[0]) == PLAIN
    monkeypatch.chdir(d)
    assert told(loud(from_path, ".", size=SIDE)[0]) == PLAIN and loud(from_path, ".", size=SIDE)[0].name == "set"


def test_a_folder_that_nobody_may_write_to_is_read(place):
    d = files(place/"set", CATS)
    for p in (d, d/"cat", d/"dog"): p.chmod(0o555)
    try: assert told(loud(from_path, d, size=SIDE)[0]) == PLAIN
    finally:
        for p in (d, d/"cat", d/"dog"): p.chmod(0o755)


def pipes(d):
    files(d, CATS)
    os.mkfifo(d/"cat"/"pipe.png")
    return d


def test_a_pipe_among_images_is_not_waited_for(place): assert told(loud(from_path, pipes(place/"set"), size=SIDE)[0]) == PLAIN


NOWHERE = {  # what is typed -> what is said
    "nothing": ("", "an empty path"), "blanks": ("  ", "an empty path"), "a slip of the pen": ("{T}/scnas", r"did you mean scans\?"), "a slip in a suffix": ("{T}/scans.cvs", r"did you mean scans.csv\?"), "a pipe": ("{T}/pipe", "pipe, a device"), "a device": ("/dev/null", "pipe, a device"),
    "nothing in it": ("{T}/empty", "is empty"), "hidden things": ("{T}/hidden", "is empty"), "one class": ("{T}/one", "received 1 class"), "images without classes": ("{T}/loose", "no class sub-folders"), "a link to nothing": ("{T}/gone", "nothing at"), "folders in folders": ("{T}/hollow", "no image in class"),
}


@pytest.mark.parametrize("command", (["rank"], ["data", "doctor"], ["data", "add"]), ids="-".join)
@pytest.mark.parametrize("name", NOWHERE)
def test_wrong_places_are_one_line(name, command, place, capsys):
    typed, says = NOWHERE[name]
    t = place/"t"
    files(t, {"scans/a/0.png": 1, "scans/b/0.png": 2, "scans.csv": b"path,class\n", "hidden/.a/0.png": 1, "one/a/0.png": 1, "loose/0.png": 1, "hollow/a/x.txt": b"x"})
    (t/"empty").mkdir()
    (t/"hollow"/"b").mkdir()
    (t/"gone").symlink_to(t/"nowhere")
    os.mkfifo(t/"pipe")
    assert main([*command, typed.replace("{T}", str(t))]) == 2
    err = capsys.readouterr().err
    errors = [s for s in err.splitlines() if s.startswith("catscans: error: ")]
    if command == ["rank"] and name in ("nothing", "blanks", "a slip of the pen", "a slip in a suffix", "a link to nothing"): says = "there is no|nothing at|empty"
    assert len(errors) == 1 and re.search(says, err) and "Traceback" not in err, err


# ---- one path, one answer, in every command

def textured(n, side=24): return np.random.default_rng(5).integers(0, 255, (n, side//4, side//4, 3), np.uint8).repeat(4, 1).repeat(4, 2)


def one_set(place, patients):
    "the same 24 images, four times"
    x, y, g = textured(24), np.repeat(["cat", "dog"], 12), np.array([f"p{i//2:02}" for i in range(24)])
    t = {f"{c}/{i:02}.png": pillow(v) for i, (c, v) in enumerate(zip(y, x))}
    rows = [["path", "class"] + ["patient"]*patients, *[[p, p[:3]] + [q]*patients for p, q in zip(t, g)]]
    table = "\n".join(",".join(r) for r in rows).encode()
    np.savez_compressed(place/"m.npz", images=x, labels=y, **({"patients": g} if patients else {}))
    named = {"labels.csv": table} if patients else {}
    files(place/"beside", t)
    (place/"beside"/"mine.csv").write_bytes(table)
    return dict(folder=files(place/"set", t | named), zip=zipped(place/"set.zip", t | named), csv=place/"beside"/"mine.csv", npz=place/"m.npz"), x, y, g


@pytest.mark.parametrize("patients", (True, False))
def test_every_command_finds_the_same_in_a_folder_a_zip_a_table_and_an_array(patients, place, monkeypatch):
    from catscans.datasets import own
    paths, x, y, g = one_set(place, patients)
    asked, read = [], own.general
    monkeypatch.setattr(own, "general", lambda *a, **kw: asked.append(a[0]) or read(*a, **kw))
    prints = set()
    for kind, path in paths.items():
        asked.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded, ranked, page = load(path, size=64), load_target(path, size=64)[0], examine(path)
            entry = add(path, f"my-{kind}", say=lambda s: None)
            mine = load(f"my-{kind}", size=64)
        assert len(asked) == 5, "load, rank, doctor, add and the added set read the path in one place"
        for im in (loaded, ranked, mine):
            assert [im.classes[i] for i in im.y] == y.tolist() and (im.groups is None) == (not patients)
            assert not patients or im.groups.tolist() == g.tolist()
            assert np.array_equal(im.x, np.stack([decode(v, 64) for v in x]))
        prints |= {loaded.fingerprint, ranked.fingerprint, mine.fingerprint, page["fingerprint"]}
        assert page["classes"] == entry["counts"] == {"cat": 12, "dog": 12} and (page["groups"] or {}).get("groups") == (12 if patients else None)
    assert len(prints) == 1


@pytest.mark.parametrize("kind", ("folder", "npz"))
def test_every_command_reads_what_it_is_told_to(kind, place):
    "options of reading, by way of every command"
    paths, *_ = one_set(place, True)
    how = dict(rename={"cat": "lion"}, parts="pool")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [load(paths[kind], size=32, **how).classes, load_target(paths[kind], size=32, **how)[0].classes, list(examine(paths[kind], **how)["classes"]), list(add(paths[kind], "x", say=lambda s: None, **how)["counts"])]
    assert found == [["lion", "dog"] if kind == "x" else found[0]]*4 and set(found[0]) == {"lion", "dog"}
