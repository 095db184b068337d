"The plain GPU command ends in the records of the notebooks, needs four libraries, and stops and goes on."
import importlib.util, json, os, shutil, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catscans.core.basics import UserError
from catscans.core.grid import PROFILES, Profile, Run
from catscans.datasets.images import Images, fingerprint
from catscans.records import store
from catscans.models.resnet import ARCHS
from catscans.training.recipes import RECIPES, Recipe
from catscans.slices import parcels
from catscans.slices import run as slices_run

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow(2)   # each of them needs a study that takes 14 s


@pytest.fixture(autouse=True)
def same_environment():
    "The command chooses its backend in the environment: the tests after these must not inherit it."
    before = dict(os.environ)
    yield
    os.environ.clear(); os.environ.update(before)


# cut after the first convolution, two epochs: what is compared here does not depend on the network
SOURCE, ARCH, SHORT = "toy-pcam-small", dict(tiny="pool1_pool"), dict(pretrain={"*": Recipe(epochs=2, batch=32)}, finetune={"*": Recipe(epochs=2, batch=32)})
TINY = Profile("tiny", (SOURCE,), ("toy-chest",), ((SOURCE, "toy-chest"),), size=32, recipe="tiny", folds=2, arch="tiny", threads=1,
               max_images=((SOURCE, 200), ("toy-chest", 64)))

