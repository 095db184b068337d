"What says that something is done is on the disk before it is said; what was changed since is noticed; where there are no locks that is said."
import errno, fcntl, json, os, sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import h5py, numpy as np, pytest

from catscans.core import files
from catscans.core.basics import UserError, hearing
from catscans.core.grid import PROFILES, Run
from catscans.datasets import fetch
from catscans.datasets import store as stores
from catscans.datasets.loading import images_of
from catscans.models import export
from catscans.models.probes import load_probe
from catscans.models.weights import save_weights
from catscans.records import store
from catscans.records.examples import example_record
from catscans.slices import run as slice_of
from catscans.slices.parcels import Inputs
from catscans.study import done, engine, notebooks, plan
from catscans.study.cli import main
from catscans.study.verify import verify
from catscans.transfer.folds import keep_fold
from fakes import sound_record

linux = pytest.mark.skipif(sys.platform != "linux", reason="NOT CHECKED: the names of descriptors are read in /proc")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    return tmp_path


@pytest.fixture
def events(monkeypatch):
    "what is settled and what is named, in their order"
    said, sync, replace, rename = [], os.fsync, os.replace, Path.rename
    def seen(fd): said.append(("settled", Path(os.readlink(f"/proc/self/fd/{fd}")))); sync(fd)
    def named(how): return lambda a, b: (said.append(("named", Path(a), Path(b))), how(a, b))[1]
    monkeypatch.setattr(os, "fsync", seen); monkeypatch.setattr(os, "replace", named(replace)); monkeypatch.setattr(Path, "rename", named(rename))
    return said


def drawn(project):
    (f := files.figures_dir("toy")/"fig3_auc.csv").parent.mkdir(parents=True); f.write_text("drawn")
    step = next(s for s in plan.plan("toy") if s.notebook == "results")
    notebooks._sign(step)
    return step.product


def image_store(project):
    return Path(stores.keep("toy-dtd", lambda: (np.zeros((2, 8, 8, 3), "uint8"), [0, 1], None, ["cat", "dog"]), 8).x.filename).parent


def shared_network(project):
    "the library for .safetensors is not everywhere: its file is any file here"
    import keras
    x = keras.layers.Input((8, 8, 3))
    model = keras.Model(x, keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(x)))
    small = dict(safetensors_numpy=mock.DEFAULT, _scaling_of=lambda model: dict(name="none"), _write_safetensors=lambda model, path, facts: path.write_bytes(b"x"))
    with mock.patch.multiple(export, **small): return export.share(model, project/"given", "tiny", {})


def record_of_a_slice(project):
    with mock.patch.object(slice_of, "slim", lambda rec: rec): return slice_of._put(example_record(Run("toy-dtd", "toy-chest")))


def saved(f, write): write(f); return f
DONE = {"a record": lambda d: store.write(example_record(Run("toy-dtd", "toy-chest"))), "weights": lambda d: saved(d/"a.h5", lambda f: save_weights(dict(a=np.arange(3.)), f)),
        "a finished fold": lambda d: saved(d/"fold1.npz", lambda f: keep_fold(f, "key", {}, np.zeros(3))), "a note of what was drawn": drawn, "a note of what was fetched": lambda d: saved(d/"fetched.json", lambda f: fetch.save_json(f, {})),
        "an image store": image_store, "a record of a slice": record_of_a_slice,
        "an archive of a slice": lambda d: slice_of.pack_records(SimpleNamespace(runs=[], sets={}, fingerprint="", profile=SimpleNamespace(name="toy")), d),
        "a network to be shared": shared_network}


@linux
@pytest.mark.parametrize("what", DONE)
def test_done_is_said_last(what, project, events, monkeypatch):
    "the content is on the disk before its name is, and the name before anybody hears of it"
    monkeypatch.setattr(notebooks, "drawn_from", lambda step: "now")
    path = DONE[what](project)
    at = next(i for i, e in enumerate(events) if e[0] == "named" and e[2] == path)
    before, after = {e[1] for e in events[:at] if e[0] == "settled"}, [e[1] for e in events[at:] if e[0] == "settled"]
    half = events[at][1]
    content = {half/f.name for f in path.iterdir()} | {half} if path.is_dir() else {half}
    assert content <= before and after[-1] == path.parent, events


