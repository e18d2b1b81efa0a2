"""PVP: learning from takeovers with proxy values, and without any reward. One file.

A person watches a robot's policy and takes over at will. What they did is worth +1 and what the
robot had proposed in the same state is worth -1; TD learning carries these values to other states,
and the robot climbs them. With --bc-weight 1 it also imitates what the person did: PVP4Real. The
papers have no demonstrations; here they count as the person's steps in which nothing was refused.

Papers: Peng et al., PVP, NeurIPS 2023, https://arxiv.org/abs/2502.03369; Peng et al., PVP4Real,
ICRA 2025, https://arxiv.org/abs/2503.04969. Learner: TD3 (Fujimoto et al., ICML 2018). "Eq. 1",
by which the simulated person judges, is RLIF's (Luo et al., https://arxiv.org/abs/2311.12996).

    python pvp.py                      # Hopper-v5, from 50 demonstrations and takeovers
    python pvp.py --resume runs/<run>  # continue a stopped run, bit for bit

Read Agent's critic_loss first, then the loop in main(). The policy has no noise, so evaluations by
sampled actions repeat the others. Shapes: O observation, A action, B batch, E episodes.
"""

import csv
import json
import math
import os
import sys
import time
import zlib
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from filelock import FileLock, Timeout
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import TRAINING_TASKS, InputError, Task, load_demonstrations, load_expert
from experts import normalized_score, save_expert
from experts.human import Person

MAX_ACTION = 0.999  # limit of executed and stored actions: cloning takes atanh, infinite at 1
FALLS = ["Hopper", "Walker2d", "HalfCheetah", "Ant", "Humanoid", "InvertedPendulum"]
# what an early end is worth where it is known to be a fall; a success; or a landing or a crash
END_VALUES = dict.fromkeys([*FALLS, "AdroitHandPen", "gym_hil"], -1.0)
END_VALUES |= {"Meta-World": 1.0, "LunarLanderContinuous": 0.0}


@dataclass
class Args:
    # --- run ---
    exp_name: str = "pvp"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: int = 1  # random seed: on a machine's CPU, the same seed gives the same run to the bit
    resume: str | None = None  # continue this run, runs/<run>; options typed now replace its own
    capture_video: bool = False  # film the policy at the end (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)
    # --- task ---
    env_id: str = "Hopper-v5"  # a Gymnasium environment with continuous actions, or Pixels/<its id>
    max_episode_steps: int | None = None  # time limit of an episode; default: the environment's
    total_timesteps: int = 25_000  # environment steps
    eval_frequency: int = 2_500  # evaluate every so many steps, once the episode has ended
    eval_episodes: int = 20  # episodes with mean actions, and as many with sampled actions
    single_env: bool = False  # evaluate in the training environment (if there is but one robot)
    # --- person ---
    expert: str = "low"  # who takes over: a shipped level or a .safetensors file
    # value: by RLIF's Eq. 1; human: you, in a window (docs/keys.md)
    intervention: Literal["value", "human"] = "value"
    reference: str = "top"  # the simulated judge's policy and Q function: a level or a file
    intervention_alpha: float = 0.995  # bad: Q(s, a) < Q(s, a_ref) - (1 - this) |Q(s, a_ref)|
    intervention_delta: float = 0.0  # Eq. 1's delta in units of Q, on top of the margin by alpha
    intervention_beta: float = 0.95  # probability of a takeover if flagged as bad; 1 - this if not
    takeover_steps: int = 4  # steps that the expert keeps control
    keys: str | None = None  # human: a file of key bindings, like experts/keys.toml
    replay: str | None = None  # human: learn again from the session in this folder, runs/<run>
    # --- data ---
    demo_episodes: int = 50  # demonstrations to begin with, drawn by the seed; 0: none
    dataset_id: str | None = None  # a Minari dataset; default: the one that is shipped for the task
    bc_weight: float = 0.0  # of imitating the person in the actor's loss: 0 is PVP, 1 is PVP4Real
    end_value: float | None = None  # value of an early end: a fall -1, a success |this|; papers: 0
    # --- learner ---
    batch_size: int = 256  # transitions per update (PVP: 128, PVP4Real: 1024)
    gamma: float = 0.99  # discount
    tau: float = 0.005  # Polyak step of the target critics and target actor
    learning_rate: float = 1e-4  # Adam's, for actor and critics
    random_steps: int = 100  # of random proposals at first; a robot may need 0
    standardize_obs: bool = True  # by demonstrations' mean and deviation, if any (not in the paper)
    hidden_sizes: tuple[int, ...] = (256, 256)  # of actor and critics
    cuda: bool = False  # learn on the GPU
    num_threads: int = 1  # of torch on the CPU; more are slower where other programs run

    def check(self):
        zeros = "seed", "demo_episodes", "random_steps"
        for name, value in vars(self).items():
            least = 1 if type(value) is int and name not in zeros else 0
            least = -1e38 if name in ("intervention_delta", "end_value") else least
            most = 1 if name in ("intervention_alpha", "intervention_beta", "tau") else 1e38
            if type(value) in (int, float) and not least <= value <= most:  # nor may it be nan
                raise InputError(f"--{name.replace('_', '-')} {value} is not in {least} to {most}")
        if self.gamma >= 1 or self.batch_size < 4 or min(self.hidden_sizes, default=0) < 1:
            raise InputError("give --gamma below 1, --batch-size above 3, --hidden-sizes above 0")
        if self.cuda and (self.intervention == "human" or not torch.cuda.is_available()):
            raise InputError("leave --cuda out: there is no GPU, or --intervention is human")


