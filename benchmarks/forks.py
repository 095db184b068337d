"""What a small study costs with and without the fork server: `python -m benchmarks.forks [--json] [--repeats N] [--source S ...] [--target T ...]`.

The same runs of `toy` go through `catscans run` in turn, each time in a fresh project: with a Python of its own for every notebook
(CATSCANS_FORKS=no), and as forks of one process that has imported everything. Processor seconds of all processes are compared
(they do not depend on what else the machine does), and wall seconds (they do). Weights and predictions must be the same bits."""
import argparse, ctypes, json, os, resource, shutil, statistics, subprocess, sys, tempfile, time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

def project(folder):
    "a copy of what a run needs"
    for part in ("nbs/paper", "workflow"): shutil.copytree(ROOT/part, folder/part)
    shutil.copy(ROOT/"settings.ini", folder)
    return folder

def adopt():
    "processes whose parent has ended become this one's, so that their seconds are counted (Linux)"
    ctypes.CDLL(None).prctl(36, 1)      # PR_SET_CHILD_SUBREAPER

def cpu():
    "processor seconds of all processes that this one has started or adopted; waits for their end"
    with suppress(ChildProcessError):
        while True: os.wait()
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime

def told(folder):
    "what the records say that must not depend on how they were made"
    recs = [json.loads(f.read_text()) for f in sorted((folder/"results"/"toy"/"records").glob("*.json"))]
    return [(r["slug"], r["metrics"], r["predictions"], r["folds"]) for r in recs]

def once(forks, o):
    "(processor seconds, wall seconds, what the records say) of one run"
    with tempfile.TemporaryDirectory() as d:
        env = dict(os.environ, CATSCANS_PROJECT=str(project(Path(d))), CATSCANS_WORK=f"{d}/work", CATSCANS_FORKS=forks, PYTHONPATH=str(ROOT))
        before, start = cpu(), time.perf_counter()
        args = ["run", "--profile", "toy", "--source", *o.source, "--target", *o.target]
        p = subprocess.run([sys.executable, "-c", "import sys; from catscans.study import main; sys.exit(main())", *args], env=env, cwd=d, capture_output=True, text=True)
        if p.returncode: sys.exit(f"benchmarks.forks: the run ended with {p.returncode}: {p.stderr.strip()}")
        return cpu() - before, time.perf_counter() - start, told(Path(d))

def measure(o)->dict:
    "medians over the repeats, and their ratios"
    runs = {"no": [], "yes": []}
    for _ in range(o.repeats):
        for forks, done in runs.items(): done.append(once(forks, o))
    if any(r[2] != runs["no"][0][2] for done in runs.values() for r in done): sys.exit("benchmarks.forks: the records differ")
    out = {f"{what}_{name}": round(statistics.median(r[i] for r in runs[key]), 1)
           for key, name in (("no", "alone"), ("yes", "forks")) for i, what in enumerate(("cpu", "wall"))}
    return out | {f"{what}_ratio": round(out[f"{what}_forks"]/out[f"{what}_alone"], 2) for what in ("cpu", "wall")} | dict(repeats=o.repeats)

def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m benchmarks.forks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", action="store_true")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--source", nargs="+", default=["dtd", "random"])
    p.add_argument("--target", nargs="+", default=["chest", "pcam-middle"])
    o = p.parse_args(argv)
    if o.repeats < 1: p.error("--repeats must be at least 1")
    adopt()
    r = measure(o)
    if o.json: return print(json.dumps(r))
    for what, unit in (("cpu", "processor"), ("wall", "wall")):
        print(f"{unit:>10} seconds: {r[f'{what}_alone']:6.1f} each notebook alone, {r[f'{what}_forks']:6.1f} as forks, ratio {r[f'{what}_ratio']:.2f}")
    print(f"medians of {r['repeats']} runs each, in turn; the same bits in every record")

if __name__ == "__main__": main()
