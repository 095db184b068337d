"Images as people really have them: what is read is held against what was written, pixel by pixel, or the refusal says what to do."
import io, json, os, re, warnings, zipfile
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from catscans.core.basics import UserError
from catscans.datasets.own import from_csv, from_folder, from_npz, from_path
from catscans.datasets.doctor import checks, examine, page, twins_of
from catscans.datasets.images import Images
from catscans.datasets.leaks import group_duplicates
from catscans.datasets.splits import make_splits, shared_group_rate, single_split, splits_of
from catscans.datasets.tidy import part_of
from catscans.study.cli import main

pytestmark = pytest.mark.slow(25)      # five hundred small inputs, a twentieth of a second each


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    "stores and added images of a test are its own"
    for k in ("data", "work"): monkeypatch.setenv(f"CATSCANS_{k.upper()}", str(tmp_path/k))
    (tmp_path/"data").mkdir()


@contextmanager
def heard():
    "the notes of a block, without those of the one-coloured pixels that these tests are made of"
    notes = []
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        yield notes
    notes += [t for v in w if not re.search("of one colour|nearly black", t := str(v.message))]


def grey(v, side=12): return Image.new("L", (side, side), v)


def packed(v, kind):
    b = io.BytesIO()
    grey(v).save(b, kind)
    return b.getvalue()


# ---- three generators: a folder of PNG, a folder of links to BMP that lie elsewhere, a zip of PNG


def as_folder(root, files):
    for rel, v in files.items():
        (root/rel).parent.mkdir(parents=True, exist_ok=True)
        (root/rel).write_bytes(packed(v, "PNG") if v is not None else b"x")
    return root


def as_links(root, files):
    elsewhere = root.parent/"elsewhere"
    elsewhere.mkdir()
    for i, (rel, v) in enumerate(files.items()):
        (elsewhere/f"{i}").write_bytes(packed(v, "BMP") if v is not None else b"x")
        (root/rel).parent.mkdir(parents=True, exist_ok=True)
        (root/rel).symlink_to(elsewhere/f"{i}")
    return root


def as_zip(root, files):
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as z:
        for rel, v in files.items(): z.writestr(rel, packed(v, "PNG") if v is not None else b"x")
    return root.with_suffix(".zip")


MAKERS = dict(folder=as_folder, links=as_links, zip=as_zip)


def tree(*folders, n=2, start=10):
    "relative path -> grey level, n images in each folder, no two alike"
    return {f"{d}/{i}.png": start + 7*k + i for k, d in enumerate(folders) for i in range(n)}


def loaded(images):
    "what was read: (class, grey level) of each image, sorted"
    return sorted((images.classes[c], int(x.mean().round())) for c, x in zip(images.y, images.x))


CATS = tree("cat", "dog")
PLAIN = sorted((k.split("/")[0], v) for k, v in CATS.items())


def inside(d, files=CATS): return {f"{d}/{k}": v for k, v in files.items()}
def with_(*more): return CATS | dict.fromkeys(more, 250)