# --- environment ----------------------------------------------------------------------------------
def make_env(env_id, max_episode_steps=None, render_mode=None):
    """gym.make's, with flat observations, and actions in [-1, 1]."""
    env = gym.wrappers.FlattenObservation(Task(env_id, max_episode_steps, render_mode))
    space = env.action_space
    vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"
    if not vector or not ((space.high > space.low) & (space.high - space.low < 1e9)).all():
        raise InputError(f"--env-id {env_id}: needs bounded continuous actions, not {space}")
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


# --- person ---------------------------------------------------------------------------------------
class ValueHuman:
    """Takes over where a reference Q function finds the novice's proposal bad (Eq. 1)."""

    grace_steps = 1  # steps of the novice after a takeover that are not checked (RLIF's code)

    def __init__(self, args, reference, rng):
        self.args, self.reference, self.rng = args, reference, rng

    def check(self, obs, proposal):
        """Flagged as bad? Does a takeover start, and how long? (O,), (A,) -> bool, bool, steps."""
        obs = torch.as_tensor(obs, dtype=torch.float32)[None]  # (1, O)
        actions = torch.cat([torch.as_tensor(proposal)[None], self.reference.act(obs)])  # (2, A)
        q_novice, q_reference = self.reference.q(obs.expand(2, -1), actions).tolist()
        # relative to |Q|: where Q < 0, alpha * Q would lie above Q
        margin = (1 - self.args.intervention_alpha) * abs(q_reference)
        flagged = q_novice < q_reference - margin - self.args.intervention_delta  # Eq. 1
        chance = self.args.intervention_beta if flagged else 1 - self.args.intervention_beta
        started = self.rng.random() < chance
        return flagged, started, self.args.takeover_steps if started else 0


# --- network --------------------------------------------------------------------------------------
class Actor(nn.Module):
    """TD3's policy, without noise: log_std is there so that experts/ can load its file."""

    def __init__(self, obs_dim, act_dim, hidden_sizes):
        super().__init__()
        sizes = [obs_dim, *hidden_sizes]
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:]))
        self.mean, self.log_std = (nn.Linear(sizes[-1], act_dim) for _ in range(2))
        for tensor, number in ((self.log_std.weight, 0.0), (self.log_std.bias, -20.0)):
            nn.init.constant_(tensor, number).requires_grad_(False)

    def forward(self, obs):
        """pi(s): (B, O) -> (B, A), in (-1, 1)."""
        x = (obs - self.obs_mean) / self.obs_std  # (B, O)
        for layer in self.layers:
            x = F.relu(layer(x))  # (B, hidden)
        return self.mean(x).tanh()

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        """What is executed and stored, kept off the edges of [-1, 1]: numpy (B, O) -> (B, A)."""
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        return self(obs).clamp(-MAX_ACTION, MAX_ACTION).cpu().numpy()