def test_a_record_without_its_checksum_is_no_older_one(project):
    path = store.write(example_record(Run("toy-dtd", "toy-chest")))
    rec = json.loads(path.read_text())
    assert rec["format"] == store.FORMAT and store.read(path) == rec
    rec["folds"][0]["weights_sha256"] = "another"
    del rec["checksum"]
    for r in (rec, {k: v for k, v in rec.items() if k != "format"} | dict(timing=rec["timing"] | dict(started="2026-12-01T00:00:00+00:00"))):
        path.write_text(json.dumps(r))
        with pytest.raises(UserError, match=f"{path}: it was changed since it was written, its checksum was taken away; run it again"): store.read(path)
        assert len([w for w in verify("toy")[0] if "checksum was taken away" in w]) == 1
    path.write_text(json.dumps({k: v for k, v in rec.items() if k != "format"}))      # as the records of November
    assert store.read(path)["folds"] == rec["folds"]
    assert store.differences(rec, {k: v for k, v in rec.items() if k != "format"}) == []


def test_committed_records_of_before_count_as_they_are():
    root = Path(__file__).resolve().parents[1]/"results"
    assert len([store.read(f) for p in ("lite", "power") for f in sorted((root/p/"records").glob("*.json"))]) >= 50


def test_whoever_trains_sees_only_pixels_that_were_written(project):
    "2,000 other bytes have given other metrics under the old fingerprint"
    toy, rng = PROFILES["toy"], np.random.default_rng(0)
    images = images_of("toy-chest", toy, 32)
    whole, where = np.array(images.x), Path(images.x.filename)
    flat = np.lib.format.open_memmap(where, mode="r+").reshape(-1)
    flat[rng.integers(0, flat.size, 2000)] ^= 255
    flat.flush(); del flat
    assert "not what was written there" in verify("toy")[0][0]
    with hearing() as said: again = images_of("toy-chest", toy, 32)
    assert np.array_equal(again.x, whole) and again.fingerprint == images.fingerprint
    assert len(said) == 1 and str(where.parent) in said[0] and "made again" in said[0]
    assert verify("toy")[0] == []


ODD = dict(text=lambda f: f.create_dataset("conv1_conv/kernel", data="weights"), letters=lambda f: f.create_dataset("conv1_conv/kernel", data=np.array([b"a"]*3)),
           fields=lambda f: f.create_dataset("conv1_conv/kernel", data=np.zeros(3, [("a", "f4"), ("b", "i8")])), huge=lambda f: f.create_dataset("conv1_conv/kernel", shape=(1 << 22, 1 << 20), dtype="f8", chunks=(1, 1024)),
           empty=lambda f: f.create_dataset("conv1_conv/kernel", data=h5py.Empty("f4")), reference=lambda f: f.create_dataset("conv1_conv/kernel", data=f["a"].ref, dtype=h5py.ref_dtype),
           numbers=lambda f: f.attrs.__setitem__("layer_names", np.arange(3)), one=lambda f: f.attrs.__setitem__("layer_names", 7), nothing=lambda f: f.attrs.__setitem__("layer_names", [b"no such layer"]),
           unlisted=lambda f: (f.attrs.__setitem__("layer_names", [b"a"]), f["a"].attrs.__setitem__("weight_names", 7)))


@pytest.mark.parametrize("what", ODD)
def test_an_odd_probe_is_one_line(what, tmp_path):
    with h5py.File(tmp_path/"net.h5", "w") as f:
        f.create_group("a"); ODD[what](f)
    with pytest.raises(UserError, match=r"probe: .*net.h5 (is not a readable .h5 file of weights|.*are not those of ResNet50)") as e: load_probe(tmp_path/"net.h5", 32)
    assert "\n" not in str(e.value)


def test_a_file_system_without_locks_is_said_once_and_stops_nothing(project, monkeypatch):
    "as one that is mounted from another machine may be: neither does everybody seem to be at work, nor is anybody ended"
    def refuses(fd, how): raise OSError(errno.ENOLCK, "No locks available")
    lock = project/"run.lock"; lock.touch()
    with open(lock) as f:
        assert files.try_lock(f) and files.held(lock)
        monkeypatch.setattr(fcntl, "flock", refuses)
        with hearing() as said: assert files.try_lock(f) and not files.held(lock)
        assert "files cannot be locked here (No locks available)" in said[0] and "start one at a time" in said[0]
    with hearing() as said, files.locked(project/"a.lock") as alone: assert not alone
    assert "cannot be locked" in said[0]
    monkeypatch.setattr(engine, "_engine_command", lambda *a: [sys.executable, "-c", "import os; print(os.environ.get('CATSCANS_LOCK'))"])
    with open(project/"said", "w") as out: engine._start(dict(profile="toy"), [], SimpleNamespace(engine="local", verbose=False, lock=lock, mark=""), out).wait()
    assert (project/"said").read_text().strip() == "None"            # a step would look for its run, take the lock, and end itself


