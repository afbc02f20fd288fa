"""The work on a cluster of several machines, one of which is lost half-way.

Machines are stood in for by Ray nodes on this one: each has a scheduler, an object store and workers of its own, and
nothing but the network between them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pmtlib import cluster, pipeline
from tests import photographs
from tests.test_cluster import CONFIG, job, meanwhile, optimisers, same
from tests.test_pipeline import digests

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'pmtlib[ray]'")
pq = pytest.importorskip("pyarrow.parquet")
PHOTOGRAPHS = 10


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A head that computes nothing, and two nodes with two processors each, real or not."""
    from ray.cluster_utils import Cluster

    # A node that says nothing for some seconds is lost; Ray waits for half a minute otherwise.
    settings = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 5}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": settings})
    workers = [made.add_node(num_cpus=2) for _ in range(2)]
    path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])
    variables = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    try:
        ray.init(address=made.address, log_to_driver=False, runtime_env={"env_vars": variables})
        made.lose = functools.partial(_lose, made, workers)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def _lose(cluster: Any, workers: list[Any]) -> bool:
    """Lose a node on which images are being optimised; False where there is none yet."""
    schedulers = {info.process.pid: node for node in workers for info in node.all_processes.get("raylet", [])}
    for process in optimisers():
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
            if parent in schedulers:
                cluster.remove_node(schedulers[parent], allow_graceful=False)
                return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").is_file(), reason="several nodes on one machine need Linux")
def test_a_lost_machine_costs_nothing(nodes: Any, tmp_path: Path) -> None:
    photographs.ready()
    for number in range(PHOTOGRAPHS):
        photographs.portrait(tmp_path / "in" / f"{number}.png", brightness=1 - number / 20)
    # Enough steps for a machine to be lost at work.
    config = CONFIG.model_copy(update={"steps": 30})
    whole = pipeline.run(job(tmp_path, "whole", config=config), show=False)
    out, lost = tmp_path / "far", threading.Event()
    out.mkdir()

    def lose() -> bool:
        if len(list(out.glob("*.png"))) > 1 and nodes.lose():
            lost.set()
        return lost.is_set()

    with meanwhile(lose):
        address = (tmp_path / "in").as_uri()
        summary = cluster.run(job(tmp_path, "far", config=config), [address], out.as_uri(), show=False)
    assert lost.is_set()
    assert sorted(node["Alive"] for node in ray.nodes()) == [False, True, True]
    assert (summary.photographs, summary.done, summary.failed) == (PHOTOGRAPHS, PHOTOGRAPHS, 0)
    made = {name: digest for name, digest in digests(out).items() if name.endswith(".png")}
    assert made == {name: digest for name, digest in digests(tmp_path / "whole").items() if name.endswith(".png")}
    by_input = {row.input: same(row) for row in whole.rows}
    assert {row.input: same(row) for row in summary.rows} == by_input
    assert len(summary.rows) == PHOTOGRAPHS
