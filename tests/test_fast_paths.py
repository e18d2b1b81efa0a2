"""The compiled, the bfloat16 and the fused path against the plain one."""

import copy
import json
import shutil

import pytest
import torch
import torch._inductor.config

import rlif_rlpd
from experts import load_checkpoint
from tests import tiny

OBS, ACT = 2, 1
# of the tiny runs: what was compiled once is kept on the disk
SIZES = {"batch_size": 16, "num_qs": 2, "hidden_sizes": (16,)}
needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler here")


@pytest.fixture(autouse=True)
def nothing_compiled_yet():
    torch._dynamo.reset()


def learner(**options):
    """An agent and the inputs of its gradients: a batch, noise and the members of the target."""
    torch.manual_seed(0)
    args = rlif_rlpd.check(rlif_rlpd.Args(**SIZES | options))
    agent, batch = rlif_rlpd.Agent(OBS, ACT, args, torch.device("cpu")), args.batch_size
    agent.standardize(torch.randn(100, OBS) * 3 + 1)
    obs, next_obs = torch.randn(2, batch, OBS)
    ends = torch.zeros(batch).index_fill(0, torch.tensor([3, 7]), 1.0)
    columns = obs, next_obs, torch.rand(batch, ACT) * 2 - 1, -torch.randint(2, (batch,)).float(), ends
    return agent, dict(zip(rlif_rlpd.ReplayBuffer.FIELDS, columns)), torch.randn(batch, ACT), torch.tensor([1, 0])


def gradients(agent, batch, noise, members):
    """All losses, and all gradients of critics and actor."""
    critic_losses, critic_gradients = agent.critic_gradients(batch, noise, members)
    actor_losses, actor_gradients = agent.actor_gradients(batch, noise)
    return critic_losses | actor_losses, [*critic_gradients, *actor_gradients]


@needs_compiler
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_sizes": (16, 16), "critic_layer_norm": False, "backup_entropy": True, "clip_target": False},
        {"bf16": True},
    ],
)
def test_compiled_gradients_are_the_plain_ones_to_rounding(options, capsys):
    agent, *inputs = learner(**options)
    plain_losses, plain = gradients(agent, *inputs)
    before = copy.deepcopy(agent.state_dict())
    rlif_rlpd.compile_gradients(agent)
    assert "not compiled" not in capsys.readouterr().out
    assert all(torch.equal(value, before[name]) for name, value in agent.state_dict().items())  # it only warms up
    losses, compiled = gradients(agent, *inputs)
    assert len(compiled) == len(plain) == len([*agent.actor.parameters(), *agent.qf.parameters()]) + 1
    # rounding: relative to the largest entry 1e-5 in float32, 1e-2 where bfloat16 rounds the factors
    tolerance = 1e-2 if agent.args.bf16 else 1e-5
    for a, b in zip(compiled, plain):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
    for name, value in plain_losses.items():
        torch.testing.assert_close(losses[name], value, rtol=tolerance, atol=tolerance)


@needs_compiler
def test_nothing_is_compiled_after_the_warm_up(monkeypatch):
    agent, batch, *_ = learner(utd_ratio=3)
    rlif_rlpd.compile_gradients(agent)
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
    batches = {name: torch.stack([values] * 3) for name, values in batch.items()}  # (G, B, ...)
    for progress in (0.0, 0.9):
        agent.set_learning_rate(progress)
        agent.update(batches)


def test_bfloat16_gradients_point_where_the_float32_ones_point():
    agent, *inputs = learner(batch_size=64, hidden_sizes=(64, 64))
    _, exact = gradients(agent, *inputs)
    agent.args.bf16 = True
    _, rounded = gradients(agent, *inputs)
    assert any(not torch.equal(a, b) for a, b in zip(rounded, exact))
    for a, b in zip(rounded, exact):
        assert a.dtype == torch.float32
        assert torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99 or b.abs().max() < 1e-3


def test_a_policy_acts_in_float32_whatever_it_learns_in():
    agent, batch, *_ = learner(bf16=True)
    wide = agent.actor.double()
    torch.testing.assert_close(
        agent.actor.float().act(batch["obs"], deterministic=True),
        wide.double()(batch["obs"].double())[0].tanh().detach().float().numpy(),
        atol=1e-5,
        rtol=0,
    )


def test_fused_steps_are_those_of_a_plain_adam():
    # some gradients come transposed, which a fused step must not take as they lie in memory
    agent, *inputs = learner(learning_rate=1e-2)
    plain = copy.deepcopy(agent)
    actor, critics = [*plain.actor.parameters(), plain.log_alpha], list(plain.qf.parameters())
    optimizers = [torch.optim.Adam(parameters, lr=1e-2, foreach=False) for parameters in (critics, actor)]
    for _ in range(3):
        rlif_rlpd.descend(agent.qf_optimizer, agent.critic_gradients(*inputs)[1])
        rlif_rlpd.descend(agent.actor_optimizer, agent.actor_gradients(*inputs[:2])[1])
        for parameters, optimizer, function, n in zip(
            (critics, actor), optimizers, (plain.critic_gradients, plain.actor_gradients), (3, 2)
        ):
            for parameter, gradient in zip(parameters, function(*inputs[:n])[1]):
                parameter.grad = gradient
            optimizer.step()
    for a, b in zip(agent.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def short_run(name, *options):
    expert = tiny.write_expert("expert.safetensors", [[-1.0, 0.0]], noise=0.5)
    return tiny.run(
        name, "--env-id", "Walled-v0", "--total-timesteps", 150, "--eval-frequency", 150, "--eval-episodes", 2,
        "--batch-size", 16, "--num-qs", 2, "--hidden-sizes", 16, "--num-threads", 1, "--demo-episodes", 0,
        "--expert", expert, "--intervention", "random", *options,
    )  # fmt: skip


@needs_compiler
def test_a_compiled_run_is_the_plain_run_but_for_rounding():
    run_dirs = short_run("plain"), short_run("compiled", "--compile"), short_run("other", "--seed", 2)
    plain, compiled, other = (load_checkpoint(run_dir / "checkpoint.pt") for run_dir in run_dirs)

    def distance(a, b):
        """Of all networks after some 130 updates, relative to how long they are."""
        a, b = (torch.cat([run["agent"][name].flatten() for name in plain["agent"]]) for run in (a, b))
        return ((a - b).norm() / b.norm()).item()

    assert 0 < distance(compiled, plain) < 1e-3 < 0.1 < distance(other, plain)
    returns = [float(tiny.rows(run_dir)[-1]["return_mean"]) for run_dir in run_dirs[:2]]
    assert returns[0] == pytest.approx(returns[1], rel=1e-2)


def test_without_a_compiler_the_run_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # what was compiled before is not there
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    run_dir = short_run("a", "--compile", "--hidden-sizes", 24)
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if "not compiled" in line]
    assert "g++" in line and "return_mean: first, last, best" in printed
    assert json.loads((run_dir / "summary.json").read_text())["critic_updates"] == 150 - 16