# name -> files; all of them are the cats and dogs above, in two classes
READ = {
    "plain": CATS,
    "a folder around": inside("pets"),
    "three folders around": inside("archive/data/pets"),
    "a mask beside each": with_("cat/0_mask.png", "dog/0_mask.png", "dog/1_Mask.png"),
    "numbered masks": with_("cat/0_mask_1.png", "cat/0_mask_2.png", "dog/1-mask.png"),
    "segmentations": with_("cat/0_segmentation.png", "dog/1_seg.png", "dog/1_gt.png"),
    "mask before the name": with_("cat/mask_0.png", "dog/mask-1.png"),
    "images beside masks in each class": {k.replace("/", "/images/"): v for k, v in CATS.items()} | {k.replace("/", "/masks/"): 250 for k in CATS},
    "images beside masks above the classes": inside("images") | inside("masks", dict.fromkeys(CATS, 250)),
    "masks by class beside the classes": with_(*inside("masks")),
    "masks of all classes in one folder": {f"{k[:4]}{k[0]}{k[4:]}": v for k, v in CATS.items()} | {f"Masks/{k[0]}{k[4:-4]}_mask.png": 250 for k in CATS},
    "Synology": with_("cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "dog/@eaDir/1.png/SYNOPHOTO_THUMB_XL.jpg"),
    "Linux thumbnails": with_("cat/.thumbnails/0.png", ".thumbnails/normal/1.png", "dog/.xvpics/1.png"),
    "Mac": with_("__MACOSX/cat/._0.png", "cat/._0.png", "dog/.AppleDouble/1.png"),
    "Windows": CATS | {"cat/Thumbs.db": None, "dog/desktop.ini": None, "$RECYCLE.BIN/x.png": 250, "System Volume Information/y.png": 250},
    "QNAP": with_("@Recycle/cat/0.png", ".@__thumb/default0.png", "cat/.@__thumb/s100.png"),
    "thumbnails by name": with_("cat/0_thumb.png", "dog/1_thumbnail.png", "dog/thumb_0.png"),
    "a copy of the tree in itself": CATS | inside("pets"),
    "a deep copy of the tree in itself": CATS | inside("backup/pets"),
    "parts in each class": {f"{k[:4]}{('train', 'test')[int(k[4])]}/{k[4:]}": v for k, v in CATS.items()},
    "patients in each class": {f"{k[:4]}patient{k[0]}{k[4]}/{k[4:]}": v for k, v in CATS.items()},
}


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("name", READ)
def test_the_classes_are_found_and_nothing_else_is_an_image(name, made, tmp_path):
    with heard() as notes: images = from_path(MAKERS[made](tmp_path/"set", READ[name]), size=12)
    assert loaded(images) == PLAIN
    quiet = name in ("plain", "patients in each class") or made == "zip" and name in ("a folder around", "Linux thumbnails", "Mac", "Windows")
    assert quiet or notes, "what was left out or looked through is said"
    if name == "parts in each class": assert set(images.split) == {"train", "test"}


# name -> names of the folders that hold cat and dog; none of them may become a class
PARTS = {
    "usual": ("train", "val", "test"), "capitals": ("Train", "TEST"), "long": ("training", "validation", "testing"), "seg": ("seg_train", "seg_test", "seg_pred"),
    "set": ("training_set", "test_set"), "dev": ("train", "dev", "test"), "unlike": ("TrainingSet", "test data"), "folds": ("fold1", "fold2", "fold3"),
    "Folds": ("Fold_1", "Fold_10", "Fold_2"), "split": ("split 1", "split 2"), "parts": ("HAM_part_1", "HAM_part_2"), "name": ("Pets-train", "Pets-valid"),
    "camel": ("petsTrain", "petsTest"), "kfold": ("kfold-0", "kfold-1"), "eval": ("train", "eval"), "holdout": ("training", "holdout"),
}


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("around", ["", "pets/"])
@pytest.mark.parametrize("name", PARTS)
def test_parts_are_no_classes(name, around, made, tmp_path):
    files = {f"{around}{p}/{k}": v + 20*i for i, p in enumerate(PARTS[name]) for k, v in CATS.items()}
    path = MAKERS[made](tmp_path/"set", files)
    with heard(), pytest.raises(UserError, match=f"holds the parts .*{PARTS[name][0]}.*, not classes.*--parts pool"): from_path(path, size=12)
    with heard() as notes: images = from_path(path, size=12, parts="pool")
    assert loaded(images) == sorted((k.split("/")[-2], v) for k, v in files.items())
    assert len(set(images.split)) == len(PARTS[name]) and all(p.split("/")[-3] in PARTS[name] for p in images.paths)
    assert any("official split" in n for n in notes)


REFUSED = {
    "a part and its copy": (inside("train") | inside("test") | inside("pets/train"), "holds the parts"),
    "a lone part among leaves": (inside("train") | {"images/0.png": 1}, "holds the parts train"),
    "a copy that differs": (CATS | {"old/cat/7.png": 1, "old/dog/8.png": 2}, "old holds folders called like those beside it"),
    "unlabelled test": (inside("train") | {"test/0.png": 1, "test/1.png": 2}, "holds the parts"),
    "one class": ({"cat/0.png": 1, "cat/1.png": 2}, "received 1 class|no class sub-folders"),
    "an empty class": (CATS | {"cow/readme.txt": None}, "no image in class cow"),
    "an image beside": (CATS | {"x.png": 1}, "beside its class"),
}


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_sure_is_refused(name, made, tmp_path):
    files, says = REFUSED[name]
    with heard(), pytest.raises(UserError, match=says): from_path(MAKERS[made](tmp_path/"set", files), size=12)


@pytest.mark.parametrize("files,why", [(inside("train") | inside("test", tree("cat", "cow")), "only where they hold the same classes"),
                                       (inside("train") | {"test/0.png": 1}, "images without a class"), (inside("train") | inside("test") | inside("other"), "beside the parts")])
def test_parts_with_other_classes_are_not_pooled(files, why, tmp_path):
    with heard(), pytest.raises(UserError, match=why): from_path(as_folder(tmp_path/"set", files), size=12, parts="pool")


@pytest.mark.parametrize("names", [("mask", "no_mask"), ("with_mask", "without_mask"), ("mask", "no mask", "half a mask"), ("train", "bus", "car"), ("test_positive", "test_negative"),
                                   ("control", "test"), ("raw", "cooked"), ("10", "9", "1")])
def test_classes_that_are_called_like_something_else_stay(names, tmp_path):
    files = tree(*names)
    with heard() as notes: images = from_path(as_folder(tmp_path/"set", files), size=12)
    assert loaded(images) == sorted((k.split("/")[0], v) for k, v in files.items()) and not notes


def test_what_could_be_read_in_two_ways_is_said(tmp_path):
    with heard() as notes: images = from_folder(as_folder(tmp_path/"set", tree("benign/40X", "benign/100X", "malignant/40X", "malignant/100X")), size=12)
    assert images.classes == ["benign", "malignant"] and "every class holds the same folders (40X, 100X)" in notes[0]


def test_links_are_followed_and_loops_end(tmp_path):
    d, far = as_folder(tmp_path/"set", CATS), as_folder(tmp_path/"far", {"0.png": 100, "deep/1.png": 101})
    (d/"cow").symlink_to(far)
    (far/"deep"/"up").symlink_to(far)
    (d/"dog"/"top").symlink_to(d)
    with heard() as notes: images = from_folder(d, size=12)
    assert loaded(images) == sorted([*PLAIN, ("cow", 100), ("cow", 101)])
    assert any("not followed (cow/deep/up, dog/top)" in n for n in notes)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    d, scan = as_folder(tmp_path/"set", tree("cat", "dog", "dog/more")), os.scandir
    def refuse(path):
        if str(path).endswith("more"): raise PermissionError(13, "Permission denied", str(path))
        return scan(path)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="dog/more: this folder cannot be read .Permission denied."): from_folder(d, size=12)


def test_names_that_are_not_utf8_are_read_and_shown(tmp_path):
    d = tmp_path/os.fsdecode(b"kl\xe9")
    for c in (b"a", b"b\xfc"):
        (d/os.fsdecode(c)).mkdir(parents=True)
        for i in range(2): grey(10 + len(c)*5 + i).save(d/os.fsdecode(c)/os.fsdecode(b"\xe9%d.png" % i))
    with heard() as notes: images = from_folder(d, size=12)
    assert images.classes == ["a", "b\\xfc"] and loaded(images) == [("a", 15), ("a", 16), ("b\\xfc", 20), ("b\\xfc", 21)]
    assert "not UTF-8" in notes[0] and json.dumps(images.paths.tolist()).isascii()


# ---- labels: three generators, a table, class folders and a zip with a table


