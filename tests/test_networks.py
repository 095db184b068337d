"Networks by name: what stock Keras computes, what was published, ImageNet's weights without a hub, and files of other people."
import dataclasses, hashlib, importlib.util, json, os, subprocess, sys
from pathlib import Path

import keras, numpy as np
import pytest

from catscans.core.basics import Note, UserError
from catscans.models.formats import read_weights
from catscans.models.imagenet import lite0_file
from catscans.models.networks import BUILDERS, NETWORKS, multiply_adds, network, trunk
from catscans.models.probes import load_probe
from catscans.models.resnet import random_weights, resnet50
from catscans.models.scaling import SCALINGS, scaling_layer
from catscans.models.weights import named_weights, set_backbone
from fakes import ROOT

CUT = "resnet50-conv2"


def pixels(size, n=2): return np.random.default_rng(size).integers(0, 256, (n, size, size, 3)).astype("float32")


def drawn(model, seed=1):
    "random weights by name, BatchNorm's included: at identity it could be left out unseen"
    rng, near = np.random.default_rng(seed), ("gamma", "moving_variance")
    far = {k: (rng.uniform(.5, 1.5, v.shape) if k.endswith(near) else rng.uniform(-.2, .2, v.shape)).astype("float32")
           for k, v in random_weights(model, seed).items() if not k.endswith("kernel")}
    return random_weights(model, seed) | far


def put(model, weights):
    for v in model.weights: v.assign(weights[v.path.removeprefix(f"{model.name}/")])


# stock Keras

def stock(name, size):
    "the network of keras.applications with Keras' own scaling"
    apps, shape = keras.applications, (size, size, 3)
    if name == "mobilenetv3-small": return apps.MobileNetV3Small(include_top=False, weights=None, input_shape=shape), lambda x: x
    if name == "efficientnet-b0":
        net, s = apps.EfficientNetB0(include_top=False, weights=None, input_shape=shape), SCALINGS["imagenet"]
        normal = next(l for l in net.layers if isinstance(l, keras.layers.Normalization))
        normal.set_weights([np.array(s.mean)/255, (np.array(s.std)/255)**2, np.array(0)])   # what its ImageNet weights hold, and its second scaling
        return net, lambda x: x
    if name == "densenet121": return apps.DenseNet121(include_top=False, weights=None, input_shape=shape), lambda x: apps.densenet.preprocess_input(x.copy())
    return apps.ResNet50(include_top=False, weights=None, input_shape=shape), lambda x: apps.resnet.preprocess_input(x.copy())


def check_cuts(model, card):
    "every cut is a layer, each later than the one before"
    seen = [keras.Model(model.inputs, model.get_layer(layer).output).count_params() for _, layer in card.cuts]
    assert seen == sorted(set(seen)) and seen[-1] <= card.parameters, card.name


@pytest.mark.slow(8)
@pytest.mark.parametrize("name", [n for n, c in NETWORKS.items() if c.weights == "keras"])
def test_a_network_computes_what_stock_keras_does(name):
    "and has the numbers that its card says"
    card, ours, (theirs, prepared), x = NETWORKS[name], network(name, 1000, 224), stock(name, 224), pixels(224, 1)
    weights = drawn(ours)
    put(ours, weights)
    for l in theirs.layers:
        if l.weights and not isinstance(l, keras.layers.Normalization): l.set_weights([weights[f"{l.name}/{v.name}"] for v in l.weights])
    got = keras.Model(ours.inputs, ours.get_layer("avg_pool").output)(x)
    np.testing.assert_allclose(np.asarray(got), np.asarray(theirs(prepared(x))).mean((1, 2)), rtol=2e-4, atol=2e-5)
    assert card.parameters == theirs.count_params() - 7*(name == "efficientnet-b0")   # Keras counts its scaling
    assert multiply_adds(ours) - 1000*got.shape[1] == card.multiply_adds
    hidden = 576*1024 + 1024 + 448*1000 if name == "mobilenetv3-small" else 0    # a layer below its published head, which is wider then
    assert ours.count_params() + hidden == card.published
    check_cuts(ours, card)


@pytest.mark.slow(3)
def test_the_networks_that_keras_has_not_have_the_numbers_of_their_cards():
    for name, card in NETWORKS.items():
        if card.weights == "keras": continue
        model = trunk(name, 224)
        assert (model.count_params(), multiply_adds(model)) == (card.parameters, card.multiply_adds), name
        check_cuts(model, card)
    assert NETWORKS["squeezenet"].parameters + 513_000 == NETWORKS["squeezenet"].published


