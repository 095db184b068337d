"What the benchmark of training promises: its keys, its ratios, and that no row is left out in silence. How fast anything is, it does not say."
import json
from types import SimpleNamespace

import pytest

from benchmarks import same_results, training

PROMISED = {"row", "size", "precision", "device", "images_per_s", "ratio_to_torch", "ratio_to_bound", "repeats"}


@pytest.mark.slow(10)
def test_keys_and_a_row_that_cannot_run(tmp_path, capsys):
    "the engine runs, on a tiny network; PyTorch cannot, and is named with the reason"
    (without := tmp_path/"python").write_text("#!/bin/sh\nexit 1\n"); without.chmod(0o755)
    code = training.main(["--json", "--full", "--sizes", "32", "--batch", "4", "--steps", "1", "--repeats", "1", "--threads", "1", "--arch", "resnet50-conv2",
                          "--rows", "torch", "engine", "--torch-python", str(without)])
    out, err = capsys.readouterr()
    rows = {r["row"]: r for r in json.loads(out)}
    assert code == 0 and list(rows) == ["torch", "engine"]
    assert all(PROMISED <= set(r) for r in rows.values())
    engine, torch = rows["engine"], rows["torch"]
    assert engine["why"] == "" and engine["images_per_s"] > 0 and engine["repeats"] == 1 and engine["size"] == 32 and engine["precision"] == "float32"
    assert engine["device"] and engine["share_of_peak"] > 0 and engine["peak_memory_gb"] > 0 and engine["tracing_s"] > 0
    assert engine["ratio_to_torch"] is None and engine["ratio_to_bound"] is None, "there is no ratio to what did not run"
    assert torch["images_per_s"] is None and str(without) in torch["why"] and "CANNOT RUN" in err
    table = training.table(list(rows.values()))
    assert "DID NOT RUN: PyTorch is not installed" in table and f"{engine['images_per_s']:.1f}" in table


def test_json_is_what_is_promised_and_nothing_else(capsys, monkeypatch):
    monkeypatch.setattr(training, "measure", lambda a, show: [dict.fromkeys(PROMISED, 1) | dict(why="", absent="", tracing_s=9.)])
    assert training.main(["--json"]) == 0
    assert [set(r) for r in json.loads(capsys.readouterr().out)] == [PROMISED]


def test_a_row_that_dies_is_named(monkeypatch, tmp_path):
    "a worker that ends without an answer is a row with a reason, and the last line that it wrote is in it"
    (dies := tmp_path/"python").write_text("#!/bin/sh\necho 'Illegal instruction' >&2; exit 132\n"); dies.chmod(0o755)
    monkeypatch.setattr(training.sys, "executable", str(dies))
    a = training.options(["--rows", "engine", "--sizes", "32", "--batch", "1", "--steps", "1", "--repeats", "1"])
    [row] = training.measure(a)
    assert row["why"] == "its process ended (132): Illegal instruction" and row["images_per_s"] is None and row["repeats"] == 0


def test_ratios_are_medians_of_rounds_and_the_first_round_is_not_counted():
    rounds = lambda *v: SimpleNamespace(rounds=[{"per_s": x} if x else {} for x in v])
    a, b = rounds(100, 10, 40, 9), rounds(1, 10, 20, 3)
    assert training.ratio(a, b)[0] == 2.0                        # of 1, 2 and 3; the medians' own ratio would be 1
    assert training.ratio(a, rounds(1, 10, None, None))[0] == 1.0   # a round that one of the two lost is left out
    assert training.ratio(a, rounds(None, None, None, None)) == (None, None)


def test_operations_are_those_of_the_keras_network():
    import numpy as np
    from catscans.models.resnet import resnet50
    net = resnet50(training.CLASSES, 75)
    forward = {l.name: 2*int(np.prod(l.kernel.shape))*int(np.prod(l.output.shape[1:-1])) for l in net.layers if hasattr(l, "kernel")}
    assert training.flops(75) == 3*sum(forward.values()) - forward["conv1_conv"]


def test_operations_of_efficientnet_lite0_are_those_of_the_keras_network():
    from catscans.models.networks import multiply_adds, network
    net = network(training.LITE0, training.CLASSES, 75)
    first = 2*9*3*32*38*38
    assert training.flops(75, training.LITE0) == 3*2*multiply_adds(net) - first