def labelled(made, root, labels, groups=None, header=None):
    "images 0.png, 1.png, ... with these labels: a CSV, class folders (no groups), or a zip with a labels.csv"
    if made == "folder":
        return as_folder(root, {f"{c}/{i}.png": 10 + i for i, c in enumerate(labels)})
    rows = [header or ("path,class,patient" if groups else "path,class")]
    for i, c in enumerate(labels): rows.append(",".join([f"{i}.png", f'"{c}"', *([f'"{groups[i]}"'] if groups else [])]))
    if made == "zip":
        with zipfile.ZipFile(root.with_suffix(".zip"), "w") as z:
            for i in range(len(labels)): z.writestr(f"{i}.png", packed(10 + i, "PNG"))
            z.writestr("labels.csv", "\n".join(rows))
        return root.with_suffix(".zip")
    as_folder(root, {f"{i}.png": 10 + i for i in range(len(labels))})
    (root/"labels.csv").write_text("\n".join(rows), encoding="utf-8")
    return root/"labels.csv"


FORMS = ("csv", "folder", "zip")
E_ACUTE = ("r\u00e9nal", "re\u0301nal")     # one letter, and a letter with an accent


@pytest.mark.parametrize("made", FORMS)
@pytest.mark.parametrize("labels,want", [
    (["cat", "cat ", "dog"], ["cat", "dog"]), ([" cat", "dog", "cat"], ["cat", "dog"]), (["cat\u00a0", "dog", "cat"], ["cat", "dog"]), ([E_ACUTE[0], E_ACUTE[1], "a"], ["a", E_ACUTE[0]]),
    (["big cat", "big  cat", "dog"], ["big cat", "dog"]), (["\ufeffcat", "dog", "cat"], ["cat", "dog"]), (["cat\u200b", "dog", "cat"], ["cat", "dog"]), (["1 ", "1", "2"], ["1", "2"]),
    (["n\u0303", "\u00f1", "n"], ["n", "\u00f1"]), (["a\u030a b", "\u00e5 b ", "c"], ["c", "\u00e5 b"]), (["cat\t", "cat", "dog"], ["cat", "dog"]), (["\u2003cat", "cat", "dog "], ["cat", "dog"]),
])
def test_spellings_of_a_class_are_one(made, labels, want, tmp_path):
    from catscans.datasets.tidy import spelled
    with heard() as notes: images = from_path(labelled(made, tmp_path/"set", labels), size=12)
    assert sorted(images.classes) == sorted(want)
    assert loaded(images) == sorted((spelled(c), 10 + i) for i, c in enumerate(labels))
    assert any("white space or Unicode form" in n for n in notes)


@pytest.mark.parametrize("made", FORMS)
@pytest.mark.parametrize("labels,to", [(["Cat", "Cat", "cat", "dog"], "cat=Cat"), (["0", "0.0", "0", "1"], "0.0=0"), (["MEL", "mel", "MEL", "nv"], "mel=MEL"), (["True", "true", "true", "False"], "True=true"),
                                       (["1", "1", "01", "2"], "01=1"), (["Grade 1", "Grade 1", "grade 1", "grade 2"], "'grade 1'='Grade 1'"), (["STRASSE", "stra\u00dfe", "STRASSE", "b"], "=STRASSE")])
def test_twins_are_refused_with_what_to_paste_and_pasting_it_helps(made, labels, to, tmp_path):
    path = labelled(made, tmp_path/"set", labels)
    with pytest.raises(UserError, match=f"--rename .*{re.escape(to)}") as e: from_path(path, size=12)
    rename = eval(re.search(r"rename=(\{.*?\})", str(e.value))[1])      # what the message says to paste
    images = from_path(path, size=12, rename=rename)
    assert len(images.classes) == 2 and loaded(images) == sorted((rename.get(c, c), 10 + i) for i, c in enumerate(labels))
    with pytest.raises(UserError, match="received 'cow', which is no class"): from_path(path, size=12, rename=dict(cow="cat"))


@pytest.mark.parametrize("made", FORMS)
@pytest.mark.parametrize("word", ["NA", "None", "none", "nan", "NaN", "null", "NULL", "-1", "-1.0", "<NA>", "#NA", "?", "missing", "NaT"])
def test_a_missing_label_is_no_class(made, word, tmp_path):
    with pytest.raises(UserError, match=f"2 images have no class .it is '{re.escape(word)}'|rows have no class"):
        from_path(labelled(made, tmp_path/"set", ["a", word, "b", word]), size=12)


def test_a_blank_label_is_refused(tmp_path):
    for i, word in enumerate(("", " ", "\u00a0", "\u200b")):
        with pytest.raises(UserError, match="no class"): from_path(labelled("csv", tmp_path/str(i), ["a", word, "b"]), size=12)


@pytest.mark.parametrize("made", FORMS)
@pytest.mark.parametrize("want", [["0", "1", "2", "10"], ["grade 1", "grade 2", "grade 10"], ["a", "b"], ["1", "2", "\u00b2"], ["KL0", "KL4", "KL11"], ["0.0", "1.0", "10.0"], ["B", "a"], ["01_TUMOR", "02_STROMA", "10_X"],
                                  ["-2", "2"], ["\u2460", "\u2461"], ["2 cats", "12 dogs"], ["x9y1", "x9y20", "x10y3"]])
def test_classes_stand_in_natural_order(made, want, tmp_path):
    with heard(): images = from_path(labelled(made, tmp_path/"set", [*want[::-1], *want]), size=12)
    assert images.classes == want


def test_an_integer_column_still_orders_the_classes(tmp_path):
    p = labelled("csv", tmp_path/"set", ["b", "a10", "a9"])
    p.write_text("path,class,label\n0.png,b,0\n1.png,a10,1\n2.png,a9,2\n")
    assert from_csv(p, size=12).classes == ["b", "a10", "a9"]


def test_labels_of_an_array_stand_in_natural_order_too(tmp_path):
    np.savez(tmp_path/"m.npz", train_images=np.arange(12, dtype=np.uint8)[:, None, None].repeat(12, 1).repeat(12, 2), train_labels=np.array([10, 2, 1, 0]*3))
    images = from_npz(tmp_path/"m.npz", size=12)
    assert images.classes == ["0", "1", "2", "10"] and loaded(images) == sorted((str([10, 2, 1, 0][i % 4]), i) for i in range(12))


