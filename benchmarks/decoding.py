"""Images per second from JPEG files to batches: `python -m benchmarks.decoding [--json] [--images N] [--repeats N]`.

600x450 JPEGs, made up, are brought to 112x112 by the image store and by Keras' `flow_from_dataframe`, in turn, in one process and on the same cores. Keras
reads one file after the other, which is what its generator does unless `fit` is told otherwise; the rows named "workers" give it as many threads as the store
has. The store decodes to drafts, its default, and once fully. Keras decodes again in every epoch; the store's second epoch is read from the memory map, as
batches of the same size in the same kind of random order. Ratios compare the medians of the repeats. CPU time is that of all threads of the process: where the
machine has other work it says more than the clock. The files are in the cache of the file system: what is measured is work, not the disk."""
import argparse, json, os, statistics, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np

SIZE, BATCH = 112, 128
PAPER = dict(rotation_range=10, width_shift_range=.1, height_shift_range=.1, horizontal_flip=True)   # the augmentation of the paper's code

def photo(rng):
    "A 600x450 picture with structure at every scale, like a photograph's spectrum."
    from PIL import Image
    a = np.zeros((450, 600, 3))
    for cell, weight in ((150, .35), (40, .3), (12, .2), (4, .1), (1, .05)):
        small = rng.integers(0, 256, (450//cell + 1, 600//cell + 1, 3), np.uint8)
        a += weight*np.asarray(Image.fromarray(small).resize((600, 450), Image.Resampling.BICUBIC))
    return Image.fromarray(a.clip(0, 255).astype(np.uint8))

def make(folder, n, rng):
    "A frame of n JPEG files, every tenth of them made anew, the others copies: decoding cannot tell."
    import pandas as pd
    for i in range(n):
        f = Path(folder)/f"{i:05d}.jpg"
        if i % 10 == 0: photo(rng).save(f, quality=90); made = f.read_bytes()
        else: f.write_bytes(made)
    return pd.DataFrame(dict(path=[f"{i:05d}.jpg" for i in range(n)], label=[("a", "b")[i % 2] for i in range(n)]))

def listing(folder, frame):
    from catscans.datasets.images import Listing
    files = [Path(folder)/p for p in frame.path]
    return Listing("benchmark", files, (frame.label == "b").to_numpy(np.int64), ["a", "b"], list(frame.path), [(f.stat().st_size, f.stat().st_mtime_ns) for f in files])

def methods(folder, frame, workers):
    "name -> function that brings every image to 112 x 112 once."
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from keras.src.legacy.preprocessing.image import ImageDataGenerator
    from catscans.datasets.store import build, open_store
    li = listing(folder, frame)
    def flow(**kw):
        return ImageDataGenerator(**kw).flow_from_dataframe(frame, folder, x_col="path", y_col="label", target_size=(SIZE, SIZE), class_mode="categorical", batch_size=BATCH, shuffle=True, seed=1)
    def keras(n, **kw):
        gen = flow(**kw)
        def epoch():
            if n == 1: return sum(len(gen[i][0]) for i in range(len(gen)))
            with ThreadPoolExecutor(n) as ex: return sum(ex.map(lambda i: len(gen[i][0]), range(len(gen))))
        return epoch
    def store(n, resample="draft"):
        with tempfile.TemporaryDirectory() as d: return len(build(li, SIZE, resample, workers=n, root=d))
    kept = Path(tempfile.mkdtemp(dir=folder)); build(li, SIZE, root=kept)
    x = open_store(next(p for p in kept.iterdir() if p.is_dir())).x
    def second(dtype):
        order = np.random.default_rng(1).permutation(len(x))
        return sum(len(x[np.sort(order[i:i+BATCH])].astype(dtype, copy=False)) for i in range(0, len(x), BATCH))
    many = f"{workers} workers"
    return {"keras": keras(1), f"keras, {many}": keras(workers), "keras, augmented": keras(1, **PAPER), f"keras, augmented, {many}": keras(workers, **PAPER),
            "store, 1 worker": lambda: store(1), f"store, {many}": lambda: store(workers), f"store, decoded fully, {many}": lambda: store(workers, "bilinear"),
            "second epoch, uint8": lambda: second(np.uint8), "second epoch, float32": lambda: second(np.float32)}

def measure(n, repeats, workers):
    times, cpu = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        frame = make(folder, n, np.random.default_rng(0))
        todo = methods(folder, frame, workers)
        for i in range(repeats + 1):                     # in turn; the first round warms up and does not count
            for name, f in todo.items():
                start, used = time.perf_counter(), time.process_time(); done = f(); seconds, used = time.perf_counter() - start, time.process_time() - used
                if done != n: raise SystemExit(f"{name} gave {done} of {n} images")
                if i: times.setdefault(name, []).append(seconds); cpu.setdefault(name, []).append(1000*used/n)
    per_s = {k: n/statistics.median(t) for k, t in times.items()}
    return [dict(what=k, images_per_s=round(per_s[k], 1), slowest=round(n/max(t), 1), fastest=round(n/min(t), 1), cpu_ms=round(statistics.median(cpu[k]), 3), to_keras=round(per_s[k]/per_s["keras"], 2),
                 to_keras_workers=round(per_s[k]/per_s[f"keras, {workers} workers"], 2), to_keras_augmented=round(per_s[k]/per_s["keras, augmented"], 2),
                 repeats=repeats, images=n, workers=workers) for k, t in times.items()]

def main(argv=None):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    p = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__.splitlines()[0])
    p.add_argument("--json", action="store_true"); p.add_argument("--images", type=int, default=512)
    p.add_argument("--repeats", type=int, default=5); p.add_argument("--workers", type=int, default=cores)
    a = p.parse_args(argv)
    rows = measure(a.images, a.repeats, a.workers)
    if a.json: return print(json.dumps(rows, indent=1))
    load = f"; load when it ended {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{a.images} JPEGs of 600x450 to {SIZE}x{SIZE}, {a.repeats} rounds in turn, {cores} cores{load}\n{'':30}{'images/s':>9}{'':18}{'CPU ms':>8}{'times keras':>13}{'keras,':>9}{'keras,':>11}"
          f"\n{'':30}{'median':>9}{'range':>18}{'/image':>8}{'one thread':>13}{'workers':>9}{'augmented':>11}")
    for r in rows: print(f"{r['what']:30}{r['images_per_s']:9.0f}{r['slowest']:8.0f} to {r['fastest']:6.0f}{r['cpu_ms']:8.2f}{r['to_keras']:13.2f}{r['to_keras_workers']:9.2f}{r['to_keras_augmented']:11.2f}")

if __name__ == "__main__": main()
