"""What is lost by choosing a start with 200 images? `CATSCANS_DATA=... python -m benchmarks.compare_regret [--targets NAME ...] [--out FILE.csv]`.

On each of the eight targets of the study `scarce`: 200 images are drawn (groups whole), `compare` measures on them every network at hand, random initialisation and pixels,
and names a start. The truth is what each start reaches on images that were not drawn (at most 1,000, of other groups): a logistic regression on its features, fitted on the 200.
Features only: nothing is trained as a whole. Regret: AUC points below the start that was truly best. Beside it stand always ImageNet (EfficientNet-Lite0) and chance (a
start drawn blindly: the mean regret). `rank` names sources of pretraining that are no networks at hand, so that its first one among the starts is taken: ImageNet, where it is on its list.

A target is a row, written as it is done; the same command goes on."""
import argparse, csv
from pathlib import Path

import numpy as np

IMAGES, REST, SEEDS = 200, 1_000, (1, 2, 3)
COLUMNS = ("target", "draw", "images", "rest", "chosen", "probability", "best", "regret", "regret_imagenet", "regret_blind", "truth")


def halves(images, draw):
    "200 images, and up to 1,000 of other groups"
    from catscans.datasets.draws import draw_splits
    f = draw_splits(images, IMAGES, 1, draw).folds[0]
    rest = f.test if len(f.test) <= REST else np.sort(np.random.default_rng(draw).choice(f.test, REST, replace=False))
    return np.sort(f.train), rest


def truth(f, images, here, rest):
    "AUC on the rest of a regression that was fitted on the 200"
    from catscans.compare.kept import strength_of
    from catscans.compare.linear import axes, probabilities
    from catscans.datasets.doctor import counted_auc
    strength = strength_of(f[here], images.subset(here))
    p = probabilities(axes(f, here), images.y, here, strength)[rest]
    return counted_auc(images.y[rest], p, np.ones(len(rest)))


def answer(target, draw, features, images, here, rest):
    "a row"
    from catscans.compare.nested import one_start, probability_best, together
    mine = images.subset(here)
    m = together({s: [one_start(f[here], mine, r) for r in range(2)] for s, f in features.items()})
    real = {s: truth(f, images, here, rest) for s, f in features.items()}
    top = max(real, key=real.get)
    lost = {s: 100*(real[top] - v) for s, v in real.items()}
    return dict(target=target, draw=draw, images=len(here), rest=len(rest), chosen=m.best, probability=round(float(probability_best(m)[m.best]), 3),
                best=top, regret=round(lost[m.best], 2), regret_imagenet=round(lost["imagenet"], 2), regret_blind=round(float(np.mean(list(lost.values()))), 2),
                truth="; ".join(f"{s} {v:.4f}" for s, v in real.items()))


def rows_of(target, draws):
    "the rows of a target: every image that any draw needs is looked at once"
    from catscans.compare.starts import at_hand, looked_at, PIXELS, RANDOM, SIDE
    from catscans.datasets.loading import load
    images = load(target, size=SIDE)
    of = {d: halves(images, d) for d in draws}
    need = np.unique(np.concatenate([np.concatenate(v) for v in of.values()]))
    few = images.subset(need)
    features = {s.name: looked_at(s, few.x) for s in (*at_hand(), RANDOM, PIXELS)}
    for d, (here, rest) in of.items(): yield answer(target, d, features, few, np.searchsorted(need, here), np.searchsorted(need, rest))


def read(path):
    if not Path(path).exists(): return []
    with open(path, newline="") as f: return list(csv.DictReader(f))


def summary(rows):
    "mean regret over targets, each the mean of its draws"
    mean = lambda k: float(np.mean([np.mean([float(r[k]) for r in rows if r["target"] == t]) for t in dict.fromkeys(r["target"] for r in rows)]))
    return dict(targets=len({r["target"] for r in rows}), choices=len(rows), right=float(np.mean([r["chosen"] == r["best"] for r in rows])),
                compare=mean("regret"), always_imagenet=mean("regret_imagenet"), blind=mean("regret_blind"))


def main(argv=None):
    from catscans.core.grid import get_profile
    all_ = get_profile("scarce").targets
    p = argparse.ArgumentParser(prog="python -m benchmarks.compare_regret", description=__doc__.splitlines()[0])
    p.add_argument("--targets", nargs="+", choices=all_, default=all_); p.add_argument("--draws", type=int, nargs="+", default=SEEDS)
    p.add_argument("--out", default=Path(__file__).with_suffix(".csv"))
    a = p.parse_args(argv)
    done = {(r["target"], int(r["draw"])) for r in read(a.out)}
    with open(a.out, "a", newline="") as f:
        w = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        if not f.tell(): w.writeheader()
        for t in a.targets:
            if not (left := [d for d in a.draws if (t, d) not in done]): continue
            for row in rows_of(t, left):
                w.writerow(row); f.flush()
    print(", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in summary(read(a.out)).items()))


if __name__ == "__main__": main()
