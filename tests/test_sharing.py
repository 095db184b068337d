"A source's network leaves the house: plain Keras loads it, its card says what it is, and a licence that binds is asked about."
import importlib.util, json, os, subprocess, sys, warnings
from types import SimpleNamespace

import numpy as np
import pytest

from catscans.core.basics import UserError
from catscans.datasets.images import Images, fingerprint
from catscans.models.export import load_shared, share, stock
from catscans.models.networks import network
from catscans.models.weights import named_weights, save_weights
from catscans.records import store
from catscans.study.cli import main
from catscans.study import sharing
from catscans.study.sharing import facts_of, held_groups, source_run
from catscans.training.recipes import Recipe
from catscans.transfer import finetune
from fakes import ROOT
from test_networks import drawn, pixels, put

needed = pytest.mark.skipif(importlib.util.find_spec("safetensors") is None,
                            reason="SKIPPED: the library safetensors is not installed, folders to share were NOT tested")
PLAIN = """
import sys
sys.modules["catscans"] = None      # an import would fail
import json, keras, numpy as np
model = keras.models.load_model(sys.argv[1])
print(json.dumps(np.asarray(model(np.array(json.load(sys.stdin), "float32")))[0].tolist()))
"""


def plain_keras(path, x, backend="tensorflow", python=sys.executable):
    "probabilities that a network gives in a process that has Keras and nothing of ours"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | dict(KERAS_BACKEND=backend, JAX_PLATFORMS="cpu")
    p = subprocess.run([python, "-c", PLAIN, str(path)], input=json.dumps(x.tolist()), env=env, cwd=path.parent, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-3000:]
    return json.loads(p.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "a project whose source kermany is trained: the committed record, with a smaller network's weights"
    at = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("CATSCANS_PROJECT", str(at))
        m.delenv("CATSCANS_WORK", raising=False)
        rec = json.loads((ROOT/"results"/"lite"/"records"/"pretrain-kermany-grouped-s1.json").read_text())
        rec["settings"]["arch"] = "resnet50-conv2"
        model = network("resnet50-conv2", 2, rec["settings"]["size"])
        put(model, drawn(model))
        run = source_run("kermany")
        rec["folds"][0]["weights_sha256"] = save_weights(model, run.weights, source="kermany")
        store.write(rec)
        yield at, model


@needed
@pytest.mark.slow(20)
def test_a_shared_source_is_used_by_who_has_keras_alone(project, tmp_path, capsys):
    at, model = project
    assert main(["weights", "export", "kermany", str(tmp_path/"given")]) == 0, capsys.readouterr().err
    folder = tmp_path/"given"
    card = json.loads((folder/"card.json").read_text())
    x = pixels(32)
    np.testing.assert_allclose(plain_keras(folder/"pretrain-kermany-grouped-s1.keras", x), np.asarray(model(x))[0], atol=1e-5)
    assert (card["network"], card["licence"], card["noncommercial"], card["protocol"]) == ("resnet50-conv2", "CC BY 4.0", False, "grouped")
    rec = store.read(source_run("kermany"))
    low, high = card["auc"]["interval"]
    assert card["auc"]["auc_ovr_weighted"] == pytest.approx(rec["folds"][0]["auc_ovr_weighted"], abs=1e-6) and low < card["auc"]["auc_ovr_weighted"] < high
    assert "catscans" not in (folder/"README.md").read_text() and str(tmp_path) not in json.dumps(card)
    got, _ = load_shared(folder)
    np.testing.assert_allclose(np.asarray(got(x)), np.asarray(model(x)), atol=1e-6)
    for name in card["files"]:
        again = network("resnet50-conv2", 2, 32, weights=folder/name)
        for k, v in named_weights(model).items(): np.testing.assert_array_equal(named_weights(again)[k], v)


def test_the_interval_of_a_card_is_by_group_where_groups_are_known(project, monkeypatch, recwarn):
    run = source_run("kermany")
    rec = store.read(run)
    seen, held = rec["data"]["source"], store.predictions(rec)
    images = SimpleNamespace(fingerprint=seen["fingerprint"], groups=np.arange(seen["n"])//10)
    monkeypatch.setattr(sharing, "images_of", lambda *a: images)
    groups = held_groups(run, rec)
    assert np.array_equal(groups, held.index//10)
    card = facts_of(rec, {}, groups)["auc"]
    assert card["groups"] == len(np.unique(groups)) < card["images"] == len(held.y) and "groups" in card["how"]
    images.groups = None
    assert held_groups(run, rec) is None
    assert not [w for w in recwarn if "by itself" in str(w.message)], "nothing to say where groups are known, or there are none"
    images.groups, images.fingerprint = np.arange(seen["n"])//10, "another"
    with pytest.warns(match="takes each image of kermany by itself.*others than those that the record names"): assert held_groups(run, rec) is None
    def gone(*a): raise UserError("not fetched")
    monkeypatch.setattr(sharing, "images_of", gone)
    with pytest.warns(match="not fetched"): assert held_groups(run, rec) is None
    by_image = facts_of(rec, {})["auc"]
    assert by_image["groups"] is None and by_image["interval"] != card["interval"]


@needed
def test_a_card_that_does_not_fit_is_seen(project, tmp_path):
    _, model = project
    folder = share(model, tmp_path/"given", "w", dict(network="resnet50-conv2"))
    card = json.loads((folder/"card.json").read_text())
    card["check"]["probabilities"][0] += 1e-4
    (folder/"card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="gives other probabilities than its card says"): load_shared(folder)
    with pytest.raises(UserError, match="is there already"): share(model, folder, "w", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given"], "nothing half done lies beside it"


@needed
@pytest.mark.parametrize("line, says", [
    ("weights export ham10000 OUT", "'CC BY-NC 4.0: non-commercial'"),
    ("weights export lc25000 OUT", "add --accept"),
    ("weights export dtd10 OUT --accept", "make it with catscans run"),
    ("weights export kermany OUT --seed 7", "no record"),
    ("weights export cifar OUT", "unknown source: received 'cifar'"),
    ("weights export imagenet OUT --profile paper", "come with Keras"),
    ("weights", "required: COMMAND"),
])
def test_what_cannot_be_shared_is_one_line(project, tmp_path, capsys, line, says):
    assert main(line.replace("OUT", str(tmp_path/"out")).split()) == 2
    err = [s for s in capsys.readouterr().err.splitlines() if not s.startswith("note: ")]
    assert len(err) == 1 and says in err[0], err
    assert not list(tmp_path.iterdir())


@needed
def test_a_network_of_bound_data_is_marked(project, tmp_path, capsys):
    at, model = project
    rec = json.loads((ROOT/"results"/"lite"/"records"/"pretrain-ham10000-grouped-s1.json").read_text())
    rec["settings"]["arch"] = "cbr-tiny"
    small = network("cbr-tiny", 7, rec["settings"]["size"])
    rec["folds"][0]["weights_sha256"] = save_weights(small, source_run("ham10000").weights)
    store.write(rec)
    with pytest.warns(UserWarning, match="marks the network"): assert main(["weights", "export", "ham10000", str(tmp_path/"out"), "--accept"]) == 0
    card = json.loads((tmp_path/"out"/"card.json").read_text())
    assert card["noncommercial"] and card["licence_accepted"] and "non-commercial" in (tmp_path/"out"/"README.md").read_text()
    assert card["scaling"]["name"] == "unit"


@pytest.mark.slow(8)
@pytest.mark.parametrize("name", ["resnet50-conv2", "efficientnet-lite0"])
def test_a_network_is_loaded_by_plain_keras(name, tmp_path):
    "with the same probabilities on TensorFlow, and on JAX where it is installed"
    model, x = network(name, 3, 32), pixels(32)
    put(model, drawn(model))
    stock(model).save(tmp_path/"n.keras")
    for backend in ("tensorflow", *(["jax"] if importlib.util.find_spec("jax") else [])):
        np.testing.assert_allclose(plain_keras(tmp_path/"n.keras", x, backend), np.asarray(model(x))[0], atol=1e-5)


@pytest.mark.slow(15)
def test_the_network_of_a_fold_is_used_by_who_has_keras_alone(tmp_path):
    "as finetune kept it: the probabilities of the fold on TensorFlow, and on JAX where it is installed (CATSCANS_JAX_PYTHON: of a place that has Keras and JAX alone)"
    x, y, names = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3)).astype("uint8"), np.arange(40) % 2, np.arange(40).astype(str)
    target = Images(x, y, None, ["p", "q"], None, fingerprint(x, y, None, ["p", "q"]), "target", names)
    f = finetune(None, target, Recipe(epochs=1), folds=2, network="efficientnet-lite0", workdir=tmp_path, keep=True)
    at = np.flatnonzero(f.fold == 1)[:3]
    others = [p for p in [os.environ.get("CATSCANS_JAX_PYTHON")] if p] or ([sys.executable] if importlib.util.find_spec("jax") else [])
    if not others: warnings.warn("SKIPPED: JAX is not installed, the kept network was tested on TensorFlow alone")
    for backend, python in (("tensorflow", sys.executable), *(("jax", p) for p in others)):
        for i in at:
            got = plain_keras(f.networks[0], target.x[f.index[[i]]], backend, python)
            np.testing.assert_allclose(got, f.p[i], atol=1e-5, err_msg=backend)
