"""Can a reference's critics learn which of two actions is better? Some attempts, and how far each gets.

    python benchmark/sharpen.py    # Walker2d-v5, top: benchmark/results/judge/sharpened.csv

The data are comparisons. From a state that a weak or disturbed policy has come to, the simulator
plays several first actions, each followed by the reference's policy with the same noise; what lies
after 20 steps counts as the critics say. Then critics are fitted to these returns, and above all to
their differences. They are tested on comparisons that were held out, and on the novices that
benchmark/judge.py judges, of which none was learned from.
"""

from dataclasses import dataclass, replace

import judge
import numpy as np
import report_judge
import torch
import torch.nn.functional as F
import tyro
from run import results_of
from scipy import stats
from tables import write
from tqdm import tqdm, trange

from experts import MAX_ACTION, exit_codes, load_expert, seed_for
from rlif_rlpd import Actor, QEnsemble, descend, make_env

ENV_ID, LEVEL = "Walker2d-v5", "top"
POLICIES = "poor", "low", "middle", "high", "top"
STATES, HELD_OUT = 8_400, 400  # of all, these are not learned from
PROPOSALS = 3  # beside the reference's action
HORIZON, EPISODE = 20, 400  # steps of a rollout, and of the way to its state
GAMMA = 0.99
SCALE = 0.01  # of returns, so that they are of order 1 while learning


@dataclass
class Attempt:
    name: str
    states: int = 8_000
    hidden: int = 256
    from_shipped: bool = True  # the critics begin as those of the file
    value_weight: float = 1.0  # of the returns themselves
    gap_weight: float = 10.0  # of the differences to the reference's action
    huber: float | None = None  # beyond this, a difference's error counts linearly
    weight_decay: float = 0.0


ATTEMPTS = [
    Attempt("fitted", states=1_000),
    Attempt("fitted", states=3_000),
    Attempt("fitted"),
    Attempt("fitted, robust loss", huber=0.1),
    Attempt("gaps alone, small, anew", 8_000, 64, False, 0.0, 1.0, weight_decay=0.1),
]


def wanderer(env, policies, reference, rng):
    """A bad policy for an episode: (O,) -> (A,), a mixture of one that is there and a random one."""
    policy = policies[rng.integers(len(policies))]
    strange = Actor(env.observation_space.shape[0], env.action_space.shape[0], (256, 256))
    strange.obs_mean.copy_(reference.obs_mean)
    strange.obs_std.copy_(reference.obs_std)
    gain, share, noise = np.exp(rng.uniform(1, 4)), rng.random(), rng.uniform(0, 0.6)

    @torch.no_grad()
    def act(obs):
        obs = torch.as_tensor(obs[None], dtype=torch.float32)
        own, other = policy(obs)[0].tanh()[0], (gain * strange(obs)[0]).tanh()[0]
        action = (share * own + (1 - share) * other).numpy()
        return unit(action + noise * rng.normal(size=len(action)))

    return act


def unit(action):
    """Within the range of actions."""
    return action.clip(-MAX_ACTION, MAX_ACTION).astype(np.float32)


def comparisons(seed):
    """First actions and their returns: obs (n, O), actions (n, 1 + P, A), returns (n, 1 + P).

    The first of a state's actions is the reference's, the second what the wandering policy did, the
    others lie between the two, or between the reference's and a random one.
    """
    rng, env = np.random.default_rng(seed), make_env(ENV_ID)
    torch.manual_seed(seed)
    reference = load_expert(ENV_ID, LEVEL, env, with_q=True)
    policies = [load_expert(ENV_ID, level, env) for level in POLICIES]
    data = {"obs": [], "actions": []}
    starts, episode = [], 0
    bar = tqdm(total=STATES, desc="states")
    while len(data["obs"]) < STATES:
        obs, _ = env.reset(seed=seed_for(seed, 10, episode))
        act, ended, t = wanderer(env, policies, reference, rng), False, 0
        while not ended and t < EPISODE and len(data["obs"]) < STATES:
            done = act(obs)  # (A,)
            if rng.random() < 0.5:
                own = reference.act(obs[None])[0].numpy()
                actions = [own, done]
                for _ in range(PROPOSALS - 1):
                    far = done if rng.random() < 0.5 else rng.uniform(-1, 1, len(own))
                    actions.append(unit(own + rng.random(len(own)) * (far - own)))
                noise = (seed, len(data["obs"]))  # the same for all of them
                state = judge.save_state(env)
                starts += [(state, action, noise) for action in actions]
                data["obs"].append(obs)
                data["actions"].append(actions)
                bar.update()
            obs, _, terminated, truncated, _ = env.step(done)
            ended, t = terminated or truncated, t + 1
        episode += 1
    bar.close()
    with tqdm(total=len(starts), unit="rollout") as bar:
        returns = judge.monte_carlo(env, reference, starts, HORIZON, GAMMA, bar, bootstrap=True)
    data["returns"] = SCALE * returns.reshape(STATES, -1)
    return {name: torch.tensor(np.array(rows), dtype=torch.float32) for name, rows in data.items()}


