"Every module notebook runs: its examples are its tests."
import os, subprocess, sys
from pathlib import Path

from fakes import ROOT


def test_all_notebooks_run():
    env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
    p = subprocess.run([Path(sys.executable).parent/"nbdev-test", "--n-workers", "2"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert p.returncode == 0, (p.stdout + p.stderr)[-6000:]
