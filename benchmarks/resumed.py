"""Does every network and every strategy end in the same bits when it is killed on its way? `python -m benchmarks.resumed [--cases NAME ...] [--kills 2]`.

A case is one run of the profile toy with another network, or with another strategy. It is executed once undisturbed and once killed (kill -9) at random
moments after its first checkpoint, then taken up again. Compared: weights of each fold, predictions, and the whole record but for time and energy. Each row is written as
it is done; the same command goes on. Not part of the tests: they do it for three cases."""
import argparse, csv, os, random, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ("resnet50", "densenet121", "efficientnet-b0", "efficientnet-lite0", "mobilenetv3-small", "squeezenet", "cbr-larget", "cbr-largew", "cbr-small", "cbr-tiny")
SMALL, SOURCE, TARGET = "cbr-tiny", "toy-dtd", "toy-chest"
# strategy -> (network, source)
STRATEGIES = {"": (SMALL, SOURCE), "features": (SMALL, SOURCE), "frozen1": (SMALL, SOURCE), "truncated-block2": (SMALL, SOURCE), "again2": (SMALL, SOURCE),
              "via-toy-stl10": (SMALL, SOURCE), "double": ("efficientnet-lite0", SOURCE), "double+features": ("efficientnet-lite0", SOURCE)}
COLUMNS = ("case", "network", "strategy", "kills", "same_weights", "same_predictions", "same_record", "seconds")
EXECUTE = """
from dataclasses import replace
from catscans.core import grid
from catscans.core.grid import Run, runs
from catscans.transfer.run import execute
grid.PROFILES["toy"] = replace(grid.get_profile("toy"), arch={network!r})
last = Run({source!r}, {target!r}, "toy", strategy={strategy!r})
todo, chain = [last], last.pretraining if {source!r} != "random" else None
while chain is not None: todo, chain = [chain, *todo], chain.before if chain.before is None or chain.before.source != "imagenet" else None
for r in todo:
    if not r.record.exists(): execute(r, show=lambda s: None)
"""


def cases():
    "name -> (network, source, strategy)"
    return {f"network {n}": (n, "random", "") for n in NETWORKS} | {f"strategy {s or 'finetune'}": (n, source, s) for s, (n, source) in STRATEGIES.items()}


def start(folder, network, source, strategy):
    "the process of a case in a project folder"
    (folder/"nbs").mkdir(parents=True, exist_ok=True)
    (folder/"settings.ini").touch()
    env = {k: v for k, v in os.environ.items() if not k.startswith("CATSCANS_")}
    env |= dict(CATSCANS_PROJECT=str(folder), PYTHONPATH=str(ROOT), TF_CPP_MIN_LOG_LEVEL="3", CATSCANS_CHECKPOINT_EVERY="0")
    code = EXECUTE.format(network=network, source=source, target=TARGET, strategy=strategy)
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def whole(p):
    "wait for the end of a process that must end well"
    said = p.communicate()[1]
    if p.returncode: raise RuntimeError(said.decode()[-2000:])


def kill_on_the_way(folder, case, kills, rng):
    "so many kills, each after one more file of progress has been seen; how many met a living process"
    done = 0
    for wanted in range(1, kills + 1):
        p, end = start(folder, *case), time.time() + 600
        progress = lambda: len([f for f in (folder/"work").rglob("*") if f.is_file() and "checkpoints" in f.parts]) + len(list((folder/"work").rglob("*.weights.h5")))
        while p.poll() is None and time.time() < end and progress() < wanted: time.sleep(.02)
        time.sleep(rng.uniform(0, .5))
        if p.poll() is None: p.send_signal(signal.SIGKILL); done += 1
        p.communicate()
    return done


def record_in(folder):
    from catscans.records import store
    return store.read(next((folder/"results"/"toy"/"records").glob("finetune-*.json")))


def row(name, case, kills, rng):
    import numpy as np
    from catscans.records import store
    began, at = time.time(), Path(tempfile.mkdtemp(prefix="resumed-"))
    try:
        whole(start(at/"a", *case))
        done = kill_on_the_way(at/"b", case, kills, rng)
        whole(start(at/"b", *case))
        a, b = record_in(at/"a"), record_in(at/"b")
        sha = lambda r: [f.get("weights_sha256") for f in r["folds"]]
        return dict(case=name, network=case[0], strategy=case[2] or "finetune", kills=done, same_weights=sha(a) == sha(b), seconds=round(time.time() - began),
                    same_predictions=bool(np.array_equal(store.predictions(a).p, store.predictions(b).p)), same_record=store.equal(a, b))
    finally: shutil.rmtree(at, ignore_errors=True)


def read_rows(path):
    if not Path(path).exists(): return []
    with open(path, newline="") as f: return list(csv.DictReader(f))


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m benchmarks.resumed", description=__doc__.splitlines()[0])
    p.add_argument("--cases", nargs="+", choices=cases(), default=list(cases())); p.add_argument("--kills", type=int, default=2)
    p.add_argument("--seed", type=int, default=0); p.add_argument("--out", default=Path(__file__).with_suffix(".csv"))
    a = p.parse_args(argv)
    done, rng = {r["case"] for r in read_rows(a.out)}, random.Random(a.seed)
    with open(a.out, "a", newline="") as f:
        w = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        if not f.tell(): w.writeheader()
        for name in a.cases:
            if name not in done: w.writerow(row(name, cases()[name], a.kills, rng)); f.flush()
    rows = read_rows(a.out)
    print(f"{len(rows)} cases, {sum(int(r['kills']) for r in rows)} kills; not the same: "
          + (", ".join(r["case"] for r in rows if "False" in (r["same_weights"], r["same_predictions"], r["same_record"])) or "none"))


if __name__ == "__main__": main()
