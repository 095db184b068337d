"""Seconds that a five-fold fine-tuning spends outside training steps: `python -m benchmarks.fixed_cost [--json] [--target toy-chest] [--profile toy] [--repeats N]`.

The whole ResNet50 is fine-tuned from random weights on five folds, two epochs each with a checkpoint between them, as `catscans run` does it, in a fresh process every time; the target's store
is there already, as in a study, where several runs share it. `outside` is everything between the start of the process and its end but for the training
steps: starting Python, importing, building, tracing, predicting the held-out images twice (as trained, and with BatchNorm's averages re-estimated), re-estimating,
hashing the weights, and writing. Executed as a notebook it also waits for a Jupyter kernel, which is not in it. The phases are those of every record.
A target of another profile needs its images (CATSCANS_DATA). The first process is not counted: it builds the store, fills the file system's cache and, on JAX, the compilation cache."""
import argparse, json, os, statistics, subprocess, sys, tempfile, time
from dataclasses import replace
from catscans.records.store import PHASES

OUTSIDE = tuple(k for k in PHASES if k != "step")

def child(o):
    "one run in this process: prints the phases of its record"
    from catscans.core.grid import PROFILES, Run
    from catscans.training.recipes import RECIPES
    from catscans.transfer.run import execute
    PROFILES[o.profile] = replace(PROFILES[o.profile], arch=o.arch, threads=o.threads)
    recipes = RECIPES[PROFILES[o.profile].recipe]["finetune"]
    recipes |= {k: replace(r, epochs=2) for k, r in recipes.items()}   # one checkpoint for each fold
    record = execute(Run("random", o.target, o.profile), show=None)
    timing, folds = (json.loads(record.read_text())[k] for k in ("timing", "folds"))
    print(json.dumps({k[:-2]: v for k, v in timing.items() if k[:-2] in PHASES} | dict(held_out=sum(f["n_test"] for f in folds))))

def once(o, work):
    "phases of one fresh process; `outside` is its whole time but the steps"
    with tempfile.TemporaryDirectory() as d:
        env = dict(os.environ, CATSCANS_PROJECT=d, CATSCANS_WORK=work, CATSCANS_THREADS=str(o.threads), TF_CPP_MIN_LOG_LEVEL="2", OMP_NUM_THREADS=str(o.threads))
        start = time.perf_counter()
        p = subprocess.run([sys.executable, "-m", "benchmarks.fixed_cost", "--child", "--profile", o.profile, "--target", o.target, "--threads", str(o.threads), "--arch", o.arch],
                           env=env, capture_output=True, text=True)
        wall = time.perf_counter()-start
    if p.returncode: sys.exit(f"benchmarks.fixed_cost: the run ended with {p.returncode}: {(p.stderr.strip().splitlines() or ['nothing was printed'])[-1]}")
    t = json.loads(p.stdout.strip().splitlines()[-1])
    outside = wall - t["step"]
    return {k: t[k] for k in OUTSIDE} | dict(other=outside - sum(t[k] for k in OUTSIDE), outside=outside, step=t["step"], held_out=t["held_out"])

def measure(o)->dict:
    "medians over the repeats, and every `outside`"
    from catscans.core.grid import get_profile
    with tempfile.TemporaryDirectory() as work: _, *runs = [once(o, work) for _ in range(o.repeats+1)]
    return dict(target=o.target, backend=os.environ.get("KERAS_BACKEND", "tensorflow"), arch=o.arch, size=get_profile(o.profile).size, threads=o.threads, repeats=o.repeats,
                each=[round(r["outside"], 1) for r in runs]) | {k: round(statistics.median(r[k] for r in runs), 2) for k in runs[0]}

def options(argv=None):
    p = argparse.ArgumentParser(prog="python -m benchmarks.fixed_cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", action="store_true"); p.add_argument("--profile", default="toy"); p.add_argument("--target", default="toy-chest")
    p.add_argument("--arch", default="resnet50"); p.add_argument("--threads", type=int, default=4); p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    o = p.parse_args(argv)
    if o.repeats < 1 or o.threads < 1: p.error("--repeats and --threads must be at least 1")
    from catscans.core.grid import PROFILES
    if o.profile not in PROFILES or PROFILES[o.profile].size is None: p.error(f"--profile: received {o.profile!r}, allowed are {', '.join(k for k, v in PROFILES.items() if v.size)}")
    return o

def main(argv=None)->int:
    o = options(argv)
    if o.child: child(o); return 0
    r = measure(o)
    if o.json: print(json.dumps(r)); return 0
    print(f"{r['arch']}, {r['size']} px, five folds of {r['target']} ({r['held_out']:.0f} held-out images), {r['backend']}, {r['threads']} threads; medians of {r['repeats']} processes, seconds")
    for k in (*OUTSIDE, "other"): print(f"  {k:12s}{r[k]:8.1f}")
    print(f"  {'outside':12s}{r['outside']:8.1f}   each: {', '.join(map(str, r['each']))}\n  training steps {r['step']:.1f}, not counted")
    return 0

if __name__ == "__main__": sys.exit(main())
