"""Seconds before the first answer: `python -m benchmarks.cli [--json] [--repeats N]`.

Each command runs in a fresh process, all of them in turn, and the median of the repeats is set beside the limit that the project
has promised. Ratios below 1 keep the promise. Caches of the file system are warm: the first round is not counted."""
import argparse, json, os, statistics, subprocess, sys, time

CLI = ["-c", "import sys; from catscans.study import main; sys.exit(main(sys.argv[1:]))"]
LIMITS = {  # what -> (arguments of python, seconds promised)
    "from catscans.datasets import load": (["-c", "from catscans.datasets import load"], .4),
    "from catscans.models import resnet50": (["-c", "from catscans.models import resnet50"], 2),
    "catscans audit --json": ([*CLI, "audit", "--json"], 2),
    "catscans status": ([*CLI, "status"], .5),
    "catscans run, nothing to do": ([*CLI, "run", "--profile", "published"], 5),
    "catscans --help": ([*CLI, "--help"], .5),
}

def seconds(args):
    start = time.perf_counter()
    p = subprocess.run([sys.executable, *args], capture_output=True, text=True)
    if p.returncode: raise SystemExit(f"{' '.join(args)} failed: {p.stderr.strip()}")
    return time.perf_counter() - start

def measure(repeats):
    times = {what: [] for what in LIMITS}
    for i in range(repeats + 1):
        for what, (args, _) in LIMITS.items():
            s = seconds(args)
            if i: times[what].append(s)
    return [dict(what=w, seconds=round(statistics.median(t), 3), fastest=round(min(t), 3), slowest=round(max(t), 3), limit=LIMITS[w][1],
                 ratio=round(statistics.median(t)/LIMITS[w][1], 3), repeats=repeats) for w, t in times.items()]

def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m benchmarks.cli", description=__doc__.splitlines()[0])
    p.add_argument("--json", action="store_true"); p.add_argument("--repeats", type=int, default=7)
    a = p.parse_args(argv)
    rows = measure(a.repeats)
    if a.json: return print(json.dumps(rows, indent=1))
    print(f"{'':38}{'median s':>10}{'range':>16}{'limit s':>9}{'ratio':>8}   ({a.repeats} runs each, in turn, on {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores)")
    for r in rows: print(f"{r['what']:38}{r['seconds']:10.2f}{r['fastest']:8.2f} to {r['slowest']:4.2f}{r['limit']:9}{r['ratio']:8.2f}")

if __name__ == "__main__": main()
