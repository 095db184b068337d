"""A network of two layers in NumPy in the place of ResNet50, for `benchmarks.damage`: everything around it (images, folds, checkpoints, weights, records,
engine) is the study's own, and a run takes a second. It learns nothing worth mentioning; equal bits are what is asked of it."""
import dataclasses, os, time
from types import SimpleNamespace

import numpy as np


class Value:
    "a variable, as Keras has them"
    def __init__(self, path, a): self.path, self.name, self.value = path, path, np.asarray(a, "float32")
    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)
    def assign(self, a): self.value = np.array(a, "float32").reshape(self.value.shape)


def trainer_class():
    from catscans.core.basics import seed_for
    from catscans.training.heads import HEADS
    from catscans.training.trainer import Trainer

    class Small(Trainer):
        "`Trainer` with pixels averaged over 8 x 8 places, a hidden layer and a head"
        def __init__(self, n_classes, size, recipe, arch="resnet50", head="softmax"):
            self.n_classes, self.size, self.recipe, self.arch, self.precision, self.head = n_classes, size, recipe, arch, "float32", HEADS[head]
            self.checked, self.saving, self.resident, self.engine = None, 0., True, SimpleNamespace(keeps_images=True)
            shapes = {"hidden/kernel": (192, 32), "hidden/bias": (32,), "predictions/kernel": (32, n_classes), "predictions/bias": (n_classes,)}
            w = [Value(f"net/{k}", np.zeros(s)) for k, s in shapes.items()]
            self.model = SimpleNamespace(name="net", weights=w, layers=[], count_params=lambda: sum(v.value.size for v in w))
            self.optimizer = SimpleNamespace(variables=[Value("moment", np.zeros(v.shape)) for v in w])

        def reset(self, weights=None, seed=0):
            rng = np.random.default_rng(seed_for("init", seed))
            for v in self.model.weights:
                mine = (weights or {}).get(v.path.removeprefix("net/")) if "hidden" in v.path else None
                v.assign(rng.normal(0, .1, v.shape) if mine is None else mine)
            for v in self.optimizer.variables: v.assign(np.zeros(v.shape))
            return self

        def _layers(self, x, index):
            x = np.asarray(x[index], "float32")/255 - .5
            n, s = len(x), self.size//8
            f = x.reshape(n, 8, s, 8, s, 3).mean((2, 4)).reshape(n, 192)
            a, b, c, d = (v.value for v in self.model.weights)
            h = np.maximum(f@a + b, 0)
            z = np.exp((z := h@c + d) - z.max(1, keepdims=True))
            return f, h, z/z.sum(1, keepdims=True)

        def epoch(self, x, y, index, epoch, seed):
            rng, losses, lr = np.random.default_rng(seed_for("epoch", seed, epoch)), [], .05
            order = rng.permutation(index)
            for i in range(0, len(order), 32):
                at = order[i:i + 32]
                f, h, p = self._layers(x, at)
                losses.append(-np.log(p[np.arange(len(at)), y[at]] + 1e-9).mean())
                g = (p - np.eye(self.n_classes, dtype="float32")[y[at]])/len(at)
                back = g@self.model.weights[2].value.T*(h > 0)
                for v, m, d in zip(self.model.weights, self.optimizer.variables, (f.T@back, back.sum(0), h.T@g, g.sum(0))):
                    m.assign(.9*m.value + d)
                    v.assign(v.value - lr*m.value)
                time.sleep(.003)      # so that there is something to be killed in
            return dict(loss=float(np.mean(losses)), accuracy=.5, lr=lr)

        def predict(self, x, index, batch=None): return self._layers(x, index)[2].astype("float32")
        def recalibrate(self, x, index, seed=0, max_batches=60): pass
    return Small


def install():
    "in this process: the small network, two folds, every epoch kept"
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    from catscans.core import grid
    from catscans.training import recipes
    from catscans.transfer import world
    grid.PROFILES["toy"] = dataclasses.replace(grid.PROFILES["toy"], folds=2)
    for kind, r in recipes.RECIPES["toy"].items(): r["*"] = dataclasses.replace(r["*"], epochs=6 if kind == "pretrain" else 4)
    object.__setattr__(world.HERE, "trainer", trainer_class())
    os.environ.setdefault("CATSCANS_CHECKPOINT_EVERY", "0")
