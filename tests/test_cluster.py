"""A sweep on a dask cluster: a real scheduler and workers on the loopback, one of them killed on the way."""

from __future__ import annotations

import os
import signal

import pytest
from sweeping import facts, job_in

from calibrate.candidates import grid
from calibrate.sweeper import Search, run_sweep

distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`: pip install qsim-tflite[cluster]")


@pytest.mark.filterwarnings("ignore")  # the libraries' own, on a worker's death
def test_a_worker_killed_on_the_way_changes_no_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    job = job_in(tmp_path, input_range=(0.0, 255.0))
    plan = grid({"activation": ["minmax", "mse", *(f"percentile:99.{k}" for k in range(10, 22))]}), Search(rounds=2, final=2, shortlist=20)
    alone = run_sweep(job, *plan)
    deaths = []

    def kill(count):
        if count.new == 4 and not deaths:
            deaths.append(os.kill(next(iter(cluster.workers.values())).process.process.pid, signal.SIGKILL))

    with distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1") as cluster:
        with distributed.Client(cluster) as client:
            found = run_sweep(job, *plan, pool=client.get_executor(), progress=kill)
    assert deaths and not found.count.failed and facts(found) == facts(alone)
