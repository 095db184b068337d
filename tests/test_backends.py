"""Task2Vec and training give the same numbers on every Keras backend that is installed (TensorFlow is the reference)."""
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

CODE = """
import sys, keras, numpy as np
from keras import layers as L
from catscans.models.probes import Probe
from catscans.task2vec.fisher import montecarlo_fisher
from catscans.task2vec.heads import fit_head
image = keras.Input((8, 8, 3))
x = L.Conv2D(4, 3)(L.Rescaling(1/255)(image))
x = L.Conv2D(5, 3)(L.ReLU()(L.BatchNormalization()(x)))
model = keras.Model(image, L.Dense(2, activation="softmax", name="predictions")(L.GlobalAveragePooling2D(name="avg_pool")(x)))
r = np.random.default_rng(0)
for v in model.weights: v.assign(np.abs(r.normal(size=v.shape)))
probe, x, u = Probe(model), r.integers(0, 255, (6, 8, 8, 3)).astype("float32"), r.normal(size=(6, 5))
head = fit_head(probe.features(x), [0, 1, 2, 0, 1, 2])
def nested(freeze):
    base = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3, activation="relu"), L.BatchNormalization(), L.DepthwiseConv2D(3, depth_multiplier=2, activation="tanh"), L.Conv2D(5, 3)], name="base")
    net, r = keras.Sequential([keras.Input((8, 8, 3)), L.Rescaling(1/255), base, L.GlobalAveragePooling2D(), L.Dense(2)]), np.random.default_rng(2)
    for v in net.weights: v.assign(np.abs(r.normal(size=v.shape))/5)
    if freeze: base.trainable = False; base.layers[-1].trainable = True
    p = Probe(net)
    one_by_one = sum(p.squared(x[i:i+1], u[i:i+1]) for i in range(6))
    np.testing.assert_allclose(p.each(x, u[None]), one_by_one, rtol=1e-3, atol=1e-6*one_by_one.max())
    assert [k for k in p.layers if "depthwise" in k[0]] == [("depthwise_conv2d", 8)] or freeze
    return p.squared(x, u)
free, frozen = nested(False), nested(True)
assert (free > 0).mean() > .8; np.testing.assert_allclose(frozen, free, rtol=1e-4, atol=1e-8*free.max())
np.savez(sys.argv[1], squared=probe.squared(x, u), fisher=montecarlo_fisher(probe, x, head, np.random.default_rng(1), 4, 2), free=free, frozen=frozen)
"""


def run(backend, path):
    env = dict(os.environ, KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="2")
    done = subprocess.run([sys.executable, "-c", CODE, str(path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(path) as z:
        return dict(z)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_same_fisher_on_every_backend(backend, tmp_path):
    "frozen or not, and every image by itself, within one backend; then against TensorFlow"
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: its branch of catscans.models.probes is NOT tested here")
    other = run(backend, tmp_path/"other.npz")
    if importlib.util.find_spec("tensorflow") is None: pytest.skip("tensorflow is not installed: " + backend + " agrees with itself, and was NOT compared")
    reference = run("tensorflow", tmp_path/"tensorflow.npz")
    for k in reference:
        small = k in ("free", "frozen")      # filters that hardly matter are sums of what cancels
        np.testing.assert_allclose(other[k], reference[k], rtol=1e-3 if small else 1e-4, atol=1e-8*reference[k].max() if small else 0, err_msg=k)


TRAIN = """
import sys, numpy as np
from dataclasses import replace
from catscans.models.backend import set_threads
from catscans.training.augmentation import draw_affine, warp
from catscans.training.recipes import Recipe
from catscans.training.trainer import Trainer, fit
set_threads(1)
rng, how = np.random.default_rng(0), sys.argv[2]
y = np.arange(96) % 2
x = (rng.integers(0, 200, (96, 32, 32, 3)) + 50*y[:, None, None, None]).astype("uint8")
t = Trainer(2, 32, Recipe(lr=1e-4, batch=16, epochs=2, dropout=0., precision="float32"), "resnet50-conv2")
if how != "as it comes":
    t.engine.k = 4
    if how == "streamed": t.resident, t.checked = False, (x.shape, 16)
train = np.arange(80)                     # five batches: one dispatch of four, one that is filled up
loss = [h["loss"] for h in fit(t, x, y, train, seed=1)]
t.recalibrate(x, train); p = t.predict(x, np.arange(96))
t.use(replace(t.recipe, lr=1e-5, epochs=1)); fit(t, x, y, np.arange(64), seed=2)     # another fold, another rate
t.recalibrate(x, np.arange(64)); t.predict(x, np.arange(20))
moved = warp(x[:16], draw_affine(16, Recipe(), 32, np.random.default_rng(1)), 32)
np.savez(sys.argv[1], loss=loss, p=p, moved=np.asarray(moved), traces=[t.traces[k] for k in ("train", "recalibrate", "predict")])
"""


def train(backend, path, how="as it comes"):
    env = dict(os.environ, KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3", CATSCANS_WORK=str(path.parent/"work"))
    done = subprocess.run([sys.executable, "-c", TRAIN, str(path), how], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(path) as z:
        return dict(z)


def test_training_on_jax_equals_tensorflow(tmp_path):
    "one batch a dispatch, four a dispatch, and four with images that are streamed; each function compiled once"
    if importlib.util.find_spec("jax") is None: pytest.skip("jax is not installed: JaxEngine of catscans.training.engines is NOT tested here")
    reference = train("tensorflow", tmp_path/"tensorflow.npz") if importlib.util.find_spec("tensorflow") else None
    ways = {how: train("jax", tmp_path/f"{i}.npz", how) for i, how in enumerate(("as it comes", "several", "streamed"))}
    for how, got in ways.items():
        assert got["traces"].tolist() == [1, 1, 1], how
        np.testing.assert_allclose(got["loss"], ways["several"]["loss"], rtol=1e-3, err_msg=how)
        np.testing.assert_allclose(got["p"], ways["several"]["p"], atol=5e-3, err_msg=how)
        if reference:
            np.testing.assert_allclose(got["moved"], reference["moved"], atol=.01, err_msg="augmented images, of 255")
            np.testing.assert_allclose(got["loss"], reference["loss"], rtol=2e-2, err_msg=how)
    assert list((tmp_path/"work"/"jax").iterdir()), "compiled functions are kept for the next process"


def test_training_on_torch_equals_tensorflow(tmp_path):
    "Keras' own loop: two epochs of each of two folds"
    for backend in ("torch", "tensorflow"):
        if importlib.util.find_spec(backend) is None: pytest.skip(f"{backend} is not installed: KerasEngine of catscans.training.engines on torch was NOT compared with TensorFlow")
    got, reference = (train(b, tmp_path/f"{b}.npz") for b in ("torch", "tensorflow"))
    np.testing.assert_allclose(got["moved"], reference["moved"], atol=.01, err_msg="augmented images, of 255")
    np.testing.assert_allclose(got["loss"], reference["loss"], rtol=2e-2)
    np.testing.assert_allclose(got["p"], reference["p"], atol=2e-2)
