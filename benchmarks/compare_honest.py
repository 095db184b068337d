"""Is `catscans compare` honest? Simulated folders whose truth is known: `python -m benchmarks.compare_honest [--folders 40] [--out FILE.csv]`.

Features are drawn directly, so that a folder costs seconds. What a folder is made of: groups of two images (two views of a patient), half of each class; four starts
of 20 numbers an image, of which one direction tells the classes as well as the start's AUC says, and the rest is noise, a part of it shared by the images
of a group. A part of the noise of the telling direction is the same for all starts: what is hard for one is hard for all.

- `permuted`: 500 images, labels permuted between whole groups. No start knows anything: the interval of the choice has to hold 0.5 (at least 90 %), and to be narrow
  (half-width at most 0.10).
- `planted`: 500 images, A is better than the others by 0.05 AUC. A has to be named (at least 80 %), and a probability of 0.7 to 0.9 has to be right in
  60 to 95 % of the folders that are told it.
- `small`: the same with 250 images.
- `copies`: the small folders again, with a copy of every tenth image (a little noise added) in the group of its original. The same start should be named.
- `recut`: the small folders again, without copies, on other cuts into folds: how often the choice changes where nothing was planted.

Each row is written as it is done; the same command goes on."""
import argparse, csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np

STARTS, NUMBERS, REPEATS = "ABCD", 20, 4
LEVEL, GAP = .75, .05           # AUC of the starts; how much better A is
KINDS = dict(permuted=500, planted=500, small=250, copies=250, recut=250)
COLUMNS = ("kind", "folder", "named", "probability", "nested", "lo", "hi")


def direction(rng, groups, common):
    "noise of variance 1 of the direction that tells: shared by all starts, by the images of a group, and each image's own"
    g = rng.standard_normal(groups.max() + 1)[groups]
    return np.sqrt(.5)*common + np.sqrt(.5)*(.6*g + .8*rng.standard_normal(len(groups)))


def start(rng, y, groups, common, auc):
    "(n, NUMBERS) features whose best direction tells two classes with this AUC"
    from scipy.stats import norm
    tells = np.sqrt(2)*norm.ppf(auc)*(y - .5) + direction(rng, groups, common)
    rest = np.sqrt(.5)*(rng.standard_normal((groups.max() + 1, NUMBERS - 1))[groups] + rng.standard_normal((len(y), NUMBERS - 1)))
    return np.c_[tells, rest] @ np.linalg.qr(rng.standard_normal((NUMBERS, NUMBERS)))[0]


def folder(kind, i, n=None):
    "images without pixels, and features of each start"
    same = "small" if kind in ("copies", "recut") else kind
    rng, n = np.random.default_rng([i, list(KINDS).index(same)]), n or KINDS[kind]
    groups = np.arange(n)//2
    y = groups % 2
    common = rng.standard_normal(groups.max() + 1)[groups]
    f = {s: start(rng, y, groups, common, LEVEL + GAP*(s == "A")) for s in STARTS}
    if kind == "permuted": y = rng.permutation(groups[::2] % 2)[groups]
    if kind == "copies":
        at = np.arange(0, n, 10)
        f = {s: np.r_[v, v[at] + .05*rng.standard_normal((len(at), NUMBERS))] for s, v in f.items()}
        y, groups = np.r_[y, y[at]], np.r_[groups, groups[at]]
    return SimpleNamespace(y=y, groups=groups, classes=["healthy", "ill"], name=f"{kind} {i}"), f


def answer(kind, i, n=None, repeats=REPEATS):
    "a row: what is said of a folder"
    from catscans.compare.nested import one_start, probability_best, together, worth
    images, f = folder(kind, i, n)
    cuts = range(repeats, 2*repeats) if kind == "recut" else range(repeats)
    m = together({s: [one_start(v, images, r) for r in cuts] for s, v in f.items()})
    w = worth(m)
    return dict(kind=kind, folder=i, named=m.best, probability=round(probability_best(m)[m.best], 3), nested=round(w["mean"], 4), lo=round(w["lo"], 4), hi=round(w["hi"], 4))


def read(path):
    "the rows that are done"
    if not Path(path).exists(): return []
    with open(path, newline="") as f: rows = list(csv.DictReader(f))
    return [r | dict(folder=int(r["folder"]), **{k: float(r[k]) for k in ("probability", "nested", "lo", "hi")}) for r in rows]


def named_right(rows):
    "of planted folders: how many, A named, told 0.7 to 0.9, of these right"
    right = np.array([r["named"] == "A" for r in rows])
    band = np.array([.7 <= r["probability"] <= .9 for r in rows])
    return dict(folders=len(rows), a_named=right.mean(), told=int(band.sum()), right=right[band].mean() if band.any() else float("nan"))


def summary(rows):
    "kind -> what the issue asks for"
    of, out = {k: {r["folder"]: r for r in rows if r["kind"] == k} for k in KINDS}, {}
    if null := list(of["permuted"].values()):
        half = [(r["hi"] - r["lo"])/2 for r in null]
        held = [r["lo"] <= .5 <= r["hi"] for r in null]
        out["permuted"] = dict(folders=len(null), covered=np.mean(held), half_width=np.mean(half), widest=max(half))
    for k in ("planted", "small"):
        if of[k]: out[k] = named_right(list(of[k].values()))
    for k in ("copies", "recut"):
        if both := [i for i in of[k] if i in of["small"]]:
            out[k] = dict(folders=len(both), same_choice=np.mean([of[k][i]["named"] == of["small"][i]["named"] for i in both]))
    return {k: {n: v if isinstance(v, int) else round(float(v), 3) for n, v in d.items()} for k, d in out.items()}


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m benchmarks.compare_honest", description=__doc__.splitlines()[0])
    p.add_argument("--folders", type=int, default=40); p.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    p.add_argument("--out", default=Path(__file__).with_suffix(".csv"))
    a = p.parse_args(argv)
    done = {(r["kind"], r["folder"]) for r in read(a.out)}
    with open(a.out, "a", newline="") as f:
        w = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        if not f.tell(): w.writeheader()
        for i in range(a.folders):
            for kind in [k for k in a.kinds if (k, i) not in done]:
                w.writerow(answer(kind, i)); f.flush()
    for k, v in summary(read(a.out)).items(): print(f"{k:10}", ", ".join(f"{n} {x}" for n, x in v.items()))


if __name__ == "__main__": main()
