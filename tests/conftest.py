"""Every test runs in an empty folder of its own, on one thread, without the network."""

import os
import signal
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # minari would try to download a dataset that is not there
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from experts import exit_codes, runs
from tests import tiny  # registers the environments


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # a screen that nobody sees
    monkeypatch.setitem(runs._run, "folder", None)  # the last test's
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield tmp_path
    for signum, handler in handlers.items():  # main() installs its own
        signal.signal(signum, handler)


@pytest.fixture
def centring_expert(tmp_path, monkeypatch):
    """../expert.safetensors, a policy that pushes the point back to 0, with untrained critics."""
    tiny.write_expert(tmp_path / "expert.safetensors", [[-5.0, 0.0]], qf=tiny.critics(2, 1))
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")


@pytest.fixture
def people(tmp_path, monkeypatch):
    """../expert, ../initial and ../mental.safetensors: who helps, the robot at first, and what is expected of it."""
    tiny.write_people(tmp_path)
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")


@pytest.fixture
def ending(capfd, monkeypatch):
    """A function that runs a script in this process: how it ends, exit code and last line on stderr."""

    def run(script, *options):
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py"])
        capfd.readouterr()
        code = 0
        try:
            with exit_codes():
                script.main(tiny.parsed(script, *options))
        except SystemExit as error:
            code = error.code
        return code, capfd.readouterr().err.split("\n")[-2] if code else ""

    return run
