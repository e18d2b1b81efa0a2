"""Policy files, and the shipped experts."""

import json
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import bc
import rlif_rlpd
from experts import InputError, load_expert, normalized_score, save_expert
from tests import tiny

SHIPPED = [(env_id, level) for env_id, levels in tiny.list_experts().items() for level in levels]


def refusal(*args, **options):
    """The one line with which load_expert refuses."""
    with pytest.raises(InputError) as caught:
        load_expert(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def networks():
    """An actor and critics of rlif_rlpd.py that are not as they begin."""
    actor, qf = rlif_rlpd.Actor(3, 2, (16, 8)), rlif_rlpd.QEnsemble(3, 2, (16, 8), 4)
    for parameter in [*qf.norm_weights, *qf.norm_biases]:
        parameter.data += 0.3 * torch.randn_like(parameter)
    mean, std = torch.randn(3), torch.rand(3) + 0.5
    for network in (actor, qf):
        network.obs_mean.copy_(mean)
        network.obs_std.copy_(std)
    return actor, qf


def test_saved_and_loaded_policy_acts_and_values_the_same():
    actor, qf = networks()
    actor.min_log_std = -1.5
    actor.log_std.bias.data -= torch.tensor([3.0, 0.0])
    save_expert("a.safetensors", actor, qf, env_id="Any-v0", score_mean=12.5)
    expert = load_expert("Any-v0", "a.safetensors", with_q=True)
    found = {"obs_dim": 3, "act_dim": 2, "hidden_sizes": [16, 8], "distribution": "tanh_gaussian"}
    found |= {"env_id": "Any-v0", "score_mean": 12.5, "min_log_std": -1.5}
    assert expert.facts == found and not expert.discrete
    save_expert("b.safetensors", actor.state_dict(), min_log_std=-2.5)  # of another's policy
    assert load_expert("Any-v0", "b.safetensors").facts["min_log_std"] == -2.5
    obs, actions = 3 * torch.randn(50, 3), torch.rand(50, 2) * 2 - 1
    for parameters, expected in zip(expert(obs), actor(obs)):
        torch.testing.assert_close(parameters, expected.detach())
    assert expert(obs)[1].min() == -1.5  # the file's own limit counts
    for deterministic in (True, False):
        torch.manual_seed(1)
        expected = actor.act(obs.numpy(), deterministic)
        torch.manual_seed(1)
        found = expert.act(obs.numpy(), deterministic).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    torch.testing.assert_close(expert.q(obs, actions), qf(obs, actions).mean(0).detach())
    # as one that learns on, as the scripts take it
    again = rlif_rlpd.Actor(3, 2, (16, 8))
    again.load_state_dict(expert.state)
    torch.testing.assert_close(again(obs)[0], actor(obs)[0])
    save_expert("deep.safetensors", rlif_rlpd.Actor(3, 2, range(4, 16)))  # layers.10 and on
    assert load_expert("Any-v0", "deep.safetensors").facts["hidden_sizes"] == [*range(4, 16)]


def test_an_expert_acts_by_sampling_off_the_edges_unless_told_otherwise():
    def load(*args, **options):
        return load_expert("Point-v0", tiny.write_expert("a.safetensors", *args, **options))

    expert, obs = load([[0.0, 0.0]], noise=0.5), torch.zeros(2_000, 2)
    assert expert.act(obs).atanh().std().item() == pytest.approx(0.5, rel=0.1)
    assert not expert.act(obs, deterministic=True).any()
    switch = load([[0.0, 0.0]] * 2, bias=[0.0, 1.0], discrete=True)
    assert switch.act(obs).mean(0)[1].item() == pytest.approx(1 / (1 + np.exp(-1)), abs=0.05)
    assert switch.act(obs, deterministic=True).tolist() == [[0, 1]] * 2_000
    assert load([[0.0, 0.0]], bias=100.0).act(obs[:1]).item() == pytest.approx(0.999)


# --- what is refused ------------------------------------------------------------------------------


def edited(tensors=None, **facts):
    """A sound file with other tensors or facts, as edited.safetensors."""
    path = tiny.write_expert("right.safetensors", [[0.0, 0.0]], qf=tiny.critics(2, 1))
    header, found = load_expert("Point-v0", path).facts | facts, load_file(path) | (tensors or {})
    found = {name: values for name, values in found.items() if values is not None}
    save_file(found, "edited.safetensors", {"facts": json.dumps(header)})
    return "edited.safetensors"


NAN, INF = torch.full((1, 32), torch.nan), torch.full((2, 32, 1), torch.inf)
ZERO = torch.zeros(2)
WRONG = [
    ({}, {"hidden_sizes": [16]}), ({}, {"hidden_sizes": []}), ({}, {"obs_dim": 3}),
    ({}, {"act_dim": "many"}), ({}, {"distribution": "categorical"}),
    ({}, {"distribution": "gaussian"}), ({"actor.obs_mean": torch.zeros(1, 2)}, {}),
    ({"actor.log_std.bias": None}, {}), ({"qf.norm_weights.0": torch.ones(1, 1, 32)}, {}),
    ({"actor.mean.weight": NAN}, {}),  # nobody would ever take over
    ({"actor.obs_std": ZERO}, {}), ({"actor.obs_mean": (ZERO + 1).double() * 1e300}, {}),
    ({"qf.weights.1": INF}, {}),  # nothing would ever be flagged
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "facts"), WRONG, ids=str)
def test_a_file_that_is_not_what_it_says_is_refused_in_one_line(tensors, facts):
    assert refusal("Point-v0", edited(tensors, **facts)).startswith("edited.safetensors")


