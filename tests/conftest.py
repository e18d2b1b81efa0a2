"""Every test runs in an empty folder of its own, on one thread, without the network."""

import importlib
import os
import sys
import textwrap
from ctypes.util import find_library
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # minari would try to download a dataset that is not there
os.environ["OMP_NUM_THREADS"] = "1"
if find_library("OSMesa"):  # Debian's libosmesa6: MuJoCo's pictures without a screen
    os.environ.setdefault("MUJOCO_GL", "osmesa")

import pytest
import torch

from tests import tiny  # registers the environments


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # a screen that nobody sees
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield tmp_path
    if "pygame" in sys.modules:  # the next test opens its own window
        sys.modules["pygame"].display.quit()


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """The test runs in a folder below the one where others put their files."""
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")


@pytest.fixture
def centring_expert(tmp_path, inside):
    """../expert.safetensors, a policy that pushes the point back to 0, with untrained critics."""
    tiny.write_expert(tmp_path / "expert.safetensors", [[-5.0, 0.0]], qf=tiny.critics(2, 1))


@pytest.fixture
def people(tmp_path, inside):
    """../expert, ../initial, ../mental, ../reference: who helps, the robot at first, and so on."""
    tiny.write_people(tmp_path)


@pytest.fixture(params=tiny.SCRIPTS)
def script(request, people, monkeypatch):
    """Every script, one after the other, with demonstrations at hand."""
    module = importlib.import_module(request.param)
    monkeypatch.setattr(module, "load_demonstrations", tiny.demonstrations, raising=False)
    return module


@pytest.fixture
def ending(capfd, monkeypatch):
    """A function that runs a script in this process: exit code, last line (a box is one line)."""

    def run(script, *options):
        text = Path(script.__file__).read_text()
        block = textwrap.dedent(text.partition('if __name__ == "__main__":\n')[2])
        argv = [f"{script.__name__}.py", *tiny.words(*options)]
        monkeypatch.setattr(sys, "argv", argv)
        capfd.readouterr()
        code = 0
        try:
            exec(compile(block, script.__file__, "exec"), vars(script))
        except SystemExit as error:
            code = error.code
        out, err = capfd.readouterr()
        said = err if code == 2 else out
        if "╭" in said:
            said = " ".join(said.translate(dict.fromkeys(map(ord, "╭╮╰╯│─"), " ")).split())
        return code, said.strip().splitlines()[-1] if said.strip() else ""

    return run
