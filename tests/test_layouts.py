"Every original layout is read to the pixel: on real samples where there are some, and on datasets made here as their makers lay them out."
import os, shutil, subprocess, sys, tarfile, zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import originals
from catscans.core.basics import UserError
from catscans.core.grid import PAPER_SOURCES
from catscans.datasets.archives import extract
from catscans.datasets.catalogue import CATALOGUE, DATASETS
from catscans.datasets.images import decode
from catscans.datasets import layouts
from catscans.datasets.loading import check_card, load, where
from catscans.datasets.readers import general
from catscans.datasets.store import build
from fakes import ROOT


@pytest.fixture
def data(tmp_path, monkeypatch):
    "an empty CATSCANS_DATA"
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work")); monkeypatch.setenv("CATSCANS_DATA", str(tmp_path/"data"))
    (tmp_path/"data").mkdir()
    return tmp_path/"data"


# name -> (maker, side of its images, what load is told)
ORIGINALS = {
    "stl10": (originals.stl10, 96, {}), "dtd": (originals.dtd, 12, {}), "isic2018": (originals.isic2018, 12, {}), "chest": (originals.chest, 12, {}),
    "kimia960": (originals.kimia, 12, {}), "sti10": (originals.sti10, 12, {}), "bloodmnist_64": (originals.medmnist, 64, {}),
    "malaria": (lambda d: originals.class_folders(d, "cell_images", ("Parasitized", "Uninfected"), "C39P4_"), 12, {}),
    "kather2016": (lambda d: originals.class_folders(d, "Kather_texture_2016_image_tiles_5000", [f"0{i}_X" for i in range(1, 9)], "10009_CRC-Prim-HE-03_00", suffix="tif"), 12, {}),
}


def same(images, want, side):
    "pixels, labels, groups and official parts, image by image"
    assert sorted(images.paths) == sorted(want)
    for i, p in enumerate(images.paths):
        x, c, g, part = want[p]
        assert np.array_equal(images.x[i], x if x.shape[0] == side else decode(x, side)), p
        assert images.classes[images.y[i]] == c, p
        if g is not None: assert images.groups[i] == g, p
        if part is not None: assert images.split[i] == part, p


@pytest.mark.parametrize("name", ORIGINALS)
def test_original_layout_to_the_pixel(name, data):
    make, side, options = ORIGINALS[name]
    want = make(data/name); images = load(name, size=side, **options)
    same(images, want, side)
    check_card(DATASETS[name], images, whole=False)
    assert where(name) == data/name


def test_every_layout_on_a_card_has_a_reader_and_a_test_here():
    kinds = {c.layout for c in DATASETS.values()} - {"toy", "lite"}
    assert kinds <= set(layouts.LAYOUTS)
    assert {DATASETS[n].layout for n in ORIGINALS} | {"pcam", "imagenet", "chexpert"} == kinds          # these have tests of their own
    assert {DATASETS[n].layout for n in PAPER_SOURCES} <= set(layouts.LAYOUTS)


def test_chestmnist_has_its_findings_as_labels(data):
    rng = np.random.default_rng(0)
    y = np.concatenate([np.eye(14, dtype=np.uint8), np.zeros((2, 14), np.uint8), rng.integers(0, 2, (4, 14), dtype=np.uint8)])
    x = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.savez(data/"chestmnist.npz", train_images=x[:12], train_labels=y[:12], val_images=x[12:16], val_labels=y[12:16], test_images=x[16:], test_labels=y[16:])
    images = load("chestmnist", size=28)
    check_card(DATASETS["chestmnist"], images, whole=False)
    assert images.y.tolist() == y.tolist() and (images.classes[0], images.classes[-1], len(images.classes)) == ("atelectasis", "hernia", 14)
    assert np.unique(images.split, return_counts=True)[1].tolist() == [4, 12, 4] and np.array_equal(images.x[..., 0], x)
    with pytest.raises(UserError, match="not 112120"): check_card(DATASETS["chestmnist"], images)


OBSERVATIONS = ("No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
                "Support Devices")


