"""Do two checkouts give the same results? `python -m benchmarks.same_results BEFORE AFTER [--allow FILE ...]`.

Both must have run `make paper`. Compared are, byte for byte, all files under figures/ and results/ that are not records; records value by value (images', folds' and weights'
fingerprints, metrics, predictions), time and energy aside; and the weights of pretrained sources by their arrays. Prints what differs; exit code 1 where something does that is not
allowed by name."""
import argparse, fnmatch, hashlib, json, sys
from pathlib import Path

import h5py
import numpy as np

from catscans.records.store import differences


def record_differs(a, b):
    "names of the first values in which two records differ"
    return differences(*(json.loads(p.read_text()) for p in (a, b)))


def arrays(path):
    "hash of each array of a weights file"
    out = {}
    with h5py.File(path) as f:
        f.visititems(lambda name, o: out.update({name: hashlib.sha256(np.asarray(o).tobytes()).hexdigest()}) if isinstance(o, h5py.Dataset) else None)
    return out


def files(root):
    "what is compared: path relative to the checkout -> path"
    found = [p for d in ("figures", "results", "work/toy/weights") for p in (root/d).rglob("*") if p.is_file()]
    return {p.relative_to(root).as_posix(): p for p in found}


def difference(a, b):
    "why two files are not the same; empty where they are"
    if a.parent.name == "records" and a.suffix == ".json":
        where = record_differs(a, b)
        return f"{len(where)} values differ, first {', '.join(where[:3])}" if where else ""
    if a.suffix == ".h5": return "" if arrays(a) == arrays(b) else "weights differ"
    return "" if a.read_bytes() == b.read_bytes() else "bytes differ"


def compare(before, after, allow=()):
    "[(file, what differs, whether that is allowed)]"
    a, b = files(before), files(after)
    out = [(f, "only before" if f in a else "only after") for f in sorted(a.keys() ^ b.keys())]
    out += [(f, why) for f in sorted(a.keys() & b.keys()) if (why := difference(a[f], b[f]))]
    return [(f, why, any(fnmatch.fnmatch(f, p) for p in allow)) for f, why in out]


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m benchmarks.same_results", description=__doc__.splitlines()[0])
    p.add_argument("before", type=Path)
    p.add_argument("after", type=Path)
    p.add_argument("--allow", nargs="*", default=[], help="files that may differ, with * for any letters")
    a = p.parse_args(argv)
    for root in (a.before, a.after):
        if not (root/"figures").is_dir(): p.error(f"{root} holds no figures/: name a checkout in which make paper has run")
    rows = compare(a.before, a.after, a.allow)
    for f, why, allowed in rows: print(f"{'allowed ' if allowed else 'DIFFERS '} {f}: {why}")
    print(f"{len(files(a.before))} files before, {len(files(a.after))} after: {len(rows)} differ, {sum(not r[2] for r in rows)} of them are not allowed to")
    return int(any(not r[2] for r in rows))


if __name__ == "__main__": sys.exit(main())