def critics(reference, attempt):
    """The file's critics, or new ones, for scaled returns."""
    qf = QEnsemble(reference.obs_dim, reference.act_dim, (attempt.hidden, attempt.hidden), 5)
    qf.obs_mean.copy_(reference.obs_mean)
    qf.obs_std.copy_(reference.obs_std)
    if attempt.from_shipped:
        layers = zip(qf.weights, qf.biases, reference.q_layers)
        norms = zip(qf.norm_weights, qf.norm_biases, reference.q_norms)
        with torch.no_grad():
            for weight, bias, tensors in [*layers, *norms]:
                weight.copy_(tensors[0])
                bias.copy_(tensors[1])
            qf.weights[-1].mul_(SCALE)
            qf.biases[-1].mul_(SCALE)
    return qf


def q_of(qf, data, bf16=False):
    """Q of every action of every state: (N, n, 1 + P)."""
    actions = data["actions"].flatten(0, 1)
    obs = data["obs"].repeat_interleave(PROPOSALS + 1, 0)
    return qf(obs, actions, bf16=bf16).unflatten(1, (-1, PROPOSALS + 1))


def gaps_of(values):
    """What each proposal loses against the reference's action: (..., 1 + P) -> (..., P)."""
    return values[..., :1] - values[..., 1:]


def fit(qf, data, attempt, steps=1_000, batch_size=64):
    """Least squares on returns and gaps, each critic as if alone."""
    learned = list(qf.parameters())
    options = {"lr": torch.tensor(3e-4), "weight_decay": attempt.weight_decay, "fused": True}
    optimizer = torch.optim.AdamW(learned, **options)
    for step in trange(steps, desc=attempt.name):
        i = torch.randint(attempt.states, (batch_size,))
        batch = {name: values[i] for name, values in data.items()}
        q, target = q_of(qf, batch, bf16=True), batch["returns"]
        error = gaps_of(q) - gaps_of(target)  # (N, B, P)
        zero = torch.zeros_like(error)
        if attempt.huber:
            losses = 2 * F.huber_loss(error, zero, delta=attempt.huber, reduction="none")
        else:
            losses = error.pow(2)
        loss = attempt.gap_weight * losses.mean((1, 2)).sum()
        loss = loss + attempt.value_weight * (q - target).pow(2).mean((1, 2)).sum()
        optimizer.param_groups[0]["lr"].fill_(3e-4 * min(1, 2 * (1 - step / steps)))
        descend(optimizer, torch.autograd.grad(loss, learned))


def rank_correlation(qf, data):
    """Spearman's, of the gaps by Q and those of the rollouts."""
    with torch.no_grad():
        known = gaps_of(q_of(qf, data).mean(0))
    return stats.spearmanr(known.flatten(), gaps_of(data["returns"]).flatten()).statistic


def novices(reference):
    """What benchmark/judge.py found of each novice, and its states and their two actions."""
    env, folder, found = make_env(ENV_ID), results_of("judge"), []
    size = judge.TASKS[ENV_ID]["states"]
    for stage in judge.NOVICES:
        novice = load_expert(ENV_ID, str(folder / "novices" / ENV_ID / f"{stage}.safetensors"))
        torch.manual_seed(judge.Args.seed)
        sample = judge.visited(env, novice, judge.Args.episodes, size, judge.Args.seed)
        obs = torch.tensor(np.stack([one["obs"] for one in sample]), dtype=torch.float32)
        proposals = torch.tensor(np.stack([one["action"] for one in sample]))
        judged = judge.read(folder / f"{ENV_ID}-{LEVEL}-{stage}.csv")
        found.append((judged, obs, proposals, reference.act(obs.double().numpy())))
    return found


def on_novices(qf, found):
    """The rank correlations of benchmark/judge.py with other critics: of each novice, and of all."""
    parts = []
    for judged, obs, *actions in found:
        with torch.no_grad():
            q = [qf(obs, action).mean(0).numpy() / SCALE for action in actions]
        parts.append(replace(judged, q_novice=q[0], q_reference=q[1]))
    return [report_judge.rank_correlation(part) for part in (*parts, judge.together(parts))]


def main():
    torch.set_num_threads(1)
    reference = load_expert(ENV_ID, LEVEL, with_q=True)
    data, found = comparisons(seed=1), novices(reference)
    held_out = {name: values[-HELD_OUT:] for name, values in data.items()}
    rows = []
    for attempt in [Attempt("as shipped", states=0), *ATTEMPTS]:
        torch.manual_seed(0)
        qf = critics(reference, attempt)
        learned = {name: values[: attempt.states] for name, values in data.items()}
        row = {"attempt": attempt.name, "states": attempt.states, "learned": "", "held_out": ""}
        if attempt.states:
            fit(qf, learned, attempt)
            row["learned"] = round(rank_correlation(qf, learned), 3)
        row["held_out"] = round(rank_correlation(qf, held_out), 3)
        for stage, shown in zip((*judge.NOVICES, "all"), on_novices(qf, found)):
            row |= dict(zip((stage, f"{stage}_low", f"{stage}_high"), np.round(shown, 3)))
        print(row)
        rows.append(row)
    write(results_of("judge") / "sharpened.csv", rows)


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(main, description=__doc__)
