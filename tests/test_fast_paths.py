"""The compiled, the bfloat16 and the fused path against the plain one."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rlif_rlpd
from experts import load_checkpoint
from experts.speed import compiled
from tests import tiny

OBS, ACT = 2, 1
# of the tiny runs: what was compiled once is kept on the disk
SIZES = {"batch_size": 16, "num_qs": 2, "hidden_sizes": (16,)}
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler here"
)


@pytest.fixture(autouse=True)
def nothing_compiled_yet():
    torch._dynamo.reset()


def learner(device="cpu", **options):
    """An agent and the inputs of its gradients: a batch, noise and the members of the target."""
    torch.manual_seed(0)
    args = rlif_rlpd.Args(**SIZES | options, cuda=device == "cuda")
    agent, n = rlif_rlpd.Agent(OBS, ACT, args, torch.device(device)), args.batch_size
    agent.standardize(torch.randn(100, OBS) * 3 + 1)
    batch = {
        "obs": torch.randn(n, OBS),
        "next_obs": torch.randn(n, OBS),
        "actions": torch.rand(n, ACT) * 2 - 1,
        "rewards": -torch.randint(2, (n,)).float(),
        "terminations": torch.zeros(n).index_fill(0, torch.tensor([3, 7]), 1.0),
    }
    batch = {name: values.to(device) for name, values in batch.items()}
    return agent, batch, torch.randn(n, ACT).to(device), torch.tensor([1, 0], device=device)


def compile_gradients(agent):
    """As main() does."""
    agent.critic_gradients = compiled(agent.critic_gradients)
    agent.actor_gradients = compiled(agent.actor_gradients)


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
        {"hidden_sizes": (16, 16), "reward": "task", "bc_weight": 2.0, "offline_ratio": 0.25},
        {"bf16": True},
    ],
)
def test_compiled_gradients_are_the_plain_ones_to_rounding(options, capsys):
    agent, *inputs = learner(**options)
    plain_losses, plain = gradients(agent, *inputs)
    before = copy.deepcopy(agent.state_dict())
    compile_gradients(agent)
    for _ in range(2):  # the first call compiles
        losses, fast = gradients(agent, *inputs)
        assert_close_to_rounding(agent, losses, fast, plain_losses, plain)
    printed = capsys.readouterr().out
    assert printed.count("compiling, once") == 2 and "not compiled" not in printed
    assert all(torch.equal(value, before[name]) for name, value in agent.state_dict().items())


def assert_close_to_rounding(agent, losses, fast, plain_losses, plain):
    assert len(fast) == len(plain) == len([*agent.actor.parameters(), *agent.qf.parameters()]) + 1
    # rounding: relative to the largest entry 1e-5 in float32, 1e-2 where bfloat16 rounds the factors
    tolerance = 1e-2 if agent.args.bf16 else 1e-5
    for a, b in zip(fast, plain):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
    for name, value in plain_losses.items():
        torch.testing.assert_close(losses[name], value, rtol=tolerance, atol=tolerance)


@needs_compiler
def test_nothing_is_compiled_after_the_first_update(monkeypatch):
    agent, batch, *_ = learner(utd_ratio=3)
    compile_gradients(agent)
    batches = {name: torch.stack([values] * 3) for name, values in batch.items()}  # (G, B, ...)
    agent.update(batches)
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
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
        assert (
            torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99 or b.abs().max() < 1e-3
        )


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
    agent, *inputs = learner(learning_rate=1e-2)
    plain = copy.deepcopy(agent)
    actor, critics = [*plain.actor.parameters(), plain.log_alpha], list(plain.qf.parameters())
    optimizers = [
        torch.optim.Adam(parameters, lr=1e-2, foreach=False) for parameters in (critics, actor)
    ]
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


def test_a_transposed_gradient_is_taken_as_it_is_meant_not_as_it_lies_in_memory():
    torch.manual_seed(0)
    weight, gradient = torch.randn(5, 3), torch.randn(3, 5).T
    fused, plain = (torch.nn.Parameter(weight.clone()) for _ in range(2))
    optimizer = torch.optim.Adam([fused], lr=torch.tensor(1e-2), fused=True)
    rlif_rlpd.descend(optimizer, [gradient])
    plain.grad = gradient
    torch.optim.Adam([plain], lr=1e-2, foreach=False).step()
    torch.testing.assert_close(fused, plain)


def short_run(name, *options):
    expert = tiny.write_expert("expert.safetensors", [[-1.0, 0.0]], noise=0.5)
    return tiny.run(
        name, "--env-id", "Walled-v0", "--total-timesteps", 150, "--eval-frequency", 150,
        "--eval-episodes", 2,
        "--batch-size", 16, "--num-qs", 2, "--hidden-sizes", 16, "--num-threads", 1,
        "--demo-episodes", 0, "--expert", expert, "--intervention", "random", *options,
    )  # fmt: skip


@needs_compiler
def test_a_compiled_run_is_the_plain_run_but_for_rounding():
    options = {"plain": (), "compiled": ("--compile",), "other": ("--seed", 2)}
    run_dirs = [short_run(name, *typed) for name, typed in options.items()]
    states = [load_checkpoint(folder / "checkpoint.pt")["kept"]["agent"] for folder in run_dirs]
    plain, fast, other = states

    def distance(a, b):
        """Of all networks after some 130 updates, relative to how long they are."""
        a, b = (torch.cat([state[name].flatten() for name in plain]) for state in (a, b))
        return ((a - b).norm() / b.norm()).item()

    assert 0 < distance(fast, plain) < 1e-3 < 0.1 < distance(other, plain)
    returns = [float(tiny.rows(run_dir)[-1]["return_mean"]) for run_dir in run_dirs[:2]]
    assert returns[0] == pytest.approx(returns[1], rel=1e-2)


def test_without_a_compiler_the_run_says_so_and_goes_on(tmp_path, monkeypatch):
    # what was compiled before is not there, and torch in this process is not told of the compiler
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    code = "from tests import test_fast_paths as t; t.short_run('a', '--compile', '--hidden-sizes', 24)"
    printed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout
    lines = [line for line in printed.splitlines() if "not compiled" in line]
    assert len(lines) == 2 and all("no-such-compiler" in line for line in lines)  # critics, actor
    assert "return_mean: first, last, best" in printed
    folder, plain = next(Path("runs").glob("*__a__*")), short_run("plain", "--hidden-sizes", 24)
    states = [load_checkpoint(run / "checkpoint.pt")["kept"] for run in (folder, plain)]
    tiny.assert_same(*states)  # it learned as it does without compiling
    assert tiny.evaluations(folder) == tiny.evaluations(plain)
