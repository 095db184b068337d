"""Which learning rate fine-tunes a network on 200 images? Chosen once, on images that no score ever uses.

    CATSCANS_DATA=... python -m benchmarks.recipes            # resumes; writes results/scarce/recipes.csv
    CATSCANS_DATA=... python -m benchmarks.recipes --show     # the choice

For three targets of the profile `scarce` each draw of 200 training images is trained on, and what is left of the half from which
it was drawn is scored: images of other groups than those of the draw. The held-out half is never looked at. Every kind of start
(random, ImageNet, a source pretrained here) meets the same rates, images and orders; the rate with the highest mean AUC is taken."""
import argparse, os
from dataclasses import replace
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import catscans  # noqa: F401 - first: it says how TensorFlow is to compute
import numpy as np
import pandas as pd
from catscans.core.basics import seed_for
from catscans.core.files import results_dir
from catscans.core.grid import Run, get_profile
from catscans.datasets.draws import draw_splits
from catscans.datasets.loading import images_of
from catscans.datasets.splits import make_splits
from catscans.metrics.scores import summarise
from catscans.models.backend import set_threads
from catscans.models.networks import imagenet_weights
from catscans.models.weights import load_weights
from catscans.training.recipes import RECIPES, sized
from catscans.training.trainer import Trainer, fit

TARGETS, RATES, DRAWS = ("busi", "lc25000", "pbcmat"), (3e-4, 1e-3, 3e-3, 1e-2), 2
STARTS = dict(random=None, imagenet="imagenet", source="tinyimagenet")
KEYS = ("start", "target", "draw", "lr")

def inner(images, draw, p):
    "training images of a draw, and what is left of its half, without the groups that were drawn"
    s = draw_splits(images, dict(p.max_train)[images.name], DRAWS, p.seed)
    pool = make_splits(images.y, images.groups, "grouped", 2, p.seed).folds[0].train
    train = s.folds[draw].train
    rest = np.setdiff1d(pool, train)
    if images.groups is not None: rest = rest[~np.isin(images.groups[rest], images.groups[train])]
    assert not set(rest) & set(s.folds[draw].test) and not set(train) & set(rest)
    return train, rest

def weights_of(start, p):
    "where a training begins"
    if STARTS[start] in (None, "imagenet"): return STARTS[start] and imagenet_weights(p.arch, p.size)
    return load_weights(Run(STARTS[start], None, p.name, p.protocol, p.seed).weights)

def measured(p, trainers, weights, start, target, draw, lr):
    "one training: AUC on the rest of the half"
    images = images_of(target, p, p.size)
    train, rest = inner(images, draw, p)
    r = replace(RECIPES[p.recipe]["finetune"]["*"], lr=lr)
    if target not in trainers: trainers[target] = Trainer(len(images.classes), p.size, r, p.arch)
    t = trainers[target].use(sized(r, len(train)))
    fit(t, images.x, images.y, train, seed_for("recipe", target, draw), weights)
    t.recalibrate(images.x, train)
    return summarise(images.y[rest], t.predict(images.x, rest), images.classes)["auc_ovr_weighted"], len(rest)

def table(path):
    "what is there"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*KEYS, "auc", "n"])

def choice(t):
    "mean AUC of each start and rate"
    return t.groupby(["start", "lr"]).auc.mean().unstack()

def main(argv=None):
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--show", action="store_true")
    a.add_argument("--starts", nargs="+", default=list(STARTS), choices=list(STARTS))
    a = a.parse_args(argv)
    p, path, trainers = get_profile("scarce"), results_dir("scarce")/"recipes.csv", {}
    set_threads(1)
    for target in () if a.show else TARGETS:
        for start in a.starts:
            weights = weights_of(start, p)
            for draw in range(DRAWS):
                for lr in RATES:
                    key, old = (start, target, draw, lr), table(path)
                    if key in set(old[list(KEYS)].itertuples(index=False, name=None)): continue
                    auc, n = measured(p, trainers, weights, *key)
                    row = pd.DataFrame([dict(zip(KEYS, key), auc=round(auc, 5), n=n)])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pd.concat([old, row] if len(old) else [row]).to_csv(path, index=False)
                    print(*key, f"{auc:.4f}", flush=True)
    got = choice(table(path))
    print(got.round(4).to_string(), "\n", got.idxmax(1).to_dict())

if __name__ == "__main__": main()