# ---- groups


@pytest.mark.parametrize("made", ["csv", "zip"])
@pytest.mark.parametrize("groups,n", [(["p3", "p3 ", "p4", "p5"], 3), (["p3", "P3", "p4", "p5"], 3), (["3", "3.0", "4", "5"], 3), (["03", "3", "4", "5"], 3), (["M\u00fcller", "Mu\u0308ller", "x", "y"], 3),
                                      (["a  b", "a b", "c", "d"], 3), (["a\u00a0", "a", "b", "c"], 3), (["\ufeffp1", "p1", "p2", "p3"], 3), (["p1", "p2", "p3", "p4"], 4), (["1", "10", "100", "1000"], 4),
                                      (["12345678901234567", "12345678901234568", "a", "b"], 4), (["p1", "p1.0", "p01", "p2"], 4), (["x\t", "x", "y", "Y "], 2)])
def test_spellings_of_a_patient_are_one(made, groups, n, tmp_path):
    with heard() as notes: images = from_path(labelled(made, tmp_path/"set", list("abab"), groups), size=12)
    assert len(set(images.groups)) == n and loaded(images) == [("a", 10), ("a", 12), ("b", 11), ("b", 13)]
    assert bool(notes) == (n < 4)


@pytest.mark.parametrize("made", ["csv", "zip"])
@pytest.mark.parametrize("word", ["NA", "None", "none", "null", "unknown", "Unknown ", "nan", "n/a", "", " ", "-", "?", "-1", "not available", "<NA>", "UNK"])
def test_a_missing_patient_is_not_one_huge_patient(made, word, tmp_path):
    with pytest.raises(UserError, match="2 images have no patient|2 rows have no patient"):
        from_path(labelled(made, tmp_path/"set", list("abab"), ["p1", word, "p2", word]), size=12)


def test_groups_of_an_array_are_held_to_the_same(tmp_path):
    x = np.zeros((4, 12, 12), np.uint8)
    for groups, says in ((["p1", "p1 ", "p2", "p3"], 3), (["p1", "NA", "p2", "p3"], "1 image has no groups")):
        np.savez(tmp_path/f"{says}.npz", train_images=x, train_labels=[0, 1, 0, 1], train_groups=groups)
        if says == 3:
            with heard(): assert len(set(from_npz(tmp_path/"3.npz", size=12).groups)) == 3
        else:
            with pytest.raises(UserError, match=says): from_npz(tmp_path/f"{says}.npz", size=12)


@pytest.mark.parametrize("twice", [("0.png", "./0.png"), ("d/0.png", "d//0.png"), ("0.png", "{T}/0.png"), ("d/0.png", "d/../d/0.png"), ("d/0.png", "d/./0.png"), ("0.png", "link.png"), ("0.png", "there/0.png"), ("0.png", "0.png")])
@pytest.mark.parametrize("labels", ["ab", "aa"])
def test_a_file_is_listed_once_however_it_is_written(twice, labels, tmp_path):
    d = as_folder(tmp_path/"set", {"0.png": 1, "1.png": 2, "d/0.png": 3})
    (d/"link.png").symlink_to(d/"0.png")
    (d/"there").symlink_to(d)
    rows = [f"{n.format(T=d)},{c}" for n, c in zip(twice, labels)] + ["1.png,b"]
    (d/"l.csv").write_text("path,class\n" + "\n".join(rows))
    with heard(), pytest.raises(UserError, match="2 times|twice|multi-label"): from_csv(d/"l.csv", size=12)


@pytest.mark.parametrize("column", ["PatientID", "subject_id", "case_id", "CaseID", "Patient", "patientId", "SUBJECT", "StudyInstanceUID", "participant", "lesionID", "Slide_ID", "MRN", "video_id", "donor", "ID_PACIENTE"])
def test_a_column_that_looks_like_a_group_is_named(column, tmp_path):
    p = labelled("csv", tmp_path/"set", list("abab"), ["1", "1", "2", "2"], f"path,class,{column}")
    with heard() as notes: images = from_csv(p, size=12)
    assert images.groups is None and f"the column {column} looks like a group (2 values in 4 rows)" in notes[0] and f"--group-col {column}" in notes[0]
    with heard() as notes: assert from_csv(p, size=12, group_col=column).groups.tolist() == ["1", "1", "2", "2"]
    assert not notes


@pytest.mark.parametrize("column,values", [("age", "1122"), ("patient_no", "1234"), ("casein", "1122"), ("sex", "1122"), ("casing", "1122")])
def test_a_column_that_does_not_is_not(column, values, tmp_path):
    p = labelled("csv", tmp_path/"set", list("abab"), list(values), f"path,class,{column}")
    with heard() as notes: from_csv(p, size=12)
    assert not notes


# ---- splits


def patients(kind, seed):
    "labels and patients: one class each, several classes each, or a rare class in few of them"
    rng = np.random.default_rng(seed)
    if kind == "one class each": return np.repeat(rng.permutation([0]*14 + [1]*6), 5), np.repeat(np.arange(20), 5)
    if kind == "several": return rng.permutation(np.repeat([0, 1, 2], [60, 30, 10])), np.repeat(np.arange(25), 4)
    return np.r_[np.zeros(95, int), np.ones(6, int)], np.r_[np.repeat(np.arange(19), 5), [0, 1, 2, 3, 4, 4]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["one class each", "several", "rare"])
def test_every_fold_holds_every_class_where_a_cut_can(kind, seed):
    y, g = patients(kind, seed)
    s = make_splits(y, g, "grouped", 5, seed)
    assert all(set(y[f.test]) == set(y[f.train]) == set(y) for f in s) and shared_group_rate(s, g) == 0
    assert sorted(np.concatenate([f.test for f in s])) == list(range(len(y)))
    assert make_splits(y, g, "grouped", 5, seed).fingerprint == s.fingerprint
    f = single_split(y, g, "grouped", seed) if kind != "rare" else None
    if f: assert all(set(y[getattr(f, p)]) == set(y) for p in ("train", "valid", "test")) and not set(g[f.train]) & set(g[f.test])