def test_what_is_not_finite_is_not_saved_and_a_full_disk_keeps_what_was_there(monkeypatch):
    actor, qf = networks()
    save_expert("a.safetensors", actor)
    before = Path("a.safetensors").read_bytes()

    def full(tensors, path, facts):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("experts.policies.save_file", full)
        save_expert("a.safetensors", actor, qf)
    actor.mean.weight.data[0, 0] = torch.nan
    with pytest.raises(InputError):
        save_expert("a.safetensors", actor)
    assert Path("a.safetensors").read_bytes() == before


def test_other_precisions_and_what_else_is_in_a_file_are_taken():
    right = load_expert("Point-v0", edited())
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        tensors = {name: x.to(dtype) for name, x in load_file("edited.safetensors").items()}
        expert = load_expert("Point-v0", edited(tensors | {"vf.weight": torch.zeros(1)}))
        assert expert.state.keys() == right.state.keys()
        assert all(values.dtype == torch.float32 for values in expert.state.values())


def test_a_damaged_file_or_a_pickle_is_refused_and_not_run():
    class Run:
        def __reduce__(self):
            return Path.touch, (Path("it_was_run"),)

    whole = Path(tiny.write_expert("whole.safetensors", [[0.0, 0.0]])).read_bytes()
    torch.save({"a": Run()}, "a.safetensors")
    saved = Path("a.safetensors").read_bytes()
    save_file({"a": torch.zeros(1)}, "a.safetensors")  # without facts
    empty = Path("a.safetensors").read_bytes()
    for data in (whole[:-100], b"", b"no expert", pickle.dumps(Run()), saved, empty):
        Path("a.safetensors").write_bytes(data)
        assert "a.safetensors" in refusal("Point-v0", "a.safetensors")
    assert not Path("it_was_run").exists()


def test_a_file_of_another_environment_is_taken_and_said_unless_it_does_not_fit(capsys):
    env = bc.make_env("Point-v0")
    for facts, said in (({"env_id": "Walled-v0"}, 1), ({"env_id": "Point-v0"}, 0), ({}, 0)):
        path = tiny.write_expert("mine.safetensors", [[0.0, 0.0]], **facts)
        assert load_expert("Point-v0", path, env).facts["obs_dim"] == 2
        line = capsys.readouterr().err
        assert line.count("\n") == line.count("Walled-v0") == said
    assert "critics" in refusal("Point-v0", path, env, with_q=True)
    for reward, said in (("intervention", "value takeovers"), ("task", "")):
        qf = rlif_rlpd.QEnsemble(2, 1, (32,), 2)
        tiny.write_expert("mine.safetensors", [[0.0, 0.0]], qf=qf, reward=reward)
        if said:
            assert said in refusal("Point-v0", "mine.safetensors", env, with_q=True)
        assert load_expert("Point-v0", "mine.safetensors", env, with_q=not said)
    other = {"discrete": True}
    for weight, options in (([[0.0]], {}), ([[0.0, 0.0]] * 2, {}), ([[0.0, 0.0]], other)):
        tiny.write_expert("mine.safetensors", weight, **options)
        assert "mine.safetensors" in refusal("Point-v0", "mine.safetensors", env)
    for env_id, said in (("Hopper-v5", "low, middle, top"), ("Hopper-v4", "none is shipped")):
        message = refusal(env_id, "best")
        assert "'best'" in message and said in message and "--initial-policy" in message


# --- the recipe for an agent of Stable-Baselines3 -------------------------------------------------


class Stable(torch.nn.Module):
    """The policy of an SAC agent of Stable-Baselines3, layers by their names there, and critics."""

    def __init__(self):
        super().__init__()
        layer, sequence, act = torch.nn.Linear, torch.nn.Sequential, torch.nn.ReLU()
        self.latent_pi = sequence(layer(11, 16), act, layer(16, 8), act)
        self.mu, self.log_std = layer(8, 3), layer(8, 3)
        self.features_extractor = type("FlattenExtractor", (torch.nn.Flatten,), {})()
        self.use_sde = False
        q = [sequence(layer(14, 16), act, layer(16, 8), act, layer(8, 1)) for _ in "ab"]
        self.critic = SimpleNamespace(q_networks=q)

    def forward(self, obs):
        return self.mu(self.latent_pi(obs)).tanh()