def test_only_engine_and_torch_predict(capsys):
    assert training.options(["--predict"]).rows == ["torch", "engine"] and not training.options([]).predict
    with pytest.raises(SystemExit): training.options(["--predict", "--rows", "bound"])
    assert "the rows are engine and torch" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--sizes", "16"], ["--repeats", "0"], ["--rows", "jax"], ["--precision", "float16"]])
def test_wrong_requests_are_refused(wrong):
    with pytest.raises(SystemExit) as e: training.options(wrong)
    assert e.value.code == 2


def test_fixed_cost_is_a_median_of_processes_of_which_the_first_warms_up(monkeypatch, capsys):
    from benchmarks import fixed_cost
    answers = iter([99., 3., 1., 2.])
    def once(o, work):
        v = next(answers)
        return dict.fromkeys(("import", "build", "trace", "recalibrate", "predict", "save", "other"), v) | dict(outside=7*v, step=1., held_out=260)
    monkeypatch.setattr(fixed_cost, "once", once)
    assert fixed_cost.main(["--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["outside"] == 14 and got["each"] == [21, 7, 14] and got["repeats"] == 3 and got["arch"] == "resnet50"


def test_fixed_cost_says_why_a_run_ended(monkeypatch, tmp_path):
    from benchmarks import fixed_cost
    (dies := tmp_path/"python").write_text("#!/bin/sh\necho 'Illegal instruction' >&2; exit 132\n"); dies.chmod(0o755)
    monkeypatch.setattr(fixed_cost.sys, "executable", str(dies))
    with pytest.raises(SystemExit, match="ended with 132: Illegal instruction"): fixed_cost.once(fixed_cost.options([]), str(tmp_path))


def test_convolutions_is_of_jax_on_a_cpu(capsys, monkeypatch):
    "elsewhere one line says so; there every changed convolution of the network has its row"
    import importlib.util, os, subprocess, sys
    from benchmarks import convolutions
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "jax":
        with pytest.raises(SystemExit) as e: convolutions.main([])
        assert e.value.code == 2 and "set KERAS_BACKEND=jax" in capsys.readouterr().err
    with pytest.raises(SystemExit): convolutions.main(["--size", "16"])
    assert "at least 32 pixels, received 16" in capsys.readouterr().err
    if importlib.util.find_spec("jax") is None: pytest.skip("jax is not installed: the benchmark of convolutions did NOT run")
    p = subprocess.run([sys.executable, "-m", "benchmarks.convolutions", "--json", "--size", "32", "--batch", "2", "--repeats", "1"], env=dict(os.environ, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu"), capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    rows = json.loads(p.stdout)
    assert sum(r["count"] for r in rows) == 52 and {r["kernel"] for r in rows} == {1, 3} and all(r["ratio"] > 0 for r in rows), "all of ResNet50's but the first"


def test_a_difference_of_each_kind_between_two_checkouts_is_seen(tmp_path, capsys):
    "files byte for byte, records without their clock, weights by their arrays; a file of one side only"
    import h5py
    for side in ("before", "after"):
        for folder in ("figures/toy", "results/toy/records", "work/toy/weights"): (tmp_path/side/folder).mkdir(parents=True)
        (tmp_path/side/"figures"/"toy"/"a.csv").write_text("1\n")
        (tmp_path/side/"results"/"toy"/"records"/"r.json").write_text(json.dumps(dict(auc=.5, timing=dict(wall_s=len(side)))))
        with h5py.File(tmp_path/side/"work"/"toy"/"weights"/"w.h5", "w") as f: f["kernel"] = [1., 2.]
    sides = [str(tmp_path/"before"), str(tmp_path/"after")]
    assert same_results.main(sides) == 0, "only the clock differs"
    after = tmp_path/"after"
    (after/"figures"/"toy"/"a.csv").write_text("2\n")
    (after/"results"/"toy"/"records"/"r.json").write_text(json.dumps(dict(auc=.6, timing={})))
    with h5py.File(after/"work"/"toy"/"weights"/"w.h5", "w") as f: f["kernel"] = [1., 3.]
    (after/"figures"/"toy"/"b.csv").touch()
    assert same_results.main([*sides, "--allow", "figures/*"]) == 1
    said = capsys.readouterr().out
    for line in ("allowed  figures/toy/a.csv: bytes differ", "allowed  figures/toy/b.csv: only after", "DIFFERS  results/toy/records/r.json: 1 values differ, first auc",
                 "DIFFERS  work/toy/weights/w.h5: weights differ", "4 differ, 2 of them are not allowed to"):
        assert line in said, said


def test_forks_are_compared_only_where_both_ways_record_the_same(monkeypatch, capsys):
    from benchmarks import forks
    monkeypatch.setattr(forks, "adopt", lambda: None)
    monkeypatch.setattr(forks, "once", lambda how, o: dict(no=(9., 4., 8., ["a"]), each=(4., 2., 8., ["a"]), yes=(3., 1., 6., ["a"]))[how])
    forks.main(["--json"])
    assert json.loads(capsys.readouterr().out) == dict(
        fixed_no=9., fixed_each=4., fixed_yes=3., fixed_ratio=.33, cpu_no=4., cpu_each=2., cpu_yes=1., cpu_ratio=.25, wall_no=8., wall_each=8., wall_yes=6., wall_ratio=.75, runs=1, repeats=3)
    forks.main(["--ways", "each", "yes"])
    assert "4.0 each, 3.0 yes s; yes to each: 0.75" in capsys.readouterr().out
    monkeypatch.setattr(forks, "once", lambda how, o: (1., 1., 1., [how]))
    with pytest.raises(SystemExit, match="the records differ"): forks.main([])


def test_damages_are_many_and_a_fault_is_told_from_what_is_well(capsys):
    "at least 200, each with a name of its own; a table counts what came of them, and one fault is an exit code"
    from benchmarks import damage, damages
    todo = damages.trials(1)
    assert len({t[:2] for t in todo}) == len(todo) >= 200 and {"records", "weights", "image stores", "kills", "engine", "files of others"} <= {t[0] for t in todo}
    rows = [dict(kind="records", outcome="mended"), dict(kind="records", outcome="LOST"), dict(kind="kills", outcome="refused")]
    assert damage.table(rows).splitlines()[2:] == ["| records | 2 | 1 | 0 | 0 | 0 | 0 | 1 | 0 |", "| kills | 1 | 0 | 0 | 1 | 0 | 0 | 0 | 0 |", "| all | 3 | 1 | 0 | 1 | 0 | 0 | 1 | 0 |"]
    ended = lambda code, text: SimpleNamespace(code=code, text=text)
    for got in (ended(1, "Traceback (most recent call last):\nKeyError: 1"), ended(70, "x"), ended(-11, "")):
        with pytest.raises(damage.Fault) as e: damage.one_line(got)
        assert e.value.outcome == "TRACEBACK"
    for got in (ended(0, "done"), ended(2, "catscans: error: something")):
        with pytest.raises(damage.Fault, match="exit code 0|nothing names x.json") as e: damage.refused(got, "x.json")
        assert e.value.outcome == "WRONG"
    assert damage.refused(ended(2, "catscans: error: x.json is damaged"), "x.json") == "x.json is damaged"


def test_the_network_of_the_damages_trains_stops_and_goes_on_to_the_same_bits(tmp_path):
    "all that the benchmark stands on: what asks more of a trainer than this network has would end every one of its trials"
    import numpy as np
    from benchmarks.smallnet import trainer_class
    from catscans.core.grid import PROFILES
    from catscans.training.recipes import recipe_for
    from catscans.training.trainer import fit
    rng, y = np.random.default_rng(0), np.arange(48) % 3
    x = rng.integers(0, 256, (48, 16, 16, 3), dtype="uint8")
    small = trainer_class()(3, 16, recipe_for(PROFILES["toy"].recipe, "pretrain", "toy-dtd", "grouped"))
    stop = lambda e, epochs, log: (_ for _ in ()).throw(KeyboardInterrupt) if e == 1 else None
    train = lambda path, **how: fit(small, x, y, np.arange(40), seed=1, checkpoint=path, every=0, **how)
    losses, whole = [h["loss"] for h in train(tmp_path/"whole.npz")], small.weights()
    with pytest.raises(KeyboardInterrupt): train(tmp_path/"half.npz", on_epoch=stop)
    assert [h["loss"] for h in train(tmp_path/"half.npz")] == losses
    assert all((w == small.weights()[k]).all() for k, w in whole.items())


def test_the_committed_damages_ended_well():
    "at least 200 trials of today's list, of every kind, and none came to a fault"
    import csv
    from benchmarks import damage, damages
    with open(damage.ROOT/"benchmarks"/"damage.csv") as f: rows = list(csv.DictReader(f))
    tried, known = [(r["kind"], r["fault"]) for r in rows], {t[:2] for t in damages.trials(1)}
    assert 200 <= len(tried) == len(set(tried)) and set(tried) <= known and {k for k, _ in tried} == {k for k, _ in known}
    assert {r["outcome"] for r in rows} <= set(damage.GOOD)