def test_chexpert_by_patient_with_uncertain_labels_settled(data):
    root = data/"CheXpert-v1.0-small"
    rel = [f"train/patient{p:05}/study1/view1_frontal.jpg" for p in range(14)] + ["train/patient00000/study2/view1_frontal.jpg", "valid/patient64541/study1/view1_frontal.jpg"]
    want = [originals.picture(root/r, i) for i, r in enumerate(rel)]
    rows = [["1.0" if c == i else "" for c in range(14)] for i in range(14)] + [["-1.0"]*14, ["0.0"]*13 + ["1.0"]]
    lines = [f"CheXpert-v1.0-small/{r},F,1,Frontal,AP,{','.join(v)}" for r, v in zip(rel, rows)]
    head = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{OBSERVATIONS}"
    (root/"train.csv").write_text("\n".join([head, *lines[:-1]])); (root/"valid.csv").write_text("\n".join([head, lines[-1]]))
    images = load("chexpert", size=12)
    check_card(DATASETS["chexpert"], images, whole=False)
    assert images.classes == OBSERVATIONS.split(",") and np.array_equal(images.x, want) and images.split.tolist() == ["train"]*15 + ["valid"]
    assert images.y.tolist() == [*np.eye(14, dtype=int).tolist(), [-1]*14, [0]*13 + [1]]
    assert images.groups[14] == images.groups[0] == "patient00000" and len(set(images.groups)) == 15
    assert load("chexpert", size=12, uncertain="ones").y[14].tolist() == [1]*14 and images.labels["uncertain_labels"] == 14
    with pytest.raises(UserError, match="allowed are ignore, zeros, ones"): load("chexpert", size=12, uncertain="two")
    with pytest.raises(UserError, match="received the option part, allowed are uncertain|option 'part', allowed are uncertain"): load("chexpert", size=12, part="val")


# ---- archives, unpacked as `get` does


@pytest.mark.parametrize("name,folder,pack", [("stl10", "stl10_binary", "w:gz"), ("dtd", "dtd", "w"), ("chest", "chest_xray", "zip"), ("kimia960", "KIMIA_path_960", "zip")])
@pytest.mark.parametrize("to", ["{name}", "{name}/some archive-r1", "{folder}"])
def test_unpacked_archives_are_found(name, folder, pack, to, data, tmp_path):
    "in a folder of the dataset's name, in the archive's folder within it, or under the archive's own name"
    make, side, _ = ORIGINALS[name]; want = make(tmp_path/"made")
    archive = tmp_path/"archive"
    if pack == "zip":
        with zipfile.ZipFile(archive, "w") as z: [z.write(f, f.relative_to(tmp_path/"made")) for f in sorted((tmp_path/"made").rglob("*")) if f.is_file()]
    else:
        with tarfile.open(archive, pack) as t: t.add(tmp_path/"made"/folder, folder)
    extract(archive, tmp_path/"out"); place = data/to.format(name=name, folder=folder); place.parent.mkdir(exist_ok=True)
    if folder == "dtd" and to == "{folder}": (tmp_path/"out"/folder).rename(place)
    else: (tmp_path/"out").rename(place) if "some" in to or to == "{name}" else (tmp_path/"out"/folder).rename(place)
    same(load(name, size=side), want, side)


def test_kaggles_chest_archive_holds_everything_twice(data):
    want = originals.chest(data/"chest")
    originals.chest(data/"chest"/"chest_xray"); originals.chest(data/"chest"/"__MACOSX")
    for f in list((data/"chest"/"__MACOSX").rglob("*.jpeg")): f.rename(f.with_name(f"._{f.name}"))
    (data/"chest"/"chest_xray"/"train"/"NORMAL"/".DS_Store").write_bytes(b"\0")
    same(load("chest", size=12), want, 12)


def test_mendeleys_chest_archive_has_no_val(data):
    want = originals.chest(data/"chest", parts=("train", "test")); same(load("chest", size=12), want, 12)


# ---- STL-10, DTD, ISIC2018, STI-10, ImageNet