def test_check_finds_what_is_missing_too(project, monkeypatch):
    "a store without its description, a note of figures that cannot be read, a figure that is gone, a fine-tuning of other weights"
    monkeypatch.setattr(notebooks, "drawn_from", lambda step: "now")
    shelf, note, tuned, pre = image_store(project), drawn(project), Run("toy-dtd", "toy-chest"), Run("toy-dtd")
    rec = sound_record(tuned)
    store.write(example_record(pre) | dict(folds=[dict(weights_sha256=save_weights(dict(a=np.arange(3.)), pre.weights))]))
    record = store.write(rec | dict(settings=rec["settings"] | dict(source_relation="none", source_weights_sha256="0"*64)))
    [wrong] = verify("toy")[0]
    assert f"{record}: starts from weights 000000000000 of toy-dtd, whose record names" in wrong
    record.unlink()
    assert verify("toy")[0] == []
    for path in (*shelf.iterdir(), note, files.figures_dir("toy")/"fig3_auc.csv"):
        whole = path.read_bytes(); path.unlink()
        if path == note: path.mkdir()
        wrong = verify("toy")[0]
        assert len(wrong) == 1 and str(shelf if path.parent == shelf else path) in wrong[0], (path, wrong)
        if path == note: path.rmdir()
        path.write_bytes(whole)
    assert verify("toy")[0] == []


def test_a_folder_in_the_place_of_a_note_is_no_traceback(project, capsys):
    "notes can be made again, so what lies there is removed; asking about it changes nothing"
    step = next(s for s in plan.plan("toy", ["dtd"]) if not s.run.target)
    for f in (step.marker, step.product): f.mkdir(parents=True)
    assert "unreadable" in plan.read_json(step.marker) and main(["status"]) == 0 and main(["check"]) == 1
    for note in ([], dict(state=7), dict(state="failed"), dict(state="failed", time=0), dict(state="running", time="now")):
        step.marker.rmdir() if step.marker.is_dir() else None
        step.marker.write_text(json.dumps(note))
        assert main(["status"]) == 0
    step.marker.unlink(); step.marker.mkdir()
    capsys.readouterr()
    engine._set_aside([step], {step.slug: done.problem(step)})
    assert not step.marker.exists() and not step.product.exists() and "1 record does not count any more" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot write .*x.* \\(Is a directory\\): make room, move away what lies there"):
        with engine._said_in_one_line(): raise IsADirectoryError(errno.EISDIR, "Is a directory", "x")


@pytest.mark.parametrize("change", [dict(profile={}), dict(profile=None), dict(runs=[7]), dict(pools=[]), dict(recipes=[7]), dict(images=[{}])])
def test_inputs_of_a_slice_that_are_not_whole_are_one_line(change, tmp_path, capsys):
    from dataclasses import asdict
    (tmp_path/"request.json").write_text(json.dumps(dict(format=1, profile=asdict(PROFILES["toy"]), runs=[], images=[], pools={}, recipes=[])))
    Inputs(tmp_path)
    (tmp_path/"request.json").write_text(json.dumps(json.loads((tmp_path/"request.json").read_text()) | change))
    with pytest.raises(UserError, match=f"{tmp_path}/request.json is damaged .*; pack the inputs again"): Inputs(tmp_path)


def test_want_of_memory_is_named(project):
    "in whatever class it comes"
    for name, value in (("MemoryError", ""), ("_ArrayMemoryError", "Unable to allocate 7 GiB"), ("ResourceExhaustedError", "OOM when allocating\nmore"), ("ImportError", "libx.so: failed to map segment from shared object")):
        said = notebooks._in_words(name, value)
        assert said.startswith(f"{name}: {value.splitlines()[0] if value else ''}") and "there was not enough memory: run fewer notebooks" in said and "\n" not in said
    assert "ran out" in notebooks._in_words("DeadKernelError", "Kernel died") and notebooks._in_words("ZeroDivisionError", "division by zero") == "ZeroDivisionError: division by zero"


def test_want_of_memory_of_a_command_is_one_line(monkeypatch, capsys):
    from catscans.study import cli
    for e in (MemoryError("Unable to allocate 48.0 KiB"), OSError(errno.ENOMEM, "Cannot allocate memory")):
        def starved(a, e=e): raise e
        monkeypatch.setattr(cli, "_do", starved)
        assert main(["status"]) == 1 and capsys.readouterr().err == f"catscans: error: there was not enough memory ({e}): free some, and give the same command again\n"


def test_want_of_memory_is_no_damage(project, monkeypatch):
    "a store that could not be opened for want of memory or descriptors is whole, and stays"
    folder = image_store(project)
    for e in (MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory"), OSError(errno.EMFILE, "Too many open files")):
        for at, name in ((stores, "open_store"), (stores, "_pixel_hash")):
            def starved(*a, e=e): raise e
            with monkeypatch.context() as m:
                m.setattr(at, name, starved)
                with pytest.raises(type(e)), stores.whole_stores(): image_store(project)
            assert folder.exists()
