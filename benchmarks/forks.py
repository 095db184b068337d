"""What a small study costs outside training steps, and what shared processes save:
`python -m benchmarks.forks [--json] [--repeats N] [--ways WAY ...] [--source S ...] [--target T ...] [--jobs N]`.

The same runs of `toy` go through `catscans run` in turn, each time in a fresh project, in up to three ways (values of CATSCANS_FORKS): `no`, a Python
of its own for every notebook; `each`, a fork for every notebook of one process that has imported everything; `yes`, forks that do one notebook after
another. Fixed is what the records say was spent outside training steps, in processor seconds: they do not depend on what else the machine does. Beside
it stand the processor seconds of all processes, imports and figures included, and wall seconds. Weights and predictions must be the same bits."""
import argparse, ctypes, json, os, resource, shutil, statistics, subprocess, sys, tempfile, time
from contextlib import suppress
from pathlib import Path
import nbformat
from catscans.records.frames import fixed_cost

ROOT = Path(__file__).resolve().parents[1]
WHAT = ("fixed", "cpu", "wall")
WAYS = ("no", "each", "yes")    # of CATSCANS_FORKS
# put before the first line of a notebook: its record then holds processor seconds
COUNTED = """
import time as _t
from types import SimpleNamespace as _n
from catscans.training import engines as _e, trainer as _f
from catscans.transfer import run as _r
_e.time = _f.time = _r.time = _n(time=_t.process_time, perf_counter=_t.process_time)
"""

def project(folder):
    "a copy of what a run needs"
    for part in ("nbs/paper", "workflow"): shutil.copytree(ROOT/part, folder/part)
    shutil.copy(ROOT/"settings.ini", folder)
    for name in ("pretrain", "finetune"): counted(folder/"nbs"/"paper"/f"{name}.ipynb")
    return folder

def counted(path):
    "have a notebook count processor seconds"
    nb = nbformat.read(path, 4)
    run = next(c for c in nb.cells if "execute(" in c.source)
    run.source = COUNTED + run.source
    nbformat.write(nb, path)

def adopt():
    "processes whose parent has ended become this one's, so that their seconds are counted (Linux)"
    ctypes.CDLL(None).prctl(36, 1)      # PR_SET_CHILD_SUBREAPER

def cpu():
    "processor seconds of all processes that this one has started or adopted; waits for their end"
    with suppress(ChildProcessError):
        while True: os.wait()
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime

def records(folder): return [json.loads(f.read_text()) for f in sorted((folder/"results"/"toy"/"records").glob("*.json")) if not f.name.startswith("similarity")]

def told(recs):
    "all that records say but for times"
    return [{k: v for k, v in r.items() if k not in ("timing", "history", "checksum")} | dict(history=[{k: v for k, v in h.items() if k != "seconds"} for h in r["history"]]) for r in recs]

def once(forks, o):
    "(seconds outside steps, processor seconds, wall seconds, what the records say) of one run"
    with tempfile.TemporaryDirectory() as d:
        env = dict(os.environ, CATSCANS_PROJECT=str(project(Path(d))), CATSCANS_WORK=f"{d}/work", CATSCANS_FORKS=forks, PYTHONPATH=str(ROOT))
        before, start = cpu(), time.perf_counter()
        args = ["run", "--profile", "toy", "--source", *o.source, "--target", *o.target, "--jobs", str(o.jobs)]
        p = subprocess.run([sys.executable, "-c", "import sys; from catscans.study import main; sys.exit(main())", *args], env=env, cwd=d, capture_output=True, text=True)
        if p.returncode: sys.exit(f"benchmarks.forks: the run ended with {p.returncode}: {p.stderr.strip()}")
        wall, recs = time.perf_counter() - start, records(Path(d))
        return fixed_cost(recs)["fixed"], cpu() - before, wall, told(recs)

def measure(o)->dict:
    "medians over the repeats, and their ratios to the first way"
    runs = {way: [] for way in o.ways}
    for _ in range(o.repeats):
        for way, done in runs.items(): done.append(once(way, o))
    if any(r[3] != runs[o.ways[0]][0][3] for done in runs.values() for r in done): sys.exit("benchmarks.forks: the records differ")
    middle = {way: [statistics.median(r[i] for r in done) for i in range(3)] for way, done in runs.items()}
    out = {f"{what}_{way}": round(v, 1) for way, row in middle.items() for what, v in zip(WHAT, row)}
    first, last = middle[o.ways[0]], middle[o.ways[-1]]
    return out | {f"{what}_ratio": round(b/a, 2) for what, a, b in zip(WHAT, first, last)} | dict(runs=len(runs[o.ways[0]][0][3]), repeats=o.repeats)

def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m benchmarks.forks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", action="store_true")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    p.add_argument("--source", nargs="+", default=["dtd", "random"])
    p.add_argument("--target", nargs="+", default=["chest", "pcam-middle"])
    p.add_argument("--jobs", type=int, default=2)
    o = p.parse_args(argv)
    if o.repeats < 1 or o.jobs < 1: p.error("--repeats and --jobs must be at least 1")
    if len(o.ways) < 2 or len(set(o.ways)) < len(o.ways): p.error("--ways: name two or three that differ; the first is what the last is compared with")
    adopt()
    r = measure(o)
    if o.json: return print(json.dumps(r))
    for what, unit in zip(WHAT, ("outside training steps", "processor, all in all", "wall")):
        said = ", ".join(f"{r[f'{what}_{way}']:.1f} {way}" for way in o.ways)
        print(f"{unit:>22}: {said} s; {o.ways[-1]} to {o.ways[0]}: {r[f'{what}_ratio']:.2f}")
    print(f"{r['runs']} runs of toy, CATSCANS_FORKS={', '.join(o.ways)}; medians of {r['repeats']}; the same bits in every record")

if __name__ == "__main__": main()