def test_stl10_is_column_major_and_counts_from_one(tmp_path):
    "a corner of known colour, in the file's own order of bytes"
    d = tmp_path; image = np.zeros((96, 96, 3), np.uint8); image[0, 95] = (255, 7, 9)                     # top right
    raw = np.zeros(3*96*96, np.uint8); raw[95*96] = 255; raw[96*96 + 95*96] = 7; raw[2*96*96 + 95*96] = 9   # channel, column, row
    for p in ("train", "test"): np.concatenate([raw, raw*0]).tofile(d/f"{p}_X.bin"); np.uint8([2, 1]).tofile(d/f"{p}_y.bin")
    (d/"class_names.txt").write_text("airplane\nbird\n")
    li = layouts.stl10(d)
    assert np.array_equal(li.items[0](), image) and li.y.tolist() == [1, 0, 1, 0] and li.classes == ["airplane", "bird"]


def test_official_splits_of_dtd(data):
    originals.dtd(data/"dtd"); one, two = load("dtd", size=12), load("dtd", size=12, partition=2)
    assert np.array_equal(one.x, two.x) and set(one.split) == set(two.split) == {"train", "val", "test"} and (one.split != two.split).any()
    with pytest.raises(UserError, match="train7.txt is not there"): load("dtd", size=12, partition=7)
    with pytest.raises(UserError, match="received the option 'part', allowed are partition"): load("dtd", size=12, part="test")


def test_isic_test_part_is_never_pooled(data):
    originals.isic2018(data/"isic2018"); train, test = load("isic2018", size=12), load("isic2018", size=12, part="test")
    assert set(train.split) == {"train"} and set(test.split) == {"test"} and not set(train.paths) & set(test.paths)
    assert train.groups is not None and test.groups is None and test.card.group_key is None and test.card.n == 1_512 and train.card.n == 10_015
    assert test.classes == train.classes == list(originals.ISIC)