class Agent(nn.Module):
    """TD3 with proxy values and no reward: actor, two critics, their targets, and updates."""

    def __init__(self, obs_dim, act_dim, args, device):
        super().__init__()
        self.args, self.actor = args, Actor(obs_dim, act_dim, args.hidden_sizes)
        sizes, self.qf = [obs_dim + act_dim, *args.hidden_sizes], nn.ModuleList()
        for _ in range(2):
            pairs = zip(sizes[:-1], sizes[1:])
            layers = [nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairs]
            self.qf.append(nn.Sequential(*layers, nn.Linear(sizes[-1], 1)))
        self.actor_target, self.qf_target = deepcopy(self.actor), deepcopy(self.qf)
        self.to(device)
        learned = [x for x in self.actor.parameters() if x.requires_grad]
        self.actor_optimizer = torch.optim.Adam(learned, args.learning_rate, fused=True)
        self.qf_optimizer = torch.optim.Adam(self.qf.parameters(), args.learning_rate, fused=True)

    def q(self, critics, obs, actions):
        """Q(s, a) by each of the two: (B, O), (B, A) -> (2, B)."""
        x = torch.cat([(obs - self.actor.obs_mean) / self.actor.obs_std, actions], -1)  # (B, O + A)
        return torch.stack([critic(x).squeeze(-1) for critic in critics])

    def critic_loss(self, batch, noise):
        """TD error and proxy values, summed over the two critics; noise: (B, A)."""
        obs, next_obs, done = batch["obs"], batch["next_obs"], batch["terminations"]
        with torch.no_grad():
            noise = (0.2 * noise).clamp(-0.5, 0.5)  # (B, A), as in TD3
            next_actions = (self.actor_target(next_obs) + noise).clamp(-1, 1)
            next_q = self.q(self.qf_target, next_obs, next_actions).amin(0)  # (B,)
            # papers: 0; then a fall beats a refused action (-1), and help (+1) beats a success
            target = done * batch["end_values"] + self.args.gamma * (1 - done) * next_q  # (B,)
        q, q_n = (self.q(self.qf, obs, batch[x]) for x in ("actions", "proposals"))  # (2, B) each
        # I (|Q(s, a_h) - 1|^2 + |Q(s, a_n) + 1|^2), the mask I within the mean as in the paper's
        # equation. PVP's code multiplies the batch's mean by I, which masks nothing; it halves the
        # TD error, and drops it where a takeover starts
        proxy = batch["by_person"] * (q - 1).pow(2) + batch["refused"] * (q_n + 1).pow(2)
        return ((q - target).pow(2) + proxy).mean(-1).sum()

    def actor_loss(self, batch):
        """Minus the first critic's value; for PVP4Real plus distance to the person's actions."""
        actions = self.actor(batch["obs"])  # (B, A)
        distance = (batch["actions"] - actions).pow(2).mean(-1)  # (B,)
        imitation = (batch["by_person"] * distance).sum() / (batch["by_person"].sum() + 1e-5)
        return -self.q(self.qf[:1], batch["obs"], actions).mean() + self.args.bc_weight * imitation

    def update(self, batch, number):
        """TD3's update; number: 1 for a run's first; even ones train the actor. Returns losses."""
        loss = self.critic_loss(batch, torch.randn_like(batch["actions"]))
        self.qf_optimizer.zero_grad()
        loss.backward()
        self.qf_optimizer.step()
        losses = {"qf_loss": loss.detach()}
        if number % 2 == 0:  # TD3's delay
            loss = self.actor_loss(batch)
            self.actor_optimizer.zero_grad()
            loss.backward()
            self.actor_optimizer.step()
            losses["actor_loss"] = loss.detach()
            with torch.no_grad():
                for net, target in ((self.actor, self.actor_target), (self.qf, self.qf_target)):
                    for x, y in zip(net.parameters(), target.parameters()):
                        y.lerp_(x, self.args.tau)
        return losses