def test_a_cut_that_no_seed_finds_is_found():
    "ten folds, ten patients with the rare class: each must go to a fold of its own"
    y, g = np.r_[np.zeros(400, int), np.ones(10, int)], np.r_[np.repeat(np.arange(40), 10), np.arange(10)]
    for seed in range(3):
        s = make_splits(y, g, "grouped", 10, seed)
        assert all(set(y[f.test]) == {0, 1} for f in s) and max(len(f.test) for f in s) <= 60


@pytest.mark.parametrize("n", [2, 5, 8, 9])
def test_fewer_than_ten_patients_are_one_line(n):
    with pytest.raises(UserError, match=f"at least 10 groups .patients, lesions, slides., received {n}; give more"):
        single_split(np.tile([0, 1], 60), [f"p{i//2 % n}" for i in range(120)])
    assert len(single_split(np.tile([0, 1], 60), [f"p{i//2 % n}" for i in range(120)], "described").test) == 12


def test_a_class_of_two_patients_is_one_line():
    with pytest.raises(UserError, match="class 1 has images of 2 groups: 80/10/10 by group needs one in each of three parts"):
        single_split(np.r_[np.zeros(200, int), np.ones(20, int)], np.r_[np.repeat(np.arange(40), 5), np.repeat([40, 41], 10)])


def official(made, tmp_path):
    "a dataset that carries its split: a column, folders, parts in classes, or arrays"
    if made == "column":
        p = labelled("csv", tmp_path/"set", list("abababab"))
        p.write_text("path,class,split\n" + "\n".join(f"{i}.png,{'ab'[i % 2]},{w}" for i, w in enumerate(["Train", "train", "TRAIN", "training", "valid", "val", "Test", "testing"])))
        return from_csv(p, size=12)
    if made == "folders": return from_folder(as_folder(tmp_path/"set", tree("seg_train/a", "seg_train/b", "seg_dev/a", "seg_dev/b", "seg_test/a", "seg_test/b")), size=12, parts="pool")
    if made == "in classes": return from_folder(as_folder(tmp_path/"set", tree("a/train", "b/train", "a/val", "b/val", "a/test", "b/test")), size=12)
    x, y = np.zeros((4, 12, 12), np.uint8), np.array([0, 1, 0, 1])
    np.savez(tmp_path/"m.npz", **{f"{p}_{k}": v for p in ("train", "val", "test") for k, v in (("images", x), ("labels", y))})
    return from_npz(tmp_path/"m.npz", size=12)


@pytest.mark.parametrize("made", ["column", "folders", "in classes", "arrays"])
def test_the_split_that_the_data_carry_is_used_when_asked_for(made, tmp_path):
    with heard(): images = official(made, tmp_path)
    with heard() as notes: s = splits_of(images, "official")
    f, = s.folds
    part = lambda at: {part_of(images.split[i])[0] for i in at}
    assert (part(f.train), part(f.valid), part(f.test)) == ({"train"}, {"val"}, {"test"}) and len(f.train) + len(f.valid) + len(f.test) == len(images)
    assert notes == [f"{images.name}: the official split of the data: {len(f.train)} train, {len(f.valid)} val, {len(f.test)} test"]
    with heard() as notes: splits_of(images, k=2)
    assert "2 folds cut anew" in notes[0] and "official split that the data carry is not used" in notes[0]


def test_without_one_it_is_said(tmp_path):
    with pytest.raises(UserError, match="carries no official split"): splits_of(from_folder(as_folder(tmp_path/"set", CATS), size=12), "official")
    with pytest.raises(UserError, match="allowed are folds, official"): splits_of(None, "offical")


# ---- the doctor, and what other commands say of the same images


