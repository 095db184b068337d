"Small datasets in the layout that their makers gave them, made by the tests: pixels are known."
import tarfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from catscans.datasets.catalogue import DATASETS
from catscans.datasets.layouts import SYNSETS

PCAM = "camelyonpatch_level_2_split_{}_{}"
ISIC = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def pixels(at, h=12, w=12): return np.random.default_rng(at).integers(0, 255, (h, w, 3), np.uint8)


def picture(path, at=0, h=12, w=12):
    "a lossless image, whatever its suffix says, so that its pixels are known; returns them"
    path = Path(path); path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(at, h, w)).save(path, "png")
    return pixels(at, h, w)


def table(path, *rows): path.parent.mkdir(parents=True, exist_ok=True); path.write_text("\n".join(rows) + "\n"); return path


def stl10(d, n=20, root="stl10_binary"):
    d = d/root; d.mkdir(parents=True, exist_ok=True); out = {}
    names = "airplane bird car cat deer dog horse monkey ship truck".split()
    for p in ("train", "test"):
        x = np.stack([pixels(i + 1000*(p == "test"), 96, 96) for i in range(n)]); y = np.arange(n) % 10 + 1
        x.transpose(0, 3, 2, 1).tofile(d/f"{p}_X.bin"); y.astype(np.uint8).tofile(d/f"{p}_y.bin")         # column by column, labels from 1
        out |= {f"{p}/{i}": (x[i], names[y[i] - 1], None, p) for i in range(n)}
    (d/"class_names.txt").write_text("\n".join(names) + "\n")
    return out


def dtd(d, n=3, root="dtd"):
    out, parts = {}, ("train", "val", "test")
    for c in range(47):
        for i in range(n): out[f"c{c:02d}/c{c:02d}_{i}.jpg"] = (picture(d/root/"images"/f"c{c:02d}"/f"c{c:02d}_{i}.jpg", 9*c + i), f"c{c:02d}", None, parts[i % 3])
    for k in (1, 2):
        for j, p in enumerate(parts): table(d/root/"labels"/f"{p}{k}.txt", *[f for f in out if (int(f[-5]) + k - 1) % 3 == j])
    return out


def isic2018(d, n=14):
    out = {}
    for part, m in (("Training", n), ("Test", n//2)):
        names = [f"ISIC_{i + 24306 + 9000*(part == 'Test'):07d}" for i in range(m)]
        hot = lambda i: ",".join("1.0" if k == i % 7 else "0.0" for k in range(7))
        for i, s in enumerate(names):
            x = picture(d/f"ISIC2018_Task3_{part}_Input"/f"{s}.jpg", i + 50*(part == "Test"))
            if part == "Training": out[f"{s}.jpg"] = (x, ISIC[i % 7], f"HAM_{i//2:07d}", "train")
        (d/f"ISIC2018_Task3_{part}_Input"/"ATTRIBUTION.txt").write_text("by all of them")
        table(d/f"ISIC2018_Task3_{part}_GroundTruth"/f"ISIC2018_Task3_{part}_GroundTruth.csv", "image," + ",".join(ISIC), *[f"{s},{hot(i)}" for i, s in enumerate(names)])
    table(d/"ISIC2018_Task3_Training_LesionGroupings.csv", "image,lesion_id,diagnosis_confirm_type", *[f"{f[:-4]},{g},histopathology" for f, (_, _, g, _) in out.items()])
    return out


def chest(d, root="chest_xray", parts=("train", "val", "test")):
    out = {}
    for k, p in enumerate(parts):
        for i, (f, g) in enumerate([("NORMAL/IM-0{}15-0001.jpeg", "NIM-0{}15"), ("NORMAL/NORMAL2-IM-0{}40-0001.jpeg", "NNORMAL2-IM-0{}40"), ("NORMAL/NORMAL2-IM-0{}40-0001-0002.jpeg", "NNORMAL2-IM-0{}40"),
                                    ("PNEUMONIA/person{}_bacteria_1.jpeg", "P{}_bacteria"), ("PNEUMONIA/person{}_bacteria_2.jpeg", "P{}_bacteria"), ("PNEUMONIA/person{}_virus_6.jpeg", "P{}_virus")]):
            f = f"{p}/{f.format(k + 1)}"; out[f] = (picture(d/root/f, 10*k + i), f.split("/")[1], g.format(k + 1), p)
    return out


def pcam(d, n=240, slides=40, side=96, chunks=None):
    out = {}; d.mkdir(parents=True, exist_ok=True)
    for k, p in enumerate(("train", "valid", "test")):
        x = np.random.default_rng(k).integers(0, 255, (n, side, side, 3), np.uint8); y = np.arange(n) % 2; s = [f"camelyon16_{p}_{i*slides//n:03d}" for i in range(n)]
        for key, a in (("x", x), ("y", y.astype(np.uint8).reshape(n, 1, 1, 1))):
            with h5py.File(d/f"{PCAM.format(p, key)}.h5", "w") as f: f.create_dataset(key, data=a, chunks=chunks if key == "x" else None, compression="lzf" if chunks and key == "x" else None)
        table(d/f"{PCAM.format(p, 'meta')}.csv", ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi", *[f"{i},{i},{i},True,{bool(y[i])},{s[i]}" for i in range(n)])
        out |= {f"{p}/{i}": (x[i], str(y[i]), s[i], p) for i in range(n)}
    return out


def kimia(d, n=3):
    return {f"{c}{i + 1}.tif": (picture(d/"KIMIA_path_960"/f"{c}{i + 1}.tif", 50*k + i), c, None, None) for k, c in enumerate("ABCDEFGHIJKLMNOPQRST") for i in range(n)}


def sti10(d, n=2, tars=()):
    out = {}
    for k, (w, c) in enumerate(SYNSETS.items()):
        for i in range(n): out[f"{w}/{w}_{i}.JPEG"] = (picture(d/w/f"{w}_{i}.JPEG", 20*k + i), c, None, None)
        if w in tars:
            with tarfile.open(d/f"{w}.tar", "w") as t:
                for i in range(n): t.add(d/w/f"{w}_{i}.JPEG", f"{w}_{i}.JPEG"); (d/w/f"{w}_{i}.JPEG").unlink()
            (d/w).rmdir()
    return out


def medmnist(d, name="bloodmnist_64", n=16, side=64):
    out, arrays = {}, {}; d.mkdir(parents=True, exist_ok=True); k = DATASETS[name].classes
    for j, p in enumerate(("train", "val", "test")):
        x = np.random.default_rng(j).integers(0, 255, (n, side, side, 3), np.uint8); y = np.arange(n) % k
        arrays |= {f"{p}_images": x, f"{p}_labels": y[:, None].astype(np.uint8)}; out |= {f"{p}/{i}": (x[i], str(y[i]), None, p) for i in range(n)}
    np.savez_compressed(d/f"{name}.npz", **arrays)
    return out


def class_folders(d, root, names, group, per=2, suffix="png"):
    return {f"{c}/{group}{i}.{suffix}": (picture(d/root/c/f"{group}{i}.{suffix}", 30*k + i), c, None, None) for k, c in enumerate(names) for i in range(per)}