BACKEND = "jax" if importlib.util.find_spec("jax") else "tensorflow"   # equality is of one backend with itself
# in a process of its own: first the slices, with nothing but the four libraries; then, with all of them, what a notebook would have done
BOTH = """
import importlib.abc, os, sys
from pathlib import Path
class Bare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ({"tensorflow", "torch", "jax", "scipy"} - {os.environ["KERAS_BACKEND"], "scipy" * (os.environ["KERAS_BACKEND"] == "jax")} | {"pandas", "sklearn", "papermill", "snakemake", "matplotlib", "statsmodels", "ot", "seaborn"}):
            raise ModuleNotFoundError(f"{name} is not on a borrowed machine", name=name)
out = Path(sys.argv[1])
sys.meta_path.insert(0, bare := Bare())
from catscans import slices
from catscans.core.grid import PROFILES, Profile, Run
from catscans.models.resnet import ARCHS
from catscans.training.recipes import RECIPES, Recipe
TINY, SHORT = eval(sys.argv[2]), eval(sys.argv[3])
ARCHS |= eval(sys.argv[4])
codes = [slices.main(["--data", str(out/"inputs"), "--out", str(out/"gpu"), "--minutes", m]) for m in ("0.0001", "30")]
assert codes == [0, 0], codes
sys.meta_path.remove(bare)
from catscans.transfer.run import execute
PROFILES["tiny"], RECIPES["tiny"] = TINY, SHORT
os.environ["CATSCANS_PROJECT"] = str(out/"notebooks")
for r in (Run(TINY.sources[0], None, "tiny"), Run(*TINY.pairs[0], "tiny")): execute(r, None)
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    "a folder with inputs, a slice's OUT and the project of a notebook's run"
    out, mp = tmp_path_factory.mktemp("slices"), pytest.MonkeyPatch()
    mp.setitem(PROFILES, "tiny", TINY); mp.setitem(RECIPES, "tiny", SHORT); mp.setitem(ARCHS, "tiny", ARCH["tiny"])
    mp.setenv("CATSCANS_WORK", str(out/"work")); mp.setenv("CATSCANS_PROJECT", str(out/"home"))
    parcels.pack_inputs(out/"inputs", TINY)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CATSCANS_", "JAX_"))}
    env |= dict(KERAS_BACKEND=BACKEND, CATSCANS_WORK=str(out/"work"), PYTHONPATH=str(ROOT), JAX_COMPILATION_CACHE_DIR=str(out/"cache"))
    p = subprocess.run([sys.executable, "-c", BOTH, str(out), repr(TINY), repr(SHORT), repr(ARCH)], env=env, capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-4000:]
    yield out, p.stdout
    mp.undo()


def test_what_travels_keeps_its_range_of_values(tmp_path, monkeypatch):
    "a record says which value became white: the borrowed machine has to know it, too"
    x, y = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), np.uint8), np.arange(40) % 2
    made = lambda name, *_: Images(x, y, None, ["a", "b"], None, fingerprint(x, y, None, ["a", "b"]), name, y.astype(str), range=(0, 4095))
    monkeypatch.setattr(parcels, "images_of", made)
    there = parcels.Inputs(parcels.pack_inputs(tmp_path/"inputs", "toy", sources=["pcam-small"], targets=["chest"]))
    assert {there.images(*at).range for at in there.sets} == {(0, 4095)}


def test_a_slice_that_is_too_short_stops_cleanly_and_the_next_goes_on(both):
    lines = [l for l in both[1].splitlines() if " done, " in l]
    assert lines[0].startswith("0 done, 2 left, 0 failed") and lines[1].startswith("2 done, 0 left, 0 failed")


def test_records_equal_those_of_a_notebook(both):
    out, _ = both
    placed = slices_run.unpack_records(out/"gpu"/slices_run.ARCHIVE)
    assert [f.name for f in placed] == [f"{k}-grouped-s1.json" for k in ("pretrain-toy-pcam-small", "finetune-toy-pcam-small--toy-chest")]
    for f in placed:
        ours, theirs = store.read(f), store.read(out/"notebooks"/"results"/"tiny"/"records"/f.name)
        assert store.differences(ours, theirs) == []                           # weight hashes, predictions, metrics, settings, folds, versions
        assert np.array_equal(store.predictions(ours).p, store.predictions(theirs).p) and ours["env"]["backend"] == BACKEND
    assert slices_run.unpack_records(out/"gpu"/slices_run.ARCHIVE) == placed             # again: they are equal
    other = store.read(placed[1]); other["history"][0]["loss"][0] += 1; store.write(other)
    with pytest.raises(UserError, match="1 records are there already and differ: finetune-toy-pcam-small--toy-chest"): slices_run.unpack_records(out/"gpu"/slices_run.ARCHIVE)
    slices_run.unpack_records(out/"gpu"/slices_run.ARCHIVE, replace=True)


def test_a_damaged_or_outdated_archive_places_nothing(both, tmp_path, monkeypatch):
    out, _ = both
    good = (out/"gpu"/slices_run.ARCHIVE).read_bytes()
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path/"home"))
    for bad in (good[:len(good)//2], good[:200] + b"x" + good[201:]):
        (tmp_path/"bad.zip").write_bytes(bad)
        with pytest.raises(UserError, match="damaged archive"): slices_run.unpack_records(tmp_path/"bad.zip")
    monkeypatch.setitem(PROFILES, "tiny", replace(TINY, size=48))
    with pytest.raises(UserError, match="size was 32, is now 48"): slices_run.unpack_records(out/"gpu"/slices_run.ARCHIVE)
    assert not (tmp_path/"home").exists()


def archive(path, *recs, profile="tiny", names=()):
    "records as an archive that says of itself that it is whole"
    import gzip, hashlib, zipfile
    members = {f"{names[i] if names else r.get('slug', 'x')}.json.gz": gzip.compress(json.dumps(r).encode()) for i, r in enumerate(recs)}
    about = dict(format=1, profile=profile, records={k: hashlib.sha256(v).hexdigest() for k, v in members.items()})
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("about.json", json.dumps(about))
        for k, v in members.items(): z.writestr(k, v)
    return path


def test_records_are_placed_only_under_the_names_of_the_grid(both, tmp_path, monkeypatch):
    "the fields of a record become the name of a file: a path in one of them would be written to"
    (tmp_path/"home").mkdir(); (tmp_path/"outside").mkdir()
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path/"home"))
    rec = next(r for r in slices_run.open_records(both[0]/"gpu"/slices_run.ARCHIVE)[1].values() if r["kind"] == "finetune")
    up = "../../../../outside/x"
    for changed in (dict(source=f"{up}/../y"), dict(target=up), dict(seed=up), dict(seed=1.0), dict(seed=True), dict(protocol=up), dict(profile="../../outside"),
                    dict(profile="toy"), dict(source="toy-dtd"), dict(source=["toy-dtd"])):
        r = rec | changed
        r["slug"] = slices_run._run_of(r).slug
        with pytest.raises(UserError, match="is no run of the profile tiny"): slices_run.unpack_records(archive(tmp_path/"a.zip", r))
    for r, said in (({k: v for k, v in rec.items() if k != "seed"}, "does not say which run it is"), (["no record"], "is damaged"), (rec | dict(folds={}), "is damaged|missing keys"),
                    (rec | dict(predictions={}), "is damaged"), (rec | dict(slug="another"), "another holds|slug received")):
        with pytest.raises(UserError, match=said): slices_run.unpack_records(archive(tmp_path/"a.zip", r, names=[rec["slug"] if r is not rec and isinstance(r, list) else r.get("slug")]))
    assert [f.name for f in sorted(tmp_path.rglob("*"))] == ["a.zip", "home", "outside"]
    assert len(slices_run.unpack_records(archive(tmp_path/"a.zip", rec))) == 1           # as it came, it is placed
    request = json.loads((both[0]/"inputs"/"request.json").read_text()); request["runs"][0]["source"] = up
    (tmp_path/"in").mkdir(); (tmp_path/"in"/"request.json").write_text(json.dumps(request))
    with pytest.raises(UserError, match="name a run that cannot be"): parcels.Inputs(tmp_path/"in")


def test_inputs_that_are_not_whole_are_refused(both, tmp_path, capsys):
    out, _ = both
    shutil.copytree(out/"inputs", tmp_path/"in"); next((tmp_path/"in").glob("pixels-*.zip")).unlink()
    with pytest.raises(UserError, match="some are missing"): parcels.Inputs(tmp_path/"in").images(SOURCE, 32)
    (tmp_path/"in"/"request.json").write_text("{")
    for argv, said in ((["--data", tmp_path/"in", "--out", tmp_path/"o"], "damaged"), (["--data", tmp_path, "--out", tmp_path/"o"], "no inputs in"),
                       (["--out", tmp_path/"o"], "--profile is needed"), (["--profile", "toy"], "--out is needed"), (["unpack", tmp_path/"none.zip"], "no archive"),
                       (["--data", out/"inputs", "--out", tmp_path/"o", "--profile", "toy"], "inputs of the profile tiny"),
                       (["--data", out/"inputs", "--out", tmp_path/"o", "--minutes", "0"], "--minutes must be"),
                       (["--data", out/"inputs", "--out", tmp_path/"o", "--seeds", "7"], "does not hold all runs"),
                       (["--minutes", "x"], "invalid float value: 'x'"), (["pack-inputs", tmp_path/"p", "--profile", "zz"], "unknown profile: received 'zz'"),
                       (["pack-inputs", "--profile", "toy"], "the folder to write is missing"), (["pack-inputs", tmp_path/"p"], "--profile is missing"),
                       (["pack-inputs", ROOT/"tests", "--profile", "tiny"], "a folder of its own")):
        assert slices_run.main(list(map(str, argv))) == 2
        assert said in (err := capsys.readouterr().err) and len(err.splitlines()) == 1, err
    with pytest.raises(UserError, match=r"the inputs need .* MiB, allowed are 0.001 .*pixels-32-0.zip .*toy-pcam-small \d+ at 32 px"): parcels.pack_inputs(tmp_path/"small", TINY, limit=.001)
    assert not (tmp_path/"small").exists()


def test_a_machine_that_has_only_the_archive_goes_on_from_it(both, tmp_path, monkeypatch):
    "records come back; a source is trained again only where its weights are still needed"
    out, _ = both
    inputs = parcels.Inputs(out/"inputs", out/"gpu"/"work")
    shutil.copy(out/"gpu"/slices_run.ARCHIVE, tmp_path/slices_run.ARCHIVE)
    with slices_run.project(tmp_path) as there:
        assert slices_run.prepare(inputs, there) == 0
        Run(SOURCE, "toy-chest", "tiny").record.unlink(); (there/slices_run.ARCHIVE).unlink()
        assert slices_run.prepare(inputs, there) == 2 and not Run(SOURCE, None, "tiny").record.exists()


def test_a_failed_run_is_named_and_does_not_stop_the_others(both, tmp_path, monkeypatch, capsys):
    def execute(run, show, world):
        if run.source == SOURCE: raise FloatingPointError("the loss became nan")
    monkeypatch.setattr(slices_run.transfer_run, "execute", execute)
    assert slices_run.main(["--data", str(both[0]/"inputs"), "--out", str(tmp_path)]) == 1
    assert "pretrain-toy-pcam-small-grouped-s1 failed: FloatingPointError: the loss became nan" in capsys.readouterr().err


def test_halves_that_killed_processes_left_are_removed(both, tmp_path):
    inputs = parcels.Inputs(both[0]/"inputs", tmp_path/"work")
    (tmp_path/"work").mkdir()
    halves = [tmp_path/"work"/f".pixels-32-{inputs.fingerprint}-abcdefgh.npy", tmp_path/".records-abcdefgh.zip"]
    for f in halves: f.touch()
    inputs.pixels(32)
    with slices_run.project(tmp_path): slices_run.pack_records(inputs, tmp_path)
    assert not any(f.exists() for f in halves)


def test_processes_that_die_are_named(both, tmp_path, monkeypatch, capsys):
    "killed, for instance for memory: a slice says so and fails, and a measurement is none"
    (dies := tmp_path/"python").write_text("#!/bin/sh\nkill -9 $$\n"); dies.chmod(0o755)
    monkeypatch.setattr(slices_run.sys, "executable", str(dies))
    assert slices_run.main(["--data", str(both[0]/"inputs"), "--out", str(tmp_path/"o"), "--at-once", "2"]) == 1
    out, err = capsys.readouterr()
    assert "0 done, 2 left" in out and "2 of 2 processes ended before their time" in err and len(err.splitlines()) == 1
    with pytest.raises(UserError, match="measuring 2 at once failed"): slices_run.measure(both[0]/"inputs", tmp_path/"m", (2,))


@pytest.mark.skipif(not os.environ.get("CATSCANS_SLOW"), reason="CATSCANS_SLOW is not set: two workers and a measurement take a minute")
def test_two_workers_share_the_grid_and_measure_counts(both, tmp_path, capsys, monkeypatch):
    import keras
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())   # a slice's own default is jax
    out = tmp_path/"brought"
    shutil.copytree(both[0]/"inputs", out/"inputs")
    request = json.loads((out/"inputs"/"request.json").read_text()); request["profile"]["arch"] = "resnet50-conv2"    # the workers are processes of their own: they do not know this file's
    (out/"inputs"/"request.json").write_text(json.dumps(request))
    got = slices_run.run_slice(out/"inputs", tmp_path/"two", 30, at_once=2)
    assert (got["done"], got["left"], got["failed"]) == (2, 0, [])
    rows = slices_run.measure(out/"inputs", tmp_path/"m", (1, 2), seconds=2)
    assert [r["at_once"] for r in rows] == [1, 2] and all(len(r["each"]) == r["at_once"] and r["images_per_s"] > 0 for r in rows)