def test_isic_without_lesions_is_refused_by_the_file_that_is_missing(data):
    originals.isic2018(data/"isic2018"); (data/"isic2018"/"ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    with pytest.raises(UserError, match="lesion_id; put ISIC2018_Task3_Training_LesionGroupings.csv there"): load("isic2018", size=12)
    originals.table(data/"isic2018"/"HAM10000_metadata.csv", "lesion_id,image_id,dx", *[f"HAM_{i},{f.stem},nv" for i, f in enumerate(sorted((data/"isic2018"/"ISIC2018_Task3_Training_Input").glob("*.jpg")))])
    assert len(set(load("isic2018", size=12).groups)) == 14                                             # Dataverse's table says the same


def test_sti10_is_swapped_under_published_only(data):
    want = originals.sti10(data/"sti10", tars=("n02897820", "n09416076"))
    plain, described, published = (load("sti10", size=12, protocol=p) for p in ("grouped", "described", "published"))
    same(plain, want, 12); assert described.fingerprint == plain.fingerprint
    same(published, {p: (x[..., ::-1], *rest) for p, (x, *rest) in want.items()}, 12)
    assert published.fingerprint != plain.fingerprint


def test_sti10_under_published_differs_in_colour_only(data):
    "photographs, of which a draft is decoded: swapped behind the decoder, not before it"
    from PIL import Image
    originals.sti10(data/"sti10"); at = np.indices((150, 200))
    for i, w in enumerate(layouts.SYNSETS):
        for j in range(2): Image.fromarray(np.uint8([127 + 60*np.sin(at[0]/(7 + c + i)) + 60*np.cos(at[1]/(5 + c + j)) for c in range(3)]).transpose(1, 2, 0)).save(data/"sti10"/w/f"{w}_{j}.JPEG", "jpeg", quality=90)
    plain, published = (load("sti10", size=32, protocol=p) for p in ("grouped", "published"))
    assert np.array_equal(published.x, plain.x[..., ::-1]) and not np.array_equal(published.x, plain.x)
    assert not np.array_equal(plain.x, load("sti10", size=32, resample="bilinear").x), "these are large enough for a draft"


def test_other_datasets_are_rgb_under_published_too(data):
    want = originals.kimia(data/"kimia960"); same(load("kimia960", size=12, protocol="published"), want, 12)


def test_sti10_says_which_synsets_are_missing_and_which_are_in_the_1000(data):
    originals.sti10(data/"sti10"); shutil.rmtree(data/"sti10"/"n03530642"); shutil.rmtree(data/"sti10"/"n07840804")
    with pytest.raises(UserError, match=r"n03530642 \(honeycomb\), n07840804 \(egg\).*n03530642 are in ILSVRC-2012"): load("sti10", size=12)


@pytest.mark.parametrize("root", ["train", "ILSVRC2012_img_train"])
def test_imagenet(tmp_path, root):
    for k, w in enumerate(("n01440764", "n01443537", "n02105855")):
        for i in range(2): originals.picture(tmp_path/root/w/f"{w}_{i}.JPEG", 5*k + i)
    with tarfile.open(tmp_path/root/"n02105855.tar", "w") as t: t.add(tmp_path/root/"n02105855"/"n02105855_0.JPEG", "n02105855_0.JPEG")
    shutil.rmtree(tmp_path/root/"n02105855")
    li = layouts.imagenet(tmp_path)
    assert li.classes == ["n01440764", "n01443537", "n02105855"] and np.bincount(li.y).tolist() == [2, 2, 1] and set(li.split) == {"train"}
    assert np.array_equal(decode(li.items[4](), 12), originals.pixels(10))                             # a PNG named .JPEG, from a tar


def test_names_without_a_reader_say_why(data):
    for name, why in [("bimcv", "a column of 0 and 1 for each finding"), ("cifar10", "facts only"), ("radimagenet", "only a trained network")]:
        assert name in CATALOGUE
        with pytest.raises(UserError, match=why): load(name)
    np.savez(data/"m.npz", train_images=np.zeros((4, 8, 8), np.uint8), train_labels=np.zeros((4, 14), np.uint8))
    with pytest.raises(UserError, match="several labels per image"): general(data/"m.npz", "m")


@pytest.mark.parametrize("name", [n for n in (*PAPER_SOURCES, "bloodmnist", "kather2016")])
def test_what_is_missing_is_named_with_what_to_do(name, data):
    with pytest.raises(UserError, match=f"{name}: no images under CATSCANS_DATA, which is .*catscans data get {name}"): load(name)
    (data/name).mkdir()
    with pytest.raises(UserError, match=str(data/name)): load(name)                                    # an empty folder is named
    for begun in ("fetched.json", "a.zip.part", "a.zip.part.json", "camelyonpatch_level_2_split_train_x.h5.gz.part"): (data/name/begun).write_text("{}")
    assert where(name) is None                                                                         # nothing is there before it is there whole
    with pytest.raises(UserError, match=f"catscans data get {name}"): load(name)


def test_what_is_allowed_to_be_missing_reaches_the_store(data):
    make, side, options = ORIGINALS["dtd"]
    want = make(data/"dtd"); gone = list(want)[5]
    next((data/"dtd").rglob(gone)).write_bytes(b"no picture")
    with pytest.raises(UserError, match="1 of .* images cannot be read"): load("dtd", size=16)
    images = load("dtd", size=16, allow_unreadable=[gone])
    assert len(images) == len(want) - 1 and [n for n, _ in images.left_out] == [gone]


# ---- PCam


@pytest.mark.parametrize("chunks", [None, (1, 96, 96, 3), (7, 24, 48, 2), (1000, 6, 6, 1)], ids=["contiguous", "rows", "tiles", "slabs"])
def test_pcam_rows_whatever_the_chunks(tmp_path, chunks):
    want = originals.pcam(tmp_path, n=30, chunks=(min(chunks[0], 30), *chunks[1:]) if chunks else None); li = layouts.pcam(tmp_path)
    same(build(li, 96, root=tmp_path/"one", workers=1), want, 96)
    odd = li.subset(np.arange(0, 90, 7)); assert build(odd, 96, root=tmp_path/"four", workers=4).fingerprint == build(odd, 96, root=tmp_path/"one", workers=1).fingerprint


def test_pcam_subsets(data):
    want = originals.pcam(data/"pcam"); sizes = {"pcam-middle": 200, "pcam-small": 20}
    draw = lambda protocol: [load(n, size=96, protocol=protocol, sizes=sizes) for n in sizes]
    middle, small = draw("grouped")
    for images, n in ((middle, 200), (small, 20)):
        same(images, {p: want[p] for p in images.paths}, 96)
        assert np.bincount(images.y).tolist() == [n//2, n//2] and images.card.group_key == "wsi"
        check_card(DATASETS[images.card.name], images, whole=False)
    assert not set(middle.groups) & set(small.groups) and not set(middle.paths) & set(small.paths)
    assert [i.fingerprint for i in draw("grouped")] == [i.fingerprint for i in draw("described")] == [middle.fingerprint, small.fingerprint]
    a, b = draw("published")
    assert len(a) == 200 and len(b) == 20 and set(a.groups) & set(b.groups)                             # independently, from all patches
    assert a.fingerprint != middle.fingerprint
    with pytest.raises(UserError, match="100,000 patches are drawn"): load("pcam-middle", size=96)


def test_pcam_subsets_of_the_true_size():
    "slides are as unequal as PCam's, some without a tumour; the draw is the right one in number, class and slide"
    rng = np.random.default_rng(0); n = 327_680
    slide = np.sort(rng.choice(399, n, p=(w := rng.gamma(1, size=399))/w.sum())); y = (rng.random(n) < np.where(slide % 5 < 2, 0, .83)).astype(int)
    drawn = layouts.draw_apart(y, slide, layouts.PCAM_SUBSETS)
    for name, want in layouts.PCAM_SUBSETS.items():
        i = drawn[name]; assert len(i) == len(set(i)) == want == DATASETS[name].n
        assert abs(y[i].mean() - y.mean()) < 1e-4, name
        assert len(set(slide[i])) > 20
    assert not set(slide[drawn["pcam-middle"]]) & set(slide[drawn["pcam-small"]])


def test_pcam_packed_or_without_slides(data):
    originals.pcam(data/"pcam", n=24); sizes = {"pcam-middle": 20, "pcam-small": 4}
    for f in (data/"pcam").glob("*meta.csv"): f.unlink()
    with pytest.raises(UserError, match=r"wsi; put camelyonpatch_level_2_split_\*_meta.csv there"): load("pcam-small", size=96, sizes=sizes)
    f = data/"pcam"/f"{originals.PCAM.format('valid', 'x')}.h5"; f.rename(f"{f}.gz")
    with pytest.raises(UserError, match="valid_x.h5.gz is packed"): load("pcam-small", size=96, sizes=sizes)


MEASURE = """
import sys, threading, time
import h5py, pandas, PIL.Image
from catscans.datasets.layouts import pcam
from catscans.datasets.store import build
def anonymous():      # not the pages of the store's memory map: the system takes those back when it needs them
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))/1024
peak, done = [0], []
def watch():
    while not done: peak[0] = max(peak[0], anonymous()); time.sleep(.005)
start = anonymous(); t = threading.Thread(target=watch); t.start()
li = pcam(sys.argv[1]); im = build(li, 16, root=sys.argv[2])
done.append(1); t.join(); print(len(im), peak[0] - start)
"""


@pytest.mark.slow(5)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="SKIPPED: memory is read from /proc/self/status, which this system has not")
def test_a_store_is_built_in_a_fraction_of_the_arrays_memory(tmp_path):
    "20,000 patches of 96 x 96 are 553 MB"
    n = dict(train=20_000, valid=4, test=4); tile = np.random.default_rng(0).integers(0, 255, (500, 6, 6, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    for p, k in n.items():
        with h5py.File(tmp_path/f"{originals.PCAM.format(p, 'x')}.h5", "w") as f:
            x = f.create_dataset("x", (k, 96, 96, 3), "uint8", chunks=(4, 96, 96, 3))
            for a in range(0, k, 500): x[a:a + 500] = tile[:k - a]
        with h5py.File(tmp_path/f"{originals.PCAM.format(p, 'y')}.h5", "w") as f: f["y"] = (np.arange(k) % 2).astype(np.uint8).reshape(k, 1, 1, 1)
        originals.table(tmp_path/f"{originals.PCAM.format(p, 'meta')}.csv", "wsi", *[f"{p}_{i//100}" for i in range(k)])
    p = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path), str(tmp_path/"stores")], capture_output=True, text=True, cwd=ROOT)
    assert p.returncode == 0, p.stderr
    images, mb = p.stdout.split()
    assert int(images) == 20_008 and float(mb) < 250, f"{mb} MB above the start"


