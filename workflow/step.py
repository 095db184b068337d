"""One step of the workflow: asked of the fork server where there is one, otherwise run here.

Started as `python -IS step.py REQUEST SLUG KIND` by the Snakefile; imports nothing of the package, so that it costs nothing."""
import json, os, socket, sys

def asked(name, step, kind):
    "exit code of the step that a fork of the server has done; None where there was none for it"
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"\0{name}")
        s.sendall(json.dumps(dict(step=step, kind=kind)).encode() + b"\n")
        said = s.makefile().read().split()
    if said[:1] != ["forked"]: return None
    return int(said[1]) if said[1:] else 1      # killed: its marker still says that it runs

def main(step, kind="alone"):
    if name := os.environ.get("CATSCANS_FORKSERVER"):
        try: code = asked(name, step, kind)
        except OSError: code = None             # the server ended while it imported
        if code is not None: sys.exit(code)
    here = "import sys; from catscans.study.notebooks import job; sys.exit(job())"
    os.execv(sys.executable, [sys.executable, "-c", here, *step])

if __name__ == "__main__": main(sys.argv[1:3], *sys.argv[3:])
