"""Runs in MLflow's database: only where `CATSCANS_TRACK` says, without a server, and never in the way of the record."""
import importlib.util, os, sqlite3

import pytest

from catscans.core.basics import UserError, hearing
from catscans.core.grid import Run
from catscans.records.examples import example_record
from catscans.transfer import run as transfer_run, tracking


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    monkeypatch.setenv("CATSCANS_TRACK", "mlflow")
    return tmp_path


def test_without_its_libraries_a_run_is_refused_before_it_trains(project, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    reached = []
    monkeypatch.setattr(transfer_run, "_Clock", lambda: reached.append(1))
    with pytest.raises(UserError, match=r"CATSCANS_TRACK=mlflow needs mlflow.*catscans\[track\]"):
        transfer_run.execute(Run("dtd", "isic2018", "toy"))
    assert not reached


def test_what_goes_wrong_with_it_is_one_note(project, monkeypatch):
    monkeypatch.setattr(tracking, "tracker", lambda: "mlflow")
    def fails(*_): raise OSError("no space left")
    monkeypatch.setattr(tracking, "_log", fails)
    with hearing() as said: tracking.track(example_record(Run("dtd", "isic2018", "toy")))
    assert len(said) == 1 and "no space left" in said[0] and "its record is written" in said[0]


@pytest.mark.slow(15)
def test_the_database_holds_what_the_record_says(project):
    for m in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(m, reason=f"TRACKING IS NOT TESTED: {m} is not installed, pip install '.[track]'")
    rec, kept = example_record(Run("dtd", "isic2018", "toy")), project/"network.h5"
    kept.write_bytes(b"weights")
    tracking.track(rec, (kept, project/"absent.h5"))
    db = sqlite3.connect(project/"mlflow"/"runs.db")
    ask = lambda what: db.execute(what).fetchall()
    assert ask("select name from runs") == [(rec["slug"],)] and ask("select status from runs") == [("FINISHED",)]
    assert ("toy",) in ask("select name from experiments")
    assert sorted(ask("select key, value, step from metrics")) == sorted(tracking.numbers(rec))
    assert dict(ask("select key, value from params"))["source"] == "dtd"
    assert dict(ask("select key, value from tags"))["energy is"] == rec["timing"]["energy_mode"]
    assert [p.read_bytes() for p in (project/"mlflow"/"files").rglob("network.h5")] == [b"weights"]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