# ---- real samples


def samples():
    "The folder of real samples, beside or in CATSCANS_DATA"
    base = os.environ.get("CATSCANS_DATA")
    if not base: pytest.skip("SKIPPED: CATSCANS_DATA is not set, the original layouts were not tested on real samples")
    for d in (Path(base)/"layouts", Path(base).parent/"layouts"):
        if (d/"chest_xray").is_dir(): return d
    pytest.skip(f"SKIPPED: no folder layouts in or beside CATSCANS_DATA ({base}), the original layouts were not tested on real samples")


def read_raw(path, key):
    with h5py.File(path) as f: return f[key][:]


SAMPLES = {  # layout's folder -> (reader, images, classes that occur)
    "dtd": (layouts.dtd, 20, 10), "chest_xray": (layouts.kermany, 24, 2), "isic2018": (layouts.isic2018, 19, 3), "pcam_h5_standin": (layouts.pcam, 48, 2),
    "stl10_binary_standin": (layouts.stl10, 60, 10), "kimia_path_960_standin": (layouts.kimia, 12, 3),
}


@pytest.mark.filterwarnings("ignore:.*the official split of DTD")
@pytest.mark.parametrize("name", SAMPLES)
def test_real_samples(name, tmp_path):
    reader, n, classes = SAMPLES[name]; d = samples()/name
    if not d.is_dir(): pytest.skip(f"SKIPPED: {d} is not there")
    li = reader(d); im = build(li, 48, root=tmp_path, workers=4)
    assert len(im) == n and len(set(im.y)) == classes and im.x.std() > 10
    assert build(li, 48, root=tmp_path/"again", workers=1).fingerprint == im.fingerprint
    for i in (0, n//2, n - 1):                                                                           # read again, another way
        f = d/li.paths[i] if (d/li.paths[i]).exists() else next(d.rglob(Path(li.paths[i]).name), None)
        if f is not None: assert np.array_equal(im.x[i], decode(f, 48))


def test_real_samples_row_by_row(tmp_path):
    d = samples(); stl, pcam = layouts.stl10(d/"stl10_binary_standin"), layouts.pcam(d/"pcam_h5_standin")
    raw = np.concatenate([np.fromfile(d/"stl10_binary_standin"/f"{p}_X.bin", np.uint8).reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1) for p in ("train", "test")])
    y = np.concatenate([np.fromfile(d/"stl10_binary_standin"/f"{p}_y.bin", np.uint8) for p in ("train", "test")])
    assert np.array_equal(build(stl, 96, root=tmp_path).x, raw) and np.array_equal(stl.y, y - 1)
    part = lambda p, k: read_raw(d/"pcam_h5_standin"/f"{originals.PCAM.format(p, k)}.h5", k)
    assert np.array_equal(build(pcam, 96, root=tmp_path).x, np.concatenate([part(p, "x") for p in ("train", "valid", "test")]))
    assert np.array_equal(pcam.y, np.concatenate([part(p, "y").ravel() for p in ("train", "valid", "test")]))
    chest = layouts.kermany(d/"chest_xray")
    assert {p: g for p, g in zip(chest.paths, chest.groups) if "IM-0501" in p or "person1158" in p} == {
        "train/NORMAL/IM-0501-0001-0002.jpeg": "NIM-0501", "train/PNEUMONIA/person1158_virus_1943.jpeg": "P1158_virus"}
