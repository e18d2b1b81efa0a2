"""On a GPU: the updates are those of the CPU to rounding, and a run goes on to the bit. Skipped where there is none."""

import copy
import importlib
import signal
from pathlib import Path

import pytest
import torch

from experts import load_expert
from experts.speed import CudaGraph
from tests import tiny
from tests.test_environments import stop_after
from tests.test_fast_paths import compile_gradients, gradients, learner, needs_compiler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")


def vector(module):
    """All parameters in one vector."""
    return torch.cat([values.detach().flatten().cpu() for values in module.parameters()])


def distance(a, b):
    """Of two modules' parameters, relative to how long they are."""
    return ((vector(a) - vector(b)).norm() / vector(b).norm()).item()


@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_on_the_gpu_are_those_of_the_cpu_to_rounding(bf16):
    losses, expected = gradients(*learner(bf16=bf16))
    gpu_losses, found = gradients(*learner("cuda", bf16=bf16))
    tolerance = 1e-2 if bf16 else 1e-5
    for name, value in losses.items():
        torch.testing.assert_close(gpu_losses[name].cpu(), value, rtol=tolerance, atol=tolerance)
    for a, b in zip(found, expected):
        assert (a.cpu() - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("options", [{}, {"utd_ratio": 3}, {"bf16": True, "num_qs": 5}])
@pytest.mark.parametrize("compile_first", [False, pytest.param(True, marks=needs_compiler)])
def test_a_cuda_graph_is_the_update_that_it_recorded(options, compile_first):
    torch._dynamo.reset()
    agent, batch, *_ = learner("cuda", **options)
    # other batches, (G, B, ...), at each of ten calls; the fourth records, the later ones replay
    calls = []
    for i in range(10):
        parts = [batch | {"obs": batch["obs"] + i + g} for g in range(agent.args.utd_ratio)]
        calls.append({name: torch.stack([part[name] for part in parts]) for name in batch})
    plain, begun = copy.deepcopy(agent), copy.deepcopy(agent)
    if compile_first:
        compile_gradients(agent)
    losses = {}
    for name, learning in {"graph": agent, "plain": plain}.items():
        torch.manual_seed(0)
        update = CudaGraph(agent.update) if name == "graph" else learning.update
        losses[name] = []
        for i, batches in enumerate(calls):
            learning.set_learning_rate(i / 10)
            outputs = update(batches)
            losses[name].append({key: value.item() for key, value in outputs.items()})
    assert distance(agent, plain) < 1e-4 < 1e-3 < distance(begun, plain)
    for fast, slow in zip(losses["graph"], losses["plain"]):
        assert fast == pytest.approx(slow, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("name", tiny.SHORT)
def test_each_script_leaves_the_files_that_it_leaves_on_the_cpu(name, people, monkeypatch, ending):
    script = importlib.import_module(name)
    if hasattr(script, "load_demonstrations"):
        monkeypatch.setattr(script, "load_demonstrations", tiny.demonstrations)
    files = {}
    for device in ("cpu", "cuda"):
        options = ["--cuda"] if device == "cuda" else []
        options = tiny.short(script, *options, "--exp-name", device)
        assert ending(script, *options)[0] == 0
        (folder,) = Path("runs").glob(f"*__{device}__*")
        files[device] = [
            path.name for path in sorted(folder.iterdir()) if "events" not in path.name
        ]
        load_expert("Walled-v0", str(folder / "model.safetensors"))
    assert files["cpu"] == files["cuda"]


@pytest.mark.parametrize("name", [name for name in tiny.SHORT if name != "bc"])
def test_stopped_and_resumed_is_the_uninterrupted_run_to_the_bit(name, people, monkeypatch, ending):
    script = importlib.import_module(name)
    if hasattr(script, "load_demonstrations"):
        monkeypatch.setattr(script, "load_demonstrations", tiny.demonstrations)
    assert ending(script, *tiny.short(script, "--cuda", "--exp-name", "whole"))[0] == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 30)
        code, _ = ending(script, *tiny.short(script, "--cuda", "--exp-name", "stopped"))
        assert code == 128 + signal.SIGTERM
    (whole,), (stopped,) = Path("runs").glob("*__whole__*"), Path("runs").glob("*__stopped__*")
    assert not (stopped / "summary.json").exists()
    assert ending(script, "--resume", stopped)[0] == 0
    tiny.assert_same_run(stopped, whole)