def noise(rng, n, side=48): return rng.integers(0, 255, (n, side//8, side//8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


def ill(made, tmp_path, rng=None):
    "40 pictures, with a byte-identical file in two classes and a mirrored one; a folder, a table with patients, an .npz, or a zip"
    x = noise(rng or np.random.default_rng(0), 40)
    x[9] = x[4][:, ::-1]
    d = tmp_path/"set"
    names = [f"{'ab'[i % 2]}/{i}.png" for i in range(40)]
    if made == "npz":
        x[7] = x[2]
        np.savez(tmp_path/"set.npz", train_images=x, train_labels=np.arange(40) % 2, train_groups=np.arange(40)//2)
        return tmp_path/"set.npz"
    for n, v in zip(names, x):
        (d/n).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(v).save(d/n)
    (d/names[7]).write_bytes((d/names[2]).read_bytes())
    if made == "csv": (d/"labels.csv").write_text("path,class,patient\n" + "\n".join(f"{n},{n[0]},p{i//2}" for i, n in enumerate(names)))
    if made != "zip": return d
    with zipfile.ZipFile(tmp_path/"set.zip", "w") as z: [z.write(d/n, n) for n in names]
    return tmp_path/"set.zip"


@pytest.mark.parametrize("made", ["folder", "csv", "npz", "zip"])
def test_planted_twins_are_found_by_every_command(made, tmp_path, capsys):
    path = ill(made, tmp_path)
    r = examine(path)
    assert (r["exact"]["pairs"], r["near"]["pairs"]) == (1, 1) and r["exact"]["across"]["classes"] == r["near"]["across"]["classes"] == 1
    says = [n for n in r["notes"] if "twins" not in n or "keep twins in one group" in n]
    assert any("byte-identical files (1 across classes" in n for n in says) and any("the same image under two classes" in n for n in says)
    assert max(map(len, page(r).splitlines())) <= 100
    assert main(["data", "doctor", str(path), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["near"] == r["near"] and out["errors"] == []
    assert main(["data", "add", str(path), "--name", "ill"]) == 0
    assert sum("the same image under two classes" in n for n in capsys.readouterr().err.splitlines()) == 1
    assert main(["rank", str(path)]) == 0 and "the same image under two classes" in capsys.readouterr().out


def test_commands_refuse_the_same_with_one_line(tmp_path, capsys):
    path = as_folder(tmp_path/"set", inside("train") | inside("test"))
    lines = []
    for command in (["data", "doctor"], ["data", "add"], ["rank"]):
        assert main([*command, str(path)]) == 2
        lines.append(capsys.readouterr().err)
    assert len(set(lines)) == 1 and lines[0].count("\n") == 1 and "holds the parts" in lines[0]
    assert main(["data", "doctor", str(path), "--json"]) == 2 and "holds the parts" in json.loads(capsys.readouterr().out)["errors"][0]
    assert main(["data", "doctor", str(path), "--parts", "pool"]) == 0 and "official split" in capsys.readouterr().out


# what is wrong -> files of a folder (and its table), the errors in the order in which they are met, images and classes that are left
def broken_table(d):
    "24 pictures of patients in a CSV with every kind of mistake in a row of its own"
    x = noise(np.random.default_rng(3), 24)
    for i in range(24): Image.fromarray(x[i]).save(d/f"{i}.png")
    rows = [f"{i}.png,{'ab'[i % 2]},p{i//2}" for i in range(24)]
    rows[1], rows[2], rows[4], rows[6] = "1.png,NA,p0", "2.png,a,unknown", "gone.png,a,p2", "6.png,A,p3"
    (d/"9.png").write_bytes((d/"9.png").read_bytes()[:60])
    (d/"labels.csv").write_text("path,class,patient\n" + "\n".join([*rows, "./8.png,a,p4"]))


EVERY = ["names 1 file that is not there: gone.png", "lists one file 2 times", "1 image has no class", "differ only in capitals", "1 image has no patient", "1 of 21 images cannot be read"]


@pytest.mark.parametrize("made", ["folder", "csv", "zip"])
def test_the_doctor_names_every_error_and_goes_on(made, tmp_path, capsys):
    d = tmp_path/"set"
    d.mkdir()
    broken_table(d)
    if made == "zip":
        with zipfile.ZipFile(tmp_path/"set.zip", "w") as z: [z.write(f, f.name) for f in d.iterdir()]
    path = dict(csv=d/"labels.csv", zip=tmp_path/"set.zip").get(made, d)
    assert main(["data", "doctor", str(path), "--json"]) == 2
    said, err = capsys.readouterr()
    r = json.loads(said)
    assert len(r["errors"]) == len(EVERY) and all(e in got for e, got in zip(EVERY, r["errors"])), r["errors"]
    assert r["images"] == 20 and r["classes"] == dict(A=1, a=9, b=10)
    assert err.count("\n") == 1 and err.rstrip().endswith("(and 5 more errors, on the page)")
    assert main(["data", "doctor", str(path)]) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(f"error: {e}".split()) in shown for e in r["errors"]) and "what is left without the errors below" in shown
    assert "pairs of near duplicates" in shown and "groups" in shown
    with pytest.raises(UserError, match="gone.png"): from_path(path, size=12)      # every other command stops at the first


def deep(v): return np.full((12, 12), v, np.uint16) + np.arange(12, dtype=np.uint16)


@pytest.mark.parametrize("made", ["parts", "a part beside others", "loose", "an empty class", "one class", "a copy that differs", "mixed depths", "nothing"])
def test_the_doctor_goes_on_where_the_folders_are_wrong(made, tmp_path):
    sets = {"parts": (inside("train") | inside("test", dict.fromkeys(CATS, 99)), "holds the parts", 8, {"cat", "dog"}),
            "a part beside others": (inside("train") | inside("test") | tree("more/x"), "holds the parts", 8, {"cat", "dog"}),
            "loose": (CATS | {"x.png": 3}, "1 images beside its class", 4, {"cat", "dog"}), "an empty class": (CATS | {"cow/readme.txt": None}, "no image in class cow", 4, {"cat", "dog"}),
            "one class": (tree("cat"), "received 1 class", 2, {"cat"}), "a copy that differs": (CATS | {"old/cat/7.png": 1, "old/dog/8.png": 2}, "old holds folders called like those beside it", 4, {"cat", "dog"}),
            "mixed depths": (CATS, "4 images have 8 bits .* and 1 image has more .*range=12", 5, {"cat", "dog"}), "nothing": ({"x.png": 3}, "no class sub-folders", 0, set())}
    files, says, n, classes = sets[made]
    d = as_folder(tmp_path/"set", files)
    if made == "mixed depths": Image.fromarray(deep(4000)).save(d/"cat"/"deep.png")
    r = examine(d)
    assert re.search(says, r["errors"][0]) and r["images"] == n and set(r["classes"]) == classes
    assert "error: " in page(r) and (n == 0 or r["fingerprint"]) and max(map(len, page(r).splitlines())) <= 100
    if made == "parts": assert r["split"] == dict(test=4, train=4)


def test_images_that_nothing_here_decodes_leave_a_page_of_the_rest(tmp_path, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "pydicom", None)
    d = tmp_path/"set"
    for c in "ab":
        (d/c).mkdir(parents=True)
        for i in range(3): (d/c/f"{i}.dcm").write_bytes(bytes(128) + b"DICM" + bytes([i])*50)
    r = examine(d)
    assert r["classes"] == dict(a=3, b=3) and r["shortcuts"] is None and "pip install 'catscans[dicom]'" in r["errors"][0] and page(r).count("could not be decoded") == 2


def test_a_folder_a_zip_a_table_and_an_array_get_one_answer(tmp_path):
    "the same pictures, in other orders and by other names; only an .npz has no files with kinds and bytes"
    rng = np.random.default_rng(5)
    x, y = noise(rng, 60), np.arange(60) % 2
    x[y == 1] = np.clip(x[y == 1]*.8, 0, 255)
    x[7], x[9] = x[2], x[4][:, ::-1]
    d, group = tmp_path/"set", [f"p{i//3}" for i in range(60)]
    for i in range(60):
        (d/"ab"[y[i]]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i]).save(d/"ab"[y[i]]/f"{i:02}.png")
    table = "path,class,patient\n" + "\n".join(f"{'ab'[y[i]]}/{i:02}.png,{'ab'[y[i]]},{group[i]}" for i in rng.permutation(60))
    (tmp_path/"set"/"labels.csv").write_text(table)
    with zipfile.ZipFile(tmp_path/"set.zip", "w") as z: [z.write(f, f.relative_to(d)) for f in rng.permutation(sorted(d.rglob("*.*")))]
    at = rng.permutation(60)
    np.savez(tmp_path/"set.npz", images=x[at], labels=np.array(["a", "b"])[y[at]], groups=np.array(group)[at])
    folder, csv, packed, array = (examine(p) for p in (d, d/"labels.csv", tmp_path/"set.zip", tmp_path/"set.npz"))
    for other in (csv, packed, array):
        assert other["classes"] == folder["classes"] and other["shortcuts"]["auc"]["brightness"] == folder["shortcuts"]["auc"]["brightness"]
        assert [other[k]["pairs"] for k in ("exact", "near")] == [folder[k]["pairs"] for k in ("exact", "near")] == [1, 1]
        assert [other["groups"][k] for k in ("groups", "most")] == [20, 3] and other["errors"] == []
        same = {k: v for k, v in folder["shortcuts"]["auc"].items() if k in other["shortcuts"]["auc"]}
        assert other["shortcuts"]["auc"] == same and len(same) == (3 if other is array else 5)
        if other is not array: assert other["shortcuts"] == folder["shortcuts"] and other["files"] == folder["files"]


def test_the_doctor_knows_datasets_by_name(tmp_path, capsys, monkeypatch):
    path = ill("csv", tmp_path)
    assert main(["data", "add", str(path), "--name", "ill", "--class-col", "class"]) == 0
    capsys.readouterr()
    assert main(["data", "doctor", "ill", "--json"]) == 0
    named = json.loads(capsys.readouterr().out)
    assert named == json.loads(json.dumps(examine(path) | dict(path="ill", name="ill", fingerprint=named["fingerprint"]))) and named["groups"]["groups"] == 20
    for asked, says in (("il", "unknown dataset: received 'il' (did you mean ill?)"), ("dtd", "no images under CATSCANS_DATA"), ("gone.zip", "there is nothing at gone.zip")):
        assert main(["data", "doctor", asked]) == 2 and says in capsys.readouterr().err
    assert main(["data", "doctor", "ill", "--parts", "pool"]) == 2 and "received --parts with ill" in capsys.readouterr().err


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("called", ["{}_m.png", "{}L.png", "roi_{}.png", "{}.bmp"])
def test_masks_that_no_name_gives_away_are_named(called, made, tmp_path):
    "by their pixels: two values and a name like the image's"
    x, mask = noise(np.random.default_rng(2), 6), np.zeros((48, 48), np.uint8)
    mask[10:30, 12:40] = 255
    b = {}
    for i in range(6):
        for name, v in ((f"{'ab'[i % 2]}/{i}.png", x[i]), (f"{'ab'[i % 2]}/{called.format(i)}", np.roll(mask, i))):
            out = io.BytesIO()
            Image.fromarray(v).save(out, "PNG")
            b[name] = out.getvalue()
    path = tmp_path/"set"
    for name, v in b.items():
        (path/name).parent.mkdir(parents=True, exist_ok=True)
        (path/name).write_bytes(v)
    if made == "zip":
        with zipfile.ZipFile(tmp_path/"set.zip", "w") as z: [z.writestr(*v) for v in b.items()]
        path = tmp_path/"set.zip"
    with heard(): said = [s for s in checks(from_path(path, size=32)) if "look like masks" in s]
    assert len(said) == 1 and said[0].startswith(f"6 images look like masks of another image (first: a/{called.format(0)} of a/0.png)")


def copies(x, how):
    "the same pictures as somebody else would have saved them"
    def again(a, side=None, quality=None):
        im = Image.fromarray(a)
        if side: im = im.resize((side, side), Image.Resampling.BICUBIC)
        if quality:
            b = io.BytesIO()
            im.save(b, "JPEG", quality=quality)
            im = Image.open(b)
        return np.asarray(im.convert("RGB").resize((64, 64)))
    ways = dict(mirrored=lambda a: a[:, ::-1], upside=lambda a: a[::-1], turned=lambda a: np.rot90(a), transposed=lambda a: a.transpose(1, 0, 2), resized=lambda a: again(a, 40),
                larger=lambda a: again(a, 200), jpeg=lambda a: again(a, quality=60), poor=lambda a: again(a, 50, 40), brighter=lambda a: np.clip(a*1.2 + 10, 0, 255).astype(np.uint8),
                darker=lambda a: (a*.6).astype(np.uint8), shifted=lambda a: np.roll(a, 2, 1), grey=lambda a: np.asarray(Image.fromarray(a).convert("L").convert("RGB")))
    return np.stack([ways[how](a) for a in x])


def smooth(rng, n):
    from scipy.ndimage import gaussian_filter
    a = gaussian_filter(rng.normal(size=(n, 64, 64, 3)), (0, 2, 2, 0))
    return np.uint8(255*(a - a.min((1, 2, 3), keepdims=True))/np.ptp(a, axis=(1, 2, 3), keepdims=True))


def circles(rng, n):
    at, out = np.indices((64, 64)), []
    for _ in range(n):
        v = sum(rng.uniform(.3, 1)*np.exp(-((at[0] - rng.uniform(5, 59))**2 + (at[1] - rng.uniform(5, 59))**2)/rng.uniform(10, 90)) for _ in range(12))
        out.append(np.repeat(np.uint8(255*v/v.max())[..., None], 3, 2))
    return np.stack(out)


@pytest.mark.parametrize("how", ["mirrored", "upside", "turned", "transposed", "resized", "larger", "jpeg", "poor", "brighter", "darker", "shifted", "grey"])
@pytest.mark.parametrize("maker", [lambda r, n: noise(r, n, 64), smooth, circles], ids=["noise", "smooth", "circles"])
def test_near_duplicates_are_found_and_others_are_not(maker, how):
    x = maker(np.random.default_rng(1), 24)
    both = np.concatenate([x, copies(x[:6], how)])
    images = Images(both, np.arange(30) % 2, None, ["a", "b"], None, "", "x", np.arange(30).astype(str))
    found = {tuple(p) for p in twins_of(images)["pairs"].tolist()}
    want = {(i, 24 + i) for i in range(6)}
    assert want <= found, f"missed {want - found}"
    assert len(found - want) <= .01*30*29/2
    grouped = group_duplicates(images, sorted(want))
    assert all(grouped.groups[a] == grouped.groups[b] for a, b in want) and len(set(grouped.groups)) == 24


def test_a_shortcut_is_seen_and_none_is_not(tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.arange(120) % 2, noise(rng, 120)
    d = tmp_path/"set"
    for i in range(120):
        (d/"ab"[y[i]]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i]).resize((48 + 8*y[i], 48)).save(d/"ab"[y[i]]/f"{i}.{('png', 'jpg')[y[i]]}")
    s = examine(d)["shortcuts"]
    auc, words = s["auc"], dict(zip(s["auc"], s["words"]))
    assert auc["size"]["interval"][0] > .5 and "in folds by image: better than chance" in words["size"] and words["brightness"].endswith("not told from chance")
    assert s["verdict"].startswith(("size, file kind and file bytes read", "size and file kind read")) and "no groups are known" in s["verdict"] and "Bring the images of all classes to one size" in s["verdict"]
    assert auc["size"]["by image"] > .99 and auc["file kind"]["by image"] > .99 and abs(auc["brightness"]["by image"] - .5) < .2 and auc["size"]["by group"] is None


def test_siblings_are_seen_as_a_fall_from_image_to_group(tmp_path):
    rng = np.random.default_rng(0)
    base, y = noise(rng, 24), np.arange(24) % 2
    x = np.clip(base.repeat(6, 0).astype(int) + rng.normal(0, 25, (144, 48, 48, 3)), 0, 255).astype(np.uint8)
    np.savez(tmp_path/"m.npz", train_images=x, train_labels=y.repeat(6), train_groups=np.arange(24).repeat(6))
    s = examine(tmp_path/"m.npz")["shortcuts"]
    auc = s["auc"]["16 x 16 pixels"]
    assert "in grouped folds: not told from chance; 1.00 in folds by image, where images of one group lie on both sides" in s["words"][-1] and s["verdict"].startswith("none of these")
    assert auc["by image"] > .95 and auc["by group"] < .75


def test_nothing_is_written_beside_somebodys_images(tmp_path, monkeypatch, capsys):
    d = ill("folder", tmp_path)
    monkeypatch.delenv("CATSCANS_WORK")
    monkeypatch.delenv("CATSCANS_PROJECT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    monkeypatch.chdir(d)
    before = sorted(d.rglob("*"))
    for _ in range(2):
        for line in (["rank", "."], ["data", "doctor", "."], ["data", "add", ".", "--name", f"n{_}"]): assert main(line) == 0, capsys.readouterr().err
    assert sorted(d.rglob("*")) == before and (tmp_path/"cache"/"catscans"/"stores").is_dir()


def test_a_folder_whose_name_is_not_utf8_is_ranked(tmp_path):
    import subprocess, sys
    d = tmp_path/os.fsdecode(b"kl\xe9")
    for c in "ab":
        (d/c).mkdir(parents=True)
        for i in range(12): grey(10*i, 20).save(d/c/f"{i}.png")
    p = subprocess.run([sys.executable, "-c", "import sys; from catscans.study import main; sys.exit(main(['rank', sys.argv[1]]))", os.fsencode(d)], capture_output=True,
                       env=os.environ | dict(PYTHONIOENCODING="utf-8:strict"))
    assert p.returncode == 0 and b"kl\\udce9" in p.stdout, p.stderr


def test_where_near_duplicates_are_not_looked_for_it_is_said(tmp_path):
    images = from_folder(ill("folder", tmp_path), size=48)
    full, quick = checks(images), checks(images, most=39)
    assert any("near duplicates (1 across classes)" in s for s in full) and not any("not looked for" in s for s in full)
    assert any("near duplicates among 40 images were not looked for" in s for s in quick) and any("byte-identical" in s for s in quick)


def test_what_is_said_while_images_are_read_is_kept_with_them(tmp_path, monkeypatch):
    "masks left out, columns taken: in notes, in what a run says and in the register, without the place on this machine; the page says it once"
    from catscans.datasets.added import add, entries
    from catscans.datasets.doctor import checks
    from catscans.datasets.own import from_csv, from_folder, from_path
    for k in ("DATA", "WORK"): monkeypatch.setenv(f"CATSCANS_{k}", str(tmp_path/k))
    (tmp_path/"DATA").mkdir()
    rng, here = np.random.default_rng(0), tmp_path/"set"
    for c in "ab":
        (here/c).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(here/c/f"{i}.png")
            Image.fromarray(np.uint8(255*(rng.random((20, 20)) > .5))).save(here/c/f"{i}_mask.png")
    said = "20 images are left out: masks or thumbnails by their name"
    for images in (from_path(here, size=16), from_folder(here, size=16)):
        assert [n for n in images.notes if said in n] == [n for n in checks(images) if said in n] != []
        assert not any(str(tmp_path) in n for n in images.notes)
    assert page(examine(here)).count(said) == 1
    add(here, "mine")
    assert any(said in n for n in entries()["mine"]["checks"])
    (here/"labels.csv").write_text("path;class\n" + "".join(f"{c}/{i}.png;{c}\n" for c in "ab" for i in range(10)))
    for images in (from_path(here, size=16), from_csv(here/"labels.csv", size=16)):
        assert any("cut at semicolons" in n for n in images.notes) and not any(str(tmp_path) in n for n in images.notes)
    assert page(examine(here)).count("cut at semicolons") == 1