@pytest.fixture
def follow_recipe(monkeypatch):
    """follow_recipe(policy, statistics) runs the README's code for an agent with this policy."""
    text = (tiny.EXPERTS / "README.md").read_text()
    (code,) = re.findall(r"```python\n([^`]*stable_baselines3.*?)```", text, re.S)

    def follow(policy, statistics=None):
        agent = SimpleNamespace(policy=SimpleNamespace(actor=policy, critic=policy.critic))
        library = ModuleType("stable_baselines3")
        library.SAC = SimpleNamespace(load=lambda path, **_: agent)
        monkeypatch.setitem(sys.modules, "stable_baselines3", library)
        exec(code.replace("statistics = None", "statistics = given"), {"given": statistics})
        (path,) = Path().glob("*.safetensors")
        return load_expert("Hopper-v5", str(path), bc.make_env("Hopper-v5"))

    return follow


@pytest.mark.parametrize("statistics", [None, SimpleNamespace(epsilon=0.01, clip_obs=10.0)])
def test_the_recipe_for_stable_baselines_makes_the_same_policy(follow_recipe, statistics):
    policy, obs = Stable(), torch.randn(50, 11) * 3 + 1
    seen = obs
    if statistics:
        moments = SimpleNamespace(mean=np.linspace(-1, 3, 11), var=np.linspace(0, 9, 11))
        statistics.obs_rms = moments
        seen = torch.tensor((obs.numpy() - moments.mean) / (moments.var + 0.01) ** 0.5).float()
    expert = follow_recipe(policy, statistics)
    torch.testing.assert_close(expert.act(obs, deterministic=True), policy(seen).detach())
    torch.testing.assert_close(expert(obs)[1], policy.log_std(policy.latent_pi(seen)).detach())
    assert expert.facts["env_id"] == "Hopper-v5" and expert.facts["hidden_sizes"] == [16, 8]
    actions = torch.rand(50, 3) * 2 - 1  # its critics come along
    values = [qf(torch.cat([seen, actions], 1))[:, 0].detach() for qf in policy.critic.q_networks]
    torch.testing.assert_close(expert.q(obs, actions), sum(values) / 2)


@pytest.mark.parametrize(("name", "part", "said"), [
    ("latent_pi", torch.nn.Sequential(torch.nn.Linear(11, 8), torch.nn.Tanh()), "'Tanh'"),
    ("latent_pi", torch.nn.Sequential(), "Extractor'\\]"), ("use_sde", True, "gSDE True"),
    ("features_extractor", torch.nn.Identity(), "Identity"),
])  # fmt: skip
def test_the_recipe_refuses_in_one_line_what_the_format_lacks(name, part, said, follow_recipe):
    policy = Stable()
    setattr(policy, name, part)
    with pytest.raises(SystemExit, match=f"^.*{said}.*$"):
        follow_recipe(policy)
    assert not list(Path().glob("*.safetensors"))


# --- the shipped experts --------------------------------------------------------------------------

QUICK = [(env_id, level) for env_id, level in SHIPPED if level == "top" or "Meta" not in env_id]


@pytest.mark.parametrize(("env_id", "level"), QUICK)
def test_shipped_expert_scores_what_its_header_says(env_id, level):
    """By sampled actions, as it acts; a failure on Meta-World takes long."""
    tiny.skip_without(env_id)
    expert, env, results, episodes = load_expert(env_id, level), bc.make_env(env_id), [], 6
    facts = expert.facts
    assert (facts["env_id"], facts["level"]) == (env_id, level)
    for seed in range(episodes):
        obs, ended, total = env.reset(seed=seed)[0], False, 0.0
        while not ended:
            actions = expert.act(obs[None])[0].numpy()
            obs, reward, terminated, truncated, info = env.step(actions)
            total, ended = total + reward, terminated or truncated
        score = normalized_score(env_id, total)
        score = total if np.isnan(score) else score
        results.append(score if np.isnan(info["success"]) else 100 * info["success"])
    distance = 4 * facts["score_std"] / episodes**0.5 + 1
    assert np.mean(results) == pytest.approx(facts["score_mean"], abs=distance)


def test_the_tables_of_the_page_agree_with_the_files():
    page = (tiny.EXPERTS / "README.md").read_text()
    pattern = r"^\| *(\S+-v\d+) *\| *(\w+) *\| *(-?[\d.]+) ± ([\d.]+) *\| *(.*?) *\|$"
    rows = re.findall(pattern, page, re.M)
    assert sorted((env_id, level) for env_id, level, *_ in rows) == sorted(SHIPPED)
    known = set(re.findall(r"`(\w+)`", page))
    for env_id, level, mean, std, trained in rows:
        facts = load_expert(env_id, level).facts
        assert (mean, std) == (f"{facts['score_mean']:.1f}", f"{facts['score_std']:.1f}"), level
        note = facts["trained_by"].replace(",", "")
        for transitions in re.findall(r"from ([\d,]+) transitions", trained):
            assert f"from {transitions.replace(',', '')} transitions" in note, level
        assert set(facts) <= known, (env_id, level)
    for env_id in tiny.RLIF_TASKS:  # levels are what they are called
        levels = {n: load_expert(env_id, n).facts["score_mean"] for n in ("top", "middle", "low")}
        assert levels["top"] > max(85, levels["middle"] + 20) and levels["low"] < 25
        assert levels["middle"] > levels["low"] + 10
