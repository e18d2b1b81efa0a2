"""benchmark/run.py on a Ray cluster of two nodes, of which one is killed (needs ray[default])."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.tiny import ROOT

pytest.importorskip("ray")
SHORT = "bc.py --total-timesteps 1200 --eval-frequency 100 --demo-episodes 3"
CELLS = {f"c{i}": f"{SHORT} --eval-episodes {i + 1}" for i in range(4)}


def wait_for(what, seconds=240):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.5)


def start_node(*options):
    """A node of one core. Its processes are children of this one and end with it."""
    argv = [Path(sys.executable).with_name("ray"), "start", "--block", "--num-cpus=1", *options]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processes(word):
    """The ids of the processes whose command line has this word."""
    argv = ["pgrep", "-f", "--", word]
    found = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False).stdout
    return [int(pid) for pid in found.split() if int(pid) != os.getpid()]


def raylet(node):
    """The id of the process that is Ray on this node, once it runs."""
    children = f"/proc/{node.pid}/task/{node.pid}/children"

    def found():
        pids = Path(children).read_text().split()
        words = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in pids}
        return [int(pid) for pid, line in words.items() if "raylet/raylet" in line.split("\0")[0]]

    wait_for(found)
    return found()[0]


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one core each; the port of the first, and the raylet of the second."""
    # where it writes down which Ray is running; under /tmp, for a socket's path must be short
    folder = tempfile.TemporaryDirectory(dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder.name)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    try:
        head = ["--head", f"--port={port}", "--include-dashboard=false"]
        nodes.append(start_node(*head, "--node-ip-address=127.0.0.1"))
        raylet(nodes[0])
        # with an address of its own, so that run.py joins the first; and with a folder of its own,
        # for a node writes its copy of the code anew, also where another node's tasks are in it
        second = [f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.2"]
        nodes.append(start_node(*second, f"--temp-dir={folder.name}/second"))
        yield port, raylet(nodes[1])
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait()
        folder.cleanup()


def test_when_a_node_is_killed_all_cells_finish_and_none_twice(cluster, tmp_path):
    port, second = cluster
    copy, work = tmp_path / "repository", tmp_path / "work"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("runs", ".git", "results", ".venv"))
    results = copy / "benchmark" / "results" / "small"
    lines = ["[tasks]", "[[small]]", "[small.methods]"]
    lines += [f'"{cell}" = "{command}"' for cell, command in CELLS.items()]
    (copy / "benchmark" / "cells.toml").write_text("\n".join(lines) + "\n")
    program = [sys.executable, "benchmark/run.py", "small"]
    argv = [*program, "--address", f"127.0.0.1:{port}", "--folder", "../work"]
    options = {"cwd": copy, "stdout": subprocess.PIPE, "text": True}
    driver = subprocess.Popen(argv, stderr=subprocess.PIPE, **options)

    def a_run_on_each_node():
        assert driver.poll() is None, driver.communicate()
        with_checkpoint = [path.parent for path in work.glob("runs/*/checkpoint.pt")]
        return sum(not (run / "model.safetensors").exists() for run in with_checkpoint) == 2

    wait_for(a_run_on_each_node)
    # every node has one core, so one of the two that run is on the second
    assert len(processes("exp-name small-c")) == 2
    os.kill(second, signal.SIGKILL)
    out, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err
    said = [line for line in out.splitlines() if line.startswith("small/")]  # and what Ray says
    assert sorted(line.split(",")[0] for line in said) == [f"small/{cell}" for cell in CELLS]
    for cell, command in CELLS.items():
        kept = json.loads((results / cell / "seed_1.json").read_text())
        assert kept["command"] == f"python {command}"
        rows = (results / cell / "seed_1.csv").read_text().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == list(range(0, 1_201, 100))
        # a folder and a log: the killed run was resumed
        assert len(list(work.glob(f"runs/*small-{cell}*"))) == 2
    assert not processes("exp-name small-c")
    again = subprocess.run(argv, check=True, **options).stdout
    assert again.splitlines() == [f"small/{cell}, seed 1: there already" for cell in CELLS]
    shutil.rmtree(results / "c0")  # without --address: a Ray of its own, beside the other one
    full = os.environ | {"RAY_memory_usage_threshold": "0.01"}
    killed = subprocess.run([*program, "--only", "c0"], env=full, check=False, **options)
    assert killed.returncode == 1 and "memory ran out 4 times" in killed.stdout
    alone = subprocess.run([*program, "--only", "c0"], check=True, **options).stdout
    assert "\nsmall/c0, seed 1: last" in alone
