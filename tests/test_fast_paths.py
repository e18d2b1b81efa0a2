"""Compiled gradients are the plain ones to rounding, and bfloat16 is near them."""

import shutil

import pytest
import torch

import rlif_rlpd
from benchmark.files import compiled
from tests import tiny
from tests.test_networks import learner

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")


def on(device, agent, batch, noise, members):
    """The same on a device."""
    parts = {name: values.to(device) for name, values in batch.items()}
    agent.to(device)
    return agent, parts, noise.to(device), members.to(device)


def gradients(agent, batch, noise, members):
    """All losses, and all gradients of critics and actor."""
    critic_losses, critic_gradients = agent.critic_gradients(batch, noise, members)
    actor_losses, actor_gradients = agent.actor_gradients(batch, noise)
    return critic_losses | actor_losses, [*critic_gradients, *actor_gradients]


def compile_gradients(agent):
    """As main() does."""
    torch._dynamo.reset()
    torch._dynamo.config.trace_autograd_ops = True
    torch._dynamo.config.suppress_errors = False  # but for this
    for name in ("critic_gradients", "actor_gradients"):
        setattr(agent, name, torch.compile(getattr(agent, name), dynamic=False))


def assert_close_to_rounding(found, expected, bf16):
    """Relative to the largest entry 1e-5 in float32, 1e-2 where bfloat16 rounds the factors."""
    tolerance = 1e-2 if bf16 else 1e-5
    (losses, fast), (plain_losses, plain) = found, expected
    assert len(fast) == len(plain)
    for a, b in zip(fast, plain):
        assert (a.cpu() - b.cpu()).abs().max() <= tolerance * b.abs().max().cpu()
    for name, value in plain_losses.items():
        torch.testing.assert_close(losses[name].cpu(), value, rtol=tolerance, atol=tolerance)


OF_A_RUN = {"precision": "bf16", "hidden_sizes": (256, 256)}  # other sizes, other kernels
OTHER = {"reward": "task", "bc_weight": 2.0, "offline_ratio": 0.4}


@needs_compiler
@pytest.mark.parametrize("options", [{"precision": "bf16"}, OTHER, OF_A_RUN])
def test_compiled_gradients_are_the_plain_ones_to_rounding(options):
    agent, batch, noise, members = learner(**options)
    batch = {name: values.repeat(32, *[1] * (values.dim() - 1)) for name, values in batch.items()}
    inputs = batch, noise.repeat(32, 1), members
    expected = gradients(agent, *inputs)
    compile_gradients(agent)
    for _ in range(2):  # the first call compiles
        assert_close_to_rounding(gradients(agent, *inputs), expected, "precision" in options)
    batches = {name: values[None] for name, values in inputs[0].items()}
    with torch._dynamo.config.patch(error_on_recompile=True):  # nothing is compiled afterwards
        for progress in (0.0, 0.9):
            agent.update(batches, progress)


def test_a_run_compiles_both_gradients_where_there_is_a_compiler(people, monkeypatch):
    seen, plain = [], tiny.short_run(rlif_rlpd)
    monkeypatch.setattr(torch, "compile", lambda f, **_: seen.append(f.__name__) or f)
    for compiler, names in (("g++", ["critic_gradients", "actor_gradients"]), (None, [])):
        monkeypatch.setattr(shutil, "which", lambda _, found=compiler: found)
        tiny.assert_same_run(tiny.short_run(rlif_rlpd, "--compile"), plain)
        assert seen == names
        seen.clear()


@needs_compiler
def test_where_the_compilers_folder_cannot_be_written_it_goes_on_without(people, monkeypatch):
    plain, (agent, *inputs) = tiny.short_run(rlif_rlpd), learner()
    expected, critics = gradients(agent, *inputs), agent.critic_gradients
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/proc/self")
    compile_gradients(agent)
    with pytest.raises(Exception, match="/proc/self"):
        gradients(agent, *inputs)
    tiny.assert_same_run(tiny.short_run(rlif_rlpd, "--compile"), plain)
    compile_gradients(agent)  # which resets
    agent.critic_gradients = compiled(critics)
    tiny.assert_same(gradients(agent, *inputs), expected)


def test_bfloat16_gradients_point_where_the_float32_ones_point():
    agent, *inputs = learner()
    _, exact = gradients(agent, *inputs)
    agent.dtype = torch.bfloat16
    _, rounded = gradients(agent, *inputs)
    assert any(not torch.equal(a, b) for a, b in zip(rounded, exact))
    for a, b in zip(rounded, exact):
        assert a.dtype == torch.float32
        near = torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.98
        assert near or b.abs().max() < 1e-3


def test_precision_is_that_of_the_processor_unless_it_is_said(people, monkeypatch, capsys):
    for can, option, found in (
        ({"avx512_bf16": True}, "auto", "bf16"),
        ({"amx_bf16": True}, "auto", "bf16"),
        ({"avx512_bf16": False}, "auto", "float32"),
        ({}, "bf16", "bf16"),
        ({"amx_bf16": True}, "float32", "float32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can)
        agents, make = [], rlif_rlpd.Agent
        with monkeypatch.context() as patch:
            patch.setattr(rlif_rlpd, "Agent", lambda *a: agents.append(make(*a)) or agents[-1])
            tiny.short_run(rlif_rlpd, f"--precision {option} --total-timesteps 5")
        assert agents[0].dtype == {"bf16": torch.bfloat16, "float32": torch.float32}[found]
        assert found in capsys.readouterr().out