# --- buffer ---------------------------------------------------------------------------------------
class ReplayBuffer:
    """All transitions of a run in the order they happened; the demonstrations come first."""

    def __init__(self, capacity, obs_dim, act_dim):
        sizes = {"obs": (obs_dim,), "next_obs": (obs_dim,), "actions": (act_dim,)}
        sizes |= {"proposals": (act_dim,), "by_person": (), "refused": ()}
        sizes |= {"terminations": (), "end_values": ()}
        self.data = {name: np.zeros((capacity, *size), "f") for name, size in sizes.items()}
        print(f"the replay buffer takes {sum(x.nbytes for x in self.data.values()) / 1e6:.0f} MB")
        self.size = 0

    def state_dict(self):
        return {name: torch.from_numpy(x[: self.size]) for name, x in self.data.items()}

    def load_state_dict(self, state):
        self.size = len(state["obs"])
        for name in self.data:  # each leaves the memory as soon as it is copied
            self.data[name][: self.size] = state.pop(name)

    def add(self, transition):
        for name, value in transition.items():
            self.data[name][self.size] = value
        self.size += 1

    def sample(self, rng, batch_size, device):
        """A dict of tensors (B, ...), or None at first: half are the robot's own steps, a quarter
        demonstrations, a quarter refused proposals (without demonstrations half, as in PVP).
        Demonstrations replace a kind until it has over batch_size / 2 rows.
        """
        by_person, refused = (self.data[x][: self.size] > 0 for x in ("by_person", "refused"))
        demos = np.flatnonzero(by_person & ~refused)
        rest = np.flatnonzero(refused), np.flatnonzero(~by_person & ~refused)
        taken, robots = (rows if len(rows) > batch_size // 2 else demos for rows in rest)
        demos = demos if len(demos) else taken
        quarters = [rows for rows in (demos, taken, robots, robots) if len(rows)]
        if not quarters:
            return None
        i = np.concatenate([rng.choice(rows, batch_size // len(quarters)) for rows in quarters])
        return {name: torch.from_numpy(x[i]).to(device) for name, x in self.data.items()}


# --- evaluation -----------------------------------------------------------------------------------
def evaluate(env_id, actor, envs, *key):
    """In each env one episode with mean and one with sampled actions, seeded by the key."""
    row, seeds = {}, np.random.SeedSequence(key).generate_state(len(envs)).tolist()
    for prefix, deterministic in (("", True), ("stochastic_", False)):
        returns, successes = np.zeros(len(envs)), np.full(len(envs), math.nan)  # (E,) each
        with torch.random.fork_rng():
            torch.manual_seed(seeds[0])
            for first in range(0, len(envs), n := len(set(envs))):  # n at a time; --single-env: 1
                playing = list(range(first, first + n))
                obs = {i: envs[i].reset(seed=seeds[i])[0] for i in playing}  # (O,) each
                while playing:
                    actions = actor.act(np.stack([obs[i] for i in playing]), deterministic)
                    for i, action in zip(tuple(playing), actions):  # (A,) each
                        obs[i], reward, terminated, truncated, info = envs[i].step(action)
                        returns[i] += reward
                        if terminated or truncated:
                            successes[i] = info["success"]
                            playing.remove(i)
        known = not np.isnan(successes).all()  # some report a success only where there is one
        row[f"{prefix}success_rate"] = 100 * np.nan_to_num(successes).mean() if known else math.nan
        row[f"{prefix}return_mean"] = returns.mean()
        row[f"{prefix}normalized_score"] = normalized_score(env_id, returns).mean()  # D4RL's
    return {name: float(value) for name, value in row.items()}


def write_rows(folder, writer, bar, rows):
    """All evaluations as eval.csv, the last to TensorBoard and the bar; nan: what is not known."""
    bar.set_postfix({x: rows[-1][x] for x in ("normalized_score", "success_rate", "return_mean")})
    for name, value in rows[-1].items():
        if not math.isnan(value):
            writer.add_scalar(f"eval/{name}", value, rows[-1]["global_step"])
    with open(folder / "eval.tmp", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    os.replace(folder / "eval.tmp", folder / "eval.csv")  # as a whole, or not at all


# --- main -----------------------------------------------------------------------------------------
def main(args):
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    if args.end_value is None:
        name = args.env_id.removeprefix("Pixels/").split("/")[0].split("-v")[0]
        args.end_value = END_VALUES.get(name)
    mode = "rgb_array" if args.capture_video or args.intervention == "human" else None
    task = args.env_id, args.max_episode_steps, mode
    env = make_env(TRAINING_TASKS.get(args.env_id, args.env_id), *task[1:])
    eval_envs = [env if args.single_env else make_env(*task) for _ in range(args.eval_episodes)]
    if args.end_value is None:
        raise InputError("give --end-value -1 (ends are falls), 1 (successes) or 0 (other, none)")
    if args.intervention == "value":
        human = ValueHuman(args, load_expert(args.env_id, args.reference, env, with_q=True), rng)
        expert = load_expert(args.env_id, args.expert, env)
    demos = load_demonstrations(args.env_id, env, args.demo_episodes, args.seed, args.dataset_id)
    demo_facts = {"demo_transitions": len(demos["obs"]), "demo_hash": zlib.crc32(demos["actions"])}
    obs_dim, act_dim = env.observation_space.shape + env.action_space.shape
    rb = ReplayBuffer(len(demos["obs"]) + args.total_timesteps, obs_dim, act_dim)

    # The run's folder, a new one or that of --resume
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(args.resume or f"runs/{name.replace('/', '-').replace(':', '-')}-{os.getpid()}")
    if args.intervention == "human" or args.replay:
        env = expert = human = Person(env, args, folder)  # all three: it steps, acts and judges
    agent = Agent(obs_dim, act_dim, args, device)
    # gym-hil's reward of 1 is a success; nothing was refused in a demonstration
    succeeded = demos["rewards"] * ("gym_hil/" in args.env_id) == 1
    worth = np.where(succeeded, abs(args.end_value), args.end_value)
    own = {"by_person": 1.0, "refused": 0.0, "proposals": 0.0, "end_values": worth}
    rb.load_state_dict(demos | own)
    demo_obs = torch.from_numpy(demos["obs"])  # (n, O)
    if args.standardize_obs and rb.size:
        std = demo_obs.std(0).clamp_min(0.01)  # (O,), and 1 for what never varied
        for actor in (agent.actor, agent.actor_target):
            actor.obs_mean.copy_(demo_obs.mean(0))
            actor.obs_std.copy_(torch.where((demo_obs == demo_obs[0]).all(0), 1.0, std))
    kept = {"agent": agent, "rb": rb, "actor": agent.actor_optimizer, "qf": agent.qf_optimizer}
    counts = {"labels": 0, "takeovers": 0, "expert_steps": 0, "checks": 0, "flags": 0, "updates": 0}
    global_step, episode, rows, losses = 0, 0, [], {}  # rows: of eval.csv
    folder.mkdir(parents=True, exist_ok=args.resume is not None)
    _lock = FileLock(folder / "in_use.lock", timeout=0).acquire()  # no other process writes here
    args.resume = str(folder)  # for the message after Ctrl-C
    print(f"in {folder}: evaluations, checkpoint, policy")
    if (folder / "checkpoint.pt").exists():
        state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
        if state["global_step"] > args.total_timesteps:
            raise InputError(f"give --total-timesteps above {state['global_step']}, the steps done")
        for name, thing in kept.items():
            thing.load_state_dict(state[name])
        for optimizer in (agent.actor_optimizer, agent.qf_optimizer):
            optimizer.param_groups[0]["lr"] = args.learning_rate  # as typed
        rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"])
        global_step, episode = state["global_step"], state["episode"]
        counts, rows = state["counts"], state["rows"]
    (folder / "args.tmp").write_text(json.dumps(vars(args) | {"resume": None}, indent=2))
    os.replace(folder / "args.tmp", folder / "args.json")
    if args.track:
        import wandb

        wandb.init(project="interventions", id=folder.name, resume="allow", sync_tensorboard=True)
    writer = SummaryWriter(folder, purge_step=global_step + 1)
    writer.add_text("options", "\n".join(f"- {name}: {x}" for name, x in vars(args).items()))
    begun = time.perf_counter() - (rows[-1]["wall_seconds"] if rows else 0.0)
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", dynamic_ncols=True)
    while True:
        over = global_step >= args.total_timesteps
        evaluated = rows[-1]["global_step"] if rows else -1  # at which step, the last time
        passed = global_step // args.eval_frequency > evaluated // args.eval_frequency
        if passed or (over and global_step > evaluated):
            row = {"global_step": global_step, **counts}
            previous = rows[-1] if rows else row
            since = {name: row[name] - previous[name] for name in row}
            row["intervention_rate"] = since["expert_steps"] / max(1, since["global_step"])
            row["flagged_rate"] = since["flags"] / max(1, since["checks"])
            row |= evaluate(args.env_id, agent.actor, eval_envs, args.seed, 1, global_step)
            rows.append(row | demo_facts | {"wall_seconds": time.perf_counter() - begun})
            write_rows(folder, writer, bar, rows)
            state = {name: thing.state_dict() for name, thing in kept.items()}
            state |= {"rng": rng.bit_generator.state, "torch_rng": torch.get_rng_state()}
            state |= {"global_step": global_step, "episode": episode}
            torch.save(state | {"counts": counts, "rows": rows}, folder / "checkpoint.tmp")
            os.replace(folder / "checkpoint.tmp", folder / "checkpoint.pt")  # for --resume
        if over:
            break

        seed = np.random.SeedSequence((args.seed, 0, episode)).generate_state(1)[0]
        obs, _ = env.reset(seed=int(seed))
        t, expert_until, next_check, takeovers = 0, 0, 0, 0  # of this episode
        ended, episodic_return = False, 0.0
        while not ended:
            # The novice proposes a_n, without noise; does the person take over and do a_h?
            proposals = agent.actor.act(obs[None])[0]  # (A,)
            if global_step < args.random_steps:
                proposals = rng.uniform(-MAX_ACTION, MAX_ACTION, act_dim).astype(np.float32)
            started = False
            if t >= next_check:
                flagged, started, steps = human.check(obs, proposals)
                counts["checks"] += 1
                counts["flags"] += flagged
                if steps:  # at the keys also when an earlier takeover continues
                    takeovers += started
                    counts["takeovers"] += started
                    expert_until, next_check = t + steps, t + steps + human.grace_steps
            by_person = t < expert_until
            refused = by_person or started  # a tap of space flags without a takeover
            actions = expert.act(obs[None])[0].numpy() if by_person else proposals  # (A,)
            counts["expert_steps"] += by_person
            counts["labels"] += refused

            next_obs, task_reward, terminated, truncated, info = env.step(actions)
            transition = {"obs": obs, "next_obs": next_obs, "actions": actions}
            transition |= {"proposals": proposals, "by_person": by_person, "refused": refused}
            transition["terminations"] = terminated  # in PVP's code a time limit is an end, too
            worth = abs(args.end_value) if info["success_now"] == 1 else args.end_value
            rb.add(transition | {"end_values": worth})
            obs, t, global_step = next_obs, t + 1, global_step + 1
            episodic_return += task_reward
            ended = terminated or truncated or global_step == args.total_timesteps

            # TD3: the critics learn at every step, the actor at every second one
            if batch := rb.sample(rng, args.batch_size, device):
                counts["updates"] += 1
                losses |= agent.update(batch, counts["updates"])
                if not math.isfinite(sum(losses.values())):
                    raise FloatingPointError(f"step {global_step}: the losses are {losses}")
                if global_step % 500 == 0:
                    for name, value in losses.items():
                        writer.add_scalar(f"losses/{name}", value.item(), global_step)
            bar.update()
        episode += 1
        charts = {"episodic_return": episodic_return, "episodic_length": t, "takeovers": takeovers}
        charts["steps_per_second"] = global_step / (time.perf_counter() - begun)
        for name, value in charts.items():
            writer.add_scalar(f"charts/{name}", value, global_step)

    bar.close()
    writer.close()
    save_expert(folder / "model.safetensors", agent.actor, env_id=args.env_id)
    if args.capture_video:
        with gym.wrappers.RecordVideo(eval_envs[0], f"{folder}/videos") as film:
            evaluate(args.env_id, agent.actor, [film], args.seed, 2)


if __name__ == "__main__":
    args = tyro.cli(Args)
    try:
        if source := args.resume or getattr(args, "replay", None):
            saved = Path(source, "args.json")  # its options, but for those that are typed
            own = json.loads(saved.read_text() if saved.exists() else "{}")
            own = {k: tuple(x) if isinstance(x, list) else x for k, x in own.items()}
            if own.keys() != vars(args).keys():
                raise InputError(f"no run of this script and version is in {source}")
            args = tyro.cli(Args, default=Args(**own))
            fixed = "seed env_id reward hidden_sizes num_qs demo_episodes dataset_id mental_model"
            fixed += " interventions_only doubt_novices initial_policy round_episodes termination"
            for name in fixed.split():
                if args.resume and vars(args).get(name) != own.get(name):
                    raise InputError(f"--{name.replace('_', '-')} must stay {own[name]}, the run's")
        args.check()
        main(args)
    except (InputError, MemoryError, Timeout, gym.error.Error, ImportError) as error:
        print(f"{sys.argv[0]}: {error.with_traceback(None)}", file=sys.stderr)  # below the bar
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\nstopped; to go on: python {sys.argv[0]} --resume {args.resume or '...'}")
        sys.exit(130)