@pytest.mark.slow(3)
def test_cut_networks_keep_their_weights():
    "a whole network's weights fit the cut one, which then computes what the whole one does up to there"
    whole, cut, x = network("efficientnet-lite0", 2, 32), network("efficientnet-lite0", 2, 32, cut="block3"), pixels(32)
    put(whole, drawn(whole))
    set_backbone(cut, named_weights(whole))
    part = keras.Model(whole.inputs, whole.get_layer("block3b_add").output)
    np.testing.assert_allclose(np.asarray(cut.get_layer("block3b_add").output.shape[1:]), part.output_shape[1:])
    got = keras.Model(cut.inputs, cut.get_layer("avg_pool").output)(x)
    np.testing.assert_allclose(np.asarray(got), np.asarray(part(x)).mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow(2)
def test_training_draws_the_same_in_every_build():
    "of blocks that are passed by, too, whose seeds Keras would draw anew"
    x, made = pixels(32, 8), []
    for _ in range(2):
        m = network("efficientnet-lite0", 2, 32, cut="block3")
        put(m, random_weights(m, 1))
        made.append((np.asarray(m(x, training=True)), np.asarray(m(x, training=False))))
    np.testing.assert_array_equal(made[0][0], made[1][0])
    assert np.abs(made[0][0] - made[0][1]).max() > 1e-4


@pytest.mark.slow(8)
def test_efficientnet_b0_takes_its_weights_along_when_its_own_scaling_is_left_out(tmp_path):
    theirs, scaled = stock("efficientnet-b0", 32)
    weights = drawn(theirs)
    for l in theirs.layers:
        if l.weights and not isinstance(l, keras.layers.Normalization): l.set_weights([weights[f"{l.name}/{v.name}"] for v in l.weights])
    theirs.save_weights(tmp_path/"b0.weights.h5")
    image, x = keras.Input((32, 32, 3)), pixels(32)
    ours = BUILDERS["efficientnet-b0"](image, scaling_layer(SCALINGS["imagenet"]), str(tmp_path/"b0.weights.h5"))
    assert not [l for l in ours.layers if isinstance(l, keras.layers.Normalization)]
    np.testing.assert_allclose(np.asarray(ours(x)), np.asarray(theirs(scaled(x))), rtol=2e-4, atol=2e-5)


def test_every_network_has_a_builder(): assert list(BUILDERS) == list(NETWORKS)


# genuine weights

def lite0():
    try: return lite0_file()
    except UserError as e: pytest.skip(f"SKIPPED: {e}; EfficientNet-Lite0's ImageNet weights were NOT tested")


def waves(size):
    "a picture that anybody can make again: three waves, one for each colour"
    r, c = np.mgrid[:size, :size]/size
    return np.round(127.5 + 127.5*np.stack([np.sin(9*r + 2*c), np.sin(7*c - 3*r), np.cos(11*r*c)], -1))[None].astype("float32")


# logits of the PyTorch network (efficientnet-lite-pytorch 0.1.0) for waves(64)
LOGITS = [-2.4496, 1.5236, 0.1722, -3.4929, -3.6596, -2.8839, -1.2617, 1.1095]
CODE = """
import json, sys, keras, numpy as np
from catscans.models.networks import network
m = network("efficientnet-lite0", 1000, 64, weights="imagenet")
seen = keras.Model(m.inputs[0], m.layers[-2].output)(np.array(json.load(sys.stdin), "float32"))
kernel, bias = m.layers[-1].get_weights()
print(json.dumps((np.asarray(seen) @ kernel + bias)[0].tolist()))
"""


@pytest.mark.slow(12)
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_lite0_of_imagenet_gives_known_logits(backend):
    lite0()
    if importlib.util.find_spec(backend) is None: pytest.skip(f"{backend} is not installed: EfficientNet-Lite0 was NOT tested on it")
    env = os.environ | dict(KERAS_BACKEND=backend, JAX_PLATFORMS="cpu", PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    p = subprocess.run([sys.executable, "-c", CODE], input=json.dumps(waves(64).tolist()), env=env, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-3000:]
    np.testing.assert_allclose(json.loads(p.stdout)[:8], LOGITS, atol=1e-3)


TORCH = """
import json, sys, numpy as np, torch
from efficientnet_lite_pytorch import EfficientNet
m = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=sys.argv[1]).eval()
x = (np.array(json.load(sys.stdin), "float32") - 127)/128
with torch.no_grad(): print(json.dumps(m(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()[0].tolist()))
"""


@pytest.mark.slow(30)
@pytest.mark.parametrize("size", [64, 224])
def test_lite0_equals_the_pytorch_network(size):
    path = lite0()
    for needed in ("torch", "efficientnet_lite_pytorch"):
        if importlib.util.find_spec(needed) is None: pytest.skip(f"{needed} is not installed: EfficientNet-Lite0 was NOT compared with PyTorch")
    text = json.dumps(waves(size).tolist())
    p = subprocess.run([sys.executable, "-c", TORCH, str(path)], input=text, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-3000:]
    ours = subprocess.run([sys.executable, "-c", CODE.replace("64", str(size))], input=text, capture_output=True, text=True)
    assert ours.returncode == 0, ours.stderr[-3000:]
    np.testing.assert_allclose(json.loads(ours.stdout), json.loads(p.stdout.splitlines()[-1]), atol=1e-3)


def test_squeezenet_of_imagenet_sees_what_the_probe_does():
    base = os.environ.get("CATSCANS_DATA")
    if not base or not list(Path(base).glob(f"**/{NETWORKS['squeezenet'].file}")):
        pytest.skip("SKIPPED: CATSCANS_DATA has no ImageNet weights of SqueezeNet: its network was NOT tested with them")
    m, x = network("squeezenet", 2, 64, weights="imagenet"), pixels(64)
    got = keras.Model(m.inputs, m.get_layer("avg_pool").output)(x)
    np.testing.assert_allclose(np.asarray(got), load_probe("squeezenet", 64).features(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow(8)
def test_a_file_that_was_put_where_the_message_says_is_taken(tmp_path, monkeypatch):
    "Keras' own file of MobileNetV3-Small, in the layout of Keras 2 in which it is published; one that was changed is refused"
    import h5py
    base, _ = stock("mobilenetv3-small", 32)
    put(base, drawn(base))
    card = NETWORKS["mobilenetv3-small"]
    path = tmp_path/"models"/card.file
    path.parent.mkdir()
    with h5py.File(path, "w") as f:
        f.attrs["layer_names"] = [l.name.encode() for l in base.layers]
        for l in base.layers:
            g = f.create_group(l.name)
            g.attrs["weight_names"] = [f"{l.name}/{v.name}:0".encode() for v in l.weights]
            for v in l.weights: g[f"{l.name}/{v.name}:0"] = np.asarray(v)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("CATSCANS_DATA", raising=False)
    with pytest.raises(UserError, match="is not the published file .md5 differs"): network(card.name, 2, 32, weights="imagenet")
    monkeypatch.setitem(NETWORKS, card.name, dataclasses.replace(card, hash=hashlib.md5(path.read_bytes()).hexdigest()))
    ours, x = network(card.name, 2, 32, weights="imagenet"), pixels(32)
    got = keras.Model(ours.inputs, ours.get_layer("avg_pool").output)(x)
    np.testing.assert_allclose(np.asarray(got), np.asarray(base(x)).mean((1, 2)), rtol=2e-4, atol=2e-5)


# files of others

def old_name(layer):
    "what keras.applications called a layer of ResNet50 until 2019"
    fixed = dict(conv1_conv="conv1", conv1_bn="bn_conv1")
    if layer in fixed: return fixed[layer]
    stage, block, part, kind = layer.removeprefix("conv").replace("block", "").split("_")
    return f"{dict(conv='res', bn='bn')[kind]}{stage}{'abcdef'[int(block) - 1]}_branch{('1', '2a', '2b', '2c')[int(part)]}"


def write_keras2(path, weights, head="dense_1"):
    "weights as Keras 2 wrote those of a network that holds ResNet50 as one layer: layer by layer, each with its scope and `:0`"
    import h5py
    with h5py.File(path, "w") as f:
        root, groups = f.create_group("model_weights"), {"resnet50": {}, "dropout_1": {}, head: {}}
        for k, v in weights.items():
            layer, kind = k.split("/")
            own = head if layer == "predictions" else old_name(layer)
            groups[head if layer == "predictions" else "resnet50"][f"{own}/{kind}:0"] = v
        for name, arrays in groups.items():
            g = root.create_group(name)
            g.attrs["weight_names"] = [k.encode() for k in arrays]
            for k, v in arrays.items(): g[k] = v
        root.attrs["layer_names"] = [n.encode() for n in groups]


@pytest.mark.slow(7)
def test_weights_that_keras_2_wrote_are_read(tmp_path):
    given = network(CUT, 3, 32)
    put(given, drawn(given))
    write_keras2(tmp_path/"old.h5", named_weights(given))
    assert "res2a_branch2a/kernel" in read_weights(tmp_path/"old.h5")[0]
    with pytest.warns(Note, match="does not say how grey levels were scaled"): got = network(CUT, 3, 32, weights=tmp_path/"old.h5")
    for k, v in named_weights(given).items(): np.testing.assert_array_equal(named_weights(got)[k], v)
    del given   # of another head only what is below is taken; of another network nothing
    with pytest.warns(Note): other = network(CUT, 2, 32, weights=tmp_path/"old.h5", scaling=None)
    np.testing.assert_array_equal(named_weights(other)["conv1_conv/kernel"], named_weights(got)["conv1_conv/kernel"])
    with pytest.warns(Note), pytest.raises(UserError, match="these weights are not those of resnet50_conv3"):
        network("resnet50-conv3", 3, 32, weights=tmp_path/"old.h5")


@pytest.mark.slow(6)
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_a_network_that_somebody_wrapped_is_read(suffix, tmp_path):
    "resnet50 below a head of their own, as a layer of theirs; also in the layout that Keras 3 still writes for Keras 2"
    inner = resnet50(2, 32, arch=CUT)
    put(inner, drawn(inner))
    base = keras.Model(inner.inputs, inner.get_layer("avg_pool").output, name="base")
    theirs = keras.Sequential([keras.Input((32, 32, 3)), base, keras.layers.Dense(3, activation="softmax", name="mine")])
    theirs.save_weights(tmp_path/f"w{suffix}") if suffix == ".weights.h5" else theirs.save(tmp_path/f"w{suffix}")
    ours, x = network(CUT, 3, 32, weights=tmp_path/f"w{suffix}", scaling="caffe"), pixels(32)
    np.testing.assert_allclose(np.asarray(ours(x)), np.asarray(theirs(x)), atol=1e-6)


def test_the_paper_s_network_is_the_same_by_name():
    by_name, itself, x = network("resnet50", 4, 32, cut="conv2", dropout=.25), resnet50(4, 32, dropout=.25, arch=CUT), pixels(32)
    assert [(l.name, type(l)) for l in by_name.layers] == [(l.name, type(l)) for l in itself.layers]
    for m in (by_name, itself): put(m, random_weights(itself, 3))
    np.testing.assert_array_equal(np.asarray(by_name(x)), np.asarray(itself(x)))


@pytest.mark.slow(6)
def test_lite0_is_a_probe():
    "that looks with ImageNet's weights: its gradients reach every filter, of one image as of a batch"
    lite0()
    probe, x = load_probe("efficientnet-lite0", 32), pixels(32)
    features = probe.features(x)
    assert (probe.name, features.shape) == ("efficientnet-lite0", (2, 1280))
    assert probe.squared(x, np.ones_like(features)).shape == probe.each(x, np.ones_like(features)[None]).shape == (probe.filters,)


PACKAGE = '''
import keras
from catscans.models.networks import add_network

@add_network("colleagues-net", parameters=896, cuts=dict(only="only"), scaling="share")
def colleagues_net(x): return keras.layers.Conv2D(32, 3, activation="relu", name="only")(x)
'''


@pytest.mark.slow(8)
def test_a_package_brings_a_network_by_an_entry_point(tmp_path):
    "it is found by its name alone, in a process that has imported nothing of it"
    (tmp_path/"colleague.py").write_text(PACKAGE)
    (at := tmp_path/"colleague-1.dist-info").mkdir()
    (at/"METADATA").write_text("Metadata-Version: 2.1\nName: colleague\nVersion: 1\n")
    (at/"entry_points.txt").write_text("[catscans.networks]\nmine = colleague\nlost = nowhere\n")
    ask = ("import sys; from catscans.models.networks import name_and_cut, network; early = 'colleague' in sys.modules; m = network('colleagues-net', 3, 32); "
           "print(early, m.output_shape, m.name, name_and_cut('colleagues-net-only')[1])")
    p = subprocess.run([sys.executable, "-c", ask], env=os.environ | dict(PYTHONPATH=str(tmp_path), TF_CPP_MIN_LOG_LEVEL="3"), capture_output=True, text=True)
    assert p.returncode == 0 and p.stdout.split() == "False (None, 3) colleagues_net only".split(), p.stdout + p.stderr[-2000:]
    assert "lost of nowhere is left out" in " ".join(p.stderr.split())
