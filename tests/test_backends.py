"""Task2Vec gives the same numbers on every Keras backend that is installed (TensorFlow is the reference)."""
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

CODE = """
import sys, keras, numpy as np
from keras import layers as L
from catscans.task2vec import Probe, fit_head, montecarlo_fisher
image = keras.Input((8, 8, 3))
x = L.Conv2D(4, 3)(L.Rescaling(1/255)(image))
x = L.Conv2D(5, 3)(L.ReLU()(L.BatchNormalization()(x)))
model = keras.Model(image, L.Dense(2, activation="softmax", name="predictions")(L.GlobalAveragePooling2D(name="avg_pool")(x)))
r = np.random.default_rng(0)
for v in model.weights: v.assign(np.abs(r.normal(size=v.shape)))
probe, x, u = Probe(model), r.integers(0, 255, (6, 8, 8, 3)).astype("float32"), r.normal(size=(6, 5))
head = fit_head(probe.features(x), [0, 1, 2, 0, 1, 2])
np.savez(sys.argv[1], squared=probe.squared(x, u), fisher=montecarlo_fisher(probe, x, head, np.random.default_rng(1), 4, 2))
"""


def run(backend, path):
    env = dict(os.environ, KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="2")
    done = subprocess.run([sys.executable, "-c", CODE, str(path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(path) as z:
        return dict(z)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_same_fisher_on_every_backend(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: its branch of task2vec._gradients is NOT tested here")
    reference, other = run("tensorflow", tmp_path/"tensorflow.npz"), run(backend, tmp_path/"other.npz")
    for k in reference:
        np.testing.assert_allclose(other[k], reference[k], rtol=1e-4)
