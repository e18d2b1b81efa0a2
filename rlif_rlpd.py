"""RLIF: learning from the decision to intervene, on RLPD. One file; no task reward is learned from.

A person watches a robot's policy and takes over when it does badly. The step before a takeover gets
reward -1, every other step 0, and off-policy RL learns to avoid takeovers: the policy can become
better than the person's own driving. One thing more is charged by default: a fall, as if the robot
were taken over for ever (see end_of_episode: otherwise the agent learns to fall).

Paper: Luo et al., RLIF, ICLR 2024, https://arxiv.org/abs/2311.12996; "Alg. 2", "Eq. 1" are its.
Learner: RLPD (Ball et al., ICML 2023, https://arxiv.org/abs/2302.02948), SAC with LayerNorm, many
critics and prior data.

    python rlif_rlpd.py                        # Hopper-v5: an expert of 16 %, a policy near 110 %
    python rlif_rlpd.py --resume runs/<run>    # go on after a stop, to the bit

Read the loop in main() first: it is Algorithm 2. Then ValueHuman (when to intervene), Agent (RLPD),
end_of_episode. In shapes: O observation size, A action size, B batch, G updates a step, N critics.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import MAX_ACTION, TRAINING_TASKS, Checked, InputError, RunError, Stop, UnitActions
from experts import check_demonstrations, check_rendering, end_is, evaluate, exit_codes, film
from experts import finish_run, load_demonstrations, load_expert, main_metric, open_run, open_task
from experts import parse, restore, run_seconds, save_run, seed_for, unused, write_rows
from experts.human import Person, check_person
from experts.options import Count, Discount, Finite, Natural, NonNegative, Percentage, Positive
from experts.options import Seed, Share
from experts.speed import CudaGraph, compiled


@dataclass
class Args:
    # --- run ---
    exp_name: str = "rlif_rlpd"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: Seed = 1  # of everything: on the CPU, the same seed gives the same run to the bit
    resume: str | None = None  # go on with this folder, runs/<run>, and its options
    capture_video: bool = False  # at the end, film what it can do (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)

    # --- task ---
    env_id: str = "Hopper-v5"  # any Gymnasium environment with continuous actions, but for images
    max_episode_steps: Count | None = None  # of every episode; default: the environment's own limit
    total_timesteps: Count = 50_000  # environment steps
    eval_frequency: Count = 5_000  # steps: evaluated after the episode that passes a multiple of it
    eval_episodes: Count = 20  # of an evaluation by mean actions, and of one by sampled actions

    # --- person ---
    expert: str = "low"  # who takes over: a shipped level or a .safetensors file
    # when: by value (Eq. 1), at random, never, or when you do (a window opens)
    intervention: Literal["value", "random", "none", "human"] = "value"
    reference: str = "top"  # whose policy and Q function judge: a level or a .safetensors file
    intervention_alpha: Finite = 0.995  # bad: Q(s, a) < Q(s, a_ref) - (1 - this) |Q(s, a_ref)|
    intervention_delta: Finite = 0.0  # and this, Eq. 1's delta, less; in units of Q
    intervention_beta: Share = 0.95  # probability of a takeover if flagged as bad; 1 - this if not
    takeover_steps: Count = 4  # steps that the expert keeps control
    random_rate: Percentage = 50.0  # random: percentage of the steps under expert control
    keys: str | None = None  # human: a file that says what they do, as experts/keys.toml
    replay: str | None = None  # human: the session that was recorded in this folder, runs/<run>

    # --- data ---
    demo_episodes: Natural = 50  # demonstrations to begin with, without their rewards; 0: none
    dataset_id: str | None = None  # a Minari dataset; default: rollouts of the shipped top expert
    demo_noise: NonNegative = 0.09  # standard deviation of noise on these rollouts' actions
    offline_ratio: Share = 0.0  # share of a batch from demonstrations alone; 0: they join the rest
    bc_weight: NonNegative = 0.0  # of a pull towards the demonstrated actions in the actor's loss
    # intervention: -1 before a takeover; task: the environment's own, i.e. plain RLPD; none: 0
    reward: Literal["intervention", "task", "none"] = "intervention"
    # what the end of an episode is worth, see end_of_episode; default: penalty where it is known to
    # be a fall, mask where it is known to be a success and for --reward task; elsewhere, say which
    termination: Literal["penalty", "mask", "bootstrap"] | None = None

    # --- learner ---
    batch_size: Count = 256  # transitions per update
    gamma: Discount = 0.99  # discount
    tau: Share = 0.005  # step of the target critics
    learning_rate: Positive = 3e-4  # Adam's, for actor, critics and temperature
    final_lr_fraction: Share = 0.1  # over the second half the rate falls linearly to this share
    standardize_obs: bool = True  # by the demonstrations' mean and deviation (not in the paper)
    hidden_sizes: tuple[Count, ...] = (256, 256)  # of actor and critics
    num_qs: Count = 3  # critics (RLPD: 10)
    num_min_qs: Count = 2  # critics drawn for each target, which takes their minimum
    utd_ratio: Count = 1  # critic updates per environment step; the actor gets one
    target_entropy: Finite | None = None  # default: -A / 2

    # --- speed ---
    cuda: bool = False  # learn on the GPU
    num_threads: Count = 2  # of torch on the CPU
    compile: bool = True  # compile the gradients (needs g++): the same to rounding, and faster
    bf16: bool = False  # bfloat16 products while learning: faster on AMX or AVX512-BF16, and GPUs


def check(args, typed):
    """Refuse options that contradict each other, and those that do nothing beside others."""
    if args.intervention != "value":
        why = f"--intervention {args.intervention} does not judge by value"
        unused(typed, "reference intervention_alpha intervention_delta intervention_beta", why)
    if args.intervention != "random":
        unused(typed, "random_rate", f"--intervention {args.intervention} does not act at random")
    check_person(args, typed, "expert takeover_steps")
    if args.intervention == "none":
        unused(typed, "expert takeover_steps", "nobody takes over")
        if args.reward != "task":
            raise InputError("--intervention none leaves no reward but --reward task")
    check_demonstrations(args, typed, "standardize_obs")
    if args.demo_episodes == 0 and args.offline_ratio:
        raise InputError("--offline-ratio needs demonstrations, not --demo-episodes 0")
    offline = round(args.offline_ratio * args.batch_size)
    if (args.offline_ratio or args.bc_weight) and not offline:
        raise InputError("--offline-ratio is too small: no demonstrations in a batch")
    if args.num_min_qs > args.num_qs:
        raise InputError(f"--num-min-qs {args.num_min_qs} is more than --num-qs {args.num_qs}")
    if args.reward == "task" and args.termination == "penalty":
        raise InputError("--reward task needs --termination bootstrap or mask")
    if usual_termination(args) is None and args.termination is None:
        raise InputError(
            f"--env-id {args.env_id}: is it good or bad if an episode ends before its time? "
            "--termination penalty (bad: a fall, it is charged), mask (good: nothing comes after "
            "it, worth 0) or bootstrap (both occur)"
        )


# --- environment ----------------------------------------------------------------------------------


def make_env(env_id, max_episode_steps=None, **options):
    """The environment with flat observations, and actions in [-1, 1] or as one-hot vectors."""
    env = open_task(env_id, max_episode_steps, **options)  # gym.make, or one line on what is wrong
    env = gym.wrappers.FlattenObservation(env)
    return UnitActions(Checked(env))


# --- intervention ---------------------------------------------------------------------------------


class ValueHuman:
    """Takes over where a reference Q function finds the novice's proposal bad (Eq. 1)."""

    grace_steps = 1  # steps of the novice after a takeover that are not checked (official code)

    def __init__(self, args, reference, rng):
        self.args, self.reference, self.rng = args, reference, rng
        # E[gamma^m], m steps between the starts of two takeovers of a robot that always needs one
        self.discount = args.gamma ** (args.takeover_steps + self.grace_steps)

    def check(self, obs, proposal):
        """Flagged as bad? Does a takeover start, and how long? (O,), (A,) -> bool, bool, steps."""
        obs = torch.as_tensor(obs, dtype=torch.float32)[None]  # (1, O)
        actions = torch.cat([torch.as_tensor(proposal)[None], self.reference.act(obs)])  # (2, A)
        q_novice, q_reference = self.reference.q(obs.expand(2, -1), actions).tolist()
        # relative to |Q|, for alpha * Q would turn its meaning round where Q < 0
        margin = (1 - self.args.intervention_alpha) * abs(q_reference)
        flagged = q_novice < q_reference - margin - self.args.intervention_delta  # Eq. 1
        chance = self.args.intervention_beta if flagged else 1 - self.args.intervention_beta
        started = self.rng.random() < chance
        return flagged, started, self.args.takeover_steps if started else 0


class RandomHuman:
    """Takes over at random, and acts in a share p = random_rate / 100 of the steps."""

    grace_steps = 0

    def __init__(self, args, rng):
        # takeovers of k steps hold that share if k (1 - p) / p steps of the novice lie between two
        k, p, self.rng = args.takeover_steps, args.random_rate / 100, rng
        self.takeover_steps = k
        self.chance = 1 / (1 + k * (1 - p) / p)
        # E[gamma^m] as above: m is k and a geometric number of the novice's steps
        self.discount = args.gamma**k * self.chance / (1 - (1 - self.chance) * args.gamma)

    def check(self, obs, proposal):
        """Flags nothing; does a takeover start, and how long? (O,), (A,) -> bool, bool, steps."""
        started = self.rng.random() < self.chance
        return False, started, self.takeover_steps if started else 0


# --- networks -------------------------------------------------------------------------------------


def product(x, weight, bf16):
    """x @ weight, from bfloat16 factors if bf16: (..., B, in), (..., in, out) -> (..., B, out)."""
    return (x.bfloat16() @ weight.bfloat16()).float() if bf16 else x @ weight


class Actor(nn.Module):
    """Tanh-Gaussian policy."""

    min_log_std = -20.0

    def __init__(self, obs_dim, act_dim, hidden_sizes):
        super().__init__()
        sizes = [obs_dim, *hidden_sizes]
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:]))
        self.mean = nn.Linear(sizes[-1], act_dim)
        self.log_std = nn.Linear(sizes[-1], act_dim)

    def forward(self, obs, bf16=False):
        """Mean and log standard deviation before the tanh: (B, O) -> (B, A) each."""
        x = (obs - self.obs_mean) / self.obs_std  # (B, O)
        for layer in self.layers:
            x = F.relu(product(x, layer.weight.T, bf16) + layer.bias)  # (B, hidden)
        return self.mean(x), self.log_std(x).clamp(self.min_log_std, 2)

    def sample(self, obs, noise, bf16=False):
        """Actions for this standard normal noise, and ln pi of them: (B, A), (B,)."""
        mean, log_std = self(obs, bf16)
        u = mean + log_std.exp() * noise  # (B, A), before the tanh
        log_normal = -0.5 * noise.pow(2) - log_std - 0.5 * math.log(2 * math.pi)
        log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # ln(d tanh(u) / du)
        return u.tanh(), (log_normal - log_slope).sum(-1)

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        """What is executed and stored, kept off the edges of [-1, 1]: numpy (B, O) -> (B, A)."""
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        mean, log_std = self(obs)
        u = mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)
        return u.tanh().clamp(-MAX_ACTION, MAX_ACTION).cpu().numpy()


class QEnsemble(nn.Module):
    """N critics as one batched network: every parameter has a leading dimension N."""

    def __init__(self, obs_dim, act_dim, hidden_sizes, num_qs):
        super().__init__()
        sizes = [obs_dim + act_dim, *hidden_sizes, 1]
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        shapes = [(num_qs, i, o) for i, o in zip(sizes[:-1], sizes[1:])]
        bounds = [1 / math.sqrt(i) for i in sizes[:-1]]  # as in nn.Linear
        weights = [torch.empty(shape).uniform_(-b, b) for shape, b in zip(shapes, bounds)]
        biases = [torch.empty(n, 1, o).uniform_(-b, b) for (n, _, o), b in zip(shapes, bounds)]
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.norm_weights = nn.ParameterList(torch.ones(num_qs, 1, h) for h in hidden_sizes)
        self.norm_biases = nn.ParameterList(torch.zeros(num_qs, 1, h) for h in hidden_sizes)

    def forward(self, obs, actions, members=slice(None), bf16=False):
        """Q_i(s, a) of the chosen members: (B, O), (B, A) -> (N, B)."""
        x = torch.cat([(obs - self.obs_mean) / self.obs_std, actions], dim=-1)  # (B, O + A)
        for i, norm_weight in enumerate(self.norm_weights):
            x = product(x, self.weights[i][members], bf16) + self.biases[i][members]
            x = F.layer_norm(x, x.shape[-1:])  # (N, B, hidden)
            x = F.relu(torch.addcmul(self.norm_biases[i][members], x, norm_weight[members]))
        # the product with a single column as a sum, which fuses with what is around it
        q = (x * self.weights[-1][members].mT).sum(-1)  # (N, B)
        return q + self.biases[-1][members].squeeze(-1)


class Agent(nn.Module):
    """RLPD's learner: actor, critics, temperature and their updates."""

    def __init__(self, obs_dim, act_dim, args, device):
        super().__init__()
        self.args = args
        self.actor = Actor(obs_dim, act_dim, args.hidden_sizes)
        self.qf = QEnsemble(obs_dim, act_dim, args.hidden_sizes, args.num_qs)
        self.qf_target = QEnsemble(obs_dim, act_dim, args.hidden_sizes, args.num_qs)
        self.qf_target.load_state_dict(self.qf.state_dict())
        self.log_alpha = nn.Parameter(torch.tensor([math.log(0.1)]))  # temperature (RLPD: 1)
        self.to(device)
        usual = -act_dim / 2
        self.target_entropy = usual if args.target_entropy is None else args.target_entropy
        self.learning_rate = torch.tensor(args.learning_rate, device=device)
        options = {"lr": self.learning_rate, "fused": True, "capturable": args.cuda}
        self.qf_optimizer = torch.optim.Adam(self.qf.parameters(), **options)
        learned = [*self.actor.parameters(), self.log_alpha]
        self.actor_optimizer = torch.optim.Adam(learned, **options)

    def standardize(self, obs):
        """See observations with the mean and standard deviation of these, (n, O)."""
        for network in (self.actor, self.qf, self.qf_target):
            network.obs_mean.copy_(obs.mean(0))
            network.obs_std.copy_(obs.std(0).clamp_min(0.01))

    def set_learning_rate(self, progress):
        """Constant over the first half of training, then linear down; progress in [0, 1]."""
        scale = 1 - (1 - self.args.final_lr_fraction) * max(0.0, 2 * progress - 1)
        self.learning_rate.fill_(self.args.learning_rate * scale)
        for optimizer in (self.actor_optimizer, self.qf_optimizer):
            optimizer.param_groups[0]["lr"] = self.learning_rate  # not load_state_dict's copy

    def critic_gradients(self, batch, noise, members):
        """Losses and gradients of all critics, for noise (B, A) and members (M,) of the target."""
        args = self.args
        with torch.no_grad():
            next_actions, _ = self.actor.sample(batch["next_obs"], noise, args.bf16)  # (B, A)
            next_q = self.qf_target(batch["next_obs"], next_actions, members, args.bf16)  # (M, B)
            next_q = next_q.min(0).values  # (B,), without an entropy bonus
            target = batch["rewards"] + args.gamma * (1 - batch["terminations"]) * next_q
            if args.reward != "task":  # all that intervention rewards can sum to
                target = target.clamp(-1 / (1 - args.gamma), 0)
        q = self.qf(batch["obs"], batch["actions"], bf16=args.bf16)  # (N, B)
        loss = (q - target).pow(2).mean(1).sum()  # a sum over critics: each learns as if alone
        losses = {"qf_loss": loss.detach() / args.num_qs, "qf_values": q.detach().mean()}
        return losses, torch.autograd.grad(loss, list(self.qf.parameters()))

    def actor_gradients(self, batch, noise):
        """Losses and gradients of actor and log-temperature; it climbs the mean of all critics."""
        args = self.args
        actions, log_prob = self.actor.sample(batch["obs"], noise, args.bf16)  # (B, A), (B,)
        q = self.qf(batch["obs"], actions, bf16=args.bf16).mean(0)  # (N, B) -> (B,)
        alpha, entropy = self.log_alpha.exp(), -log_prob.mean()
        actor_loss = (alpha.detach() * log_prob - q).mean()
        if args.bc_weight:  # to the demonstrations, which are the first rows of a batch
            n = round(args.offline_ratio * len(q))
            mean = self.actor(batch["obs"][:n], args.bf16)[0].tanh()  # (n, A)
            distance = (mean - batch["actions"][:n]).pow(2).sum(-1)  # (n,)
            actor_loss = actor_loss + args.bc_weight * distance.mean()
        alpha_loss = (alpha * (entropy.detach() - self.target_entropy)).sum()
        losses = {"actor_loss": actor_loss, "alpha": alpha[0], "entropy": entropy}
        losses = {name: value.detach() for name, value in losses.items()}
        learned = [*self.actor.parameters(), self.log_alpha]
        return losses, torch.autograd.grad(actor_loss + alpha_loss, learned)

    def update_critics(self, batch):
        """A gradient step of all critics and a step of their targets (RLPD, Alg. 1)."""
        noise = torch.randn_like(batch["actions"])
        members = torch.rand(self.args.num_qs, device=noise.device).argsort()  # (N,)
        losses, gradients = self.critic_gradients(batch, noise, members[: self.args.num_min_qs])
        descend(self.qf_optimizer, gradients)
        with torch.no_grad():
            targets, qf = list(self.qf_target.parameters()), list(self.qf.parameters())
            torch._foreach_lerp_(targets, qf, self.args.tau)
        return losses

    def update_actor(self, batch):
        """A gradient step of actor and temperature (RLPD, Alg. 1)."""
        losses, gradients = self.actor_gradients(batch, torch.randn_like(batch["actions"]))
        descend(self.actor_optimizer, gradients)
        return losses

    def update(self, batches):
        """RLPD's update on minibatches (G, B, ...): critics on each, the actor on the last."""
        for g in range(len(batches["obs"])):
            batch = {name: values[g] for name, values in batches.items()}
            losses = self.update_critics(batch)
        return losses | self.update_actor(batch)


def descend(optimizer, gradients):
    """An optimiser's step along these gradients."""
    for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients):
        parameter.grad = gradient.contiguous()  # the fused Adam reads memory in order
    optimizer.step()


# --- replay buffer --------------------------------------------------------------------------------


class ReplayBuffer:
    """All transitions of a run; the demonstrations come first."""

    def __init__(self, capacity, obs_dim, act_dim):
        sizes = {"obs": (obs_dim,), "next_obs": (obs_dim,), "actions": (act_dim,)}
        sizes |= {"rewards": (), "terminations": ()}
        self.data = {name: torch.zeros(capacity, *size) for name, size in sizes.items()}
        self.arrays = {name: values.numpy() for name, values in self.data.items()}  # same memory
        self.size = 0
        self.apart = 0  # the first rows, which sample() draws by themselves

    def state_dict(self):
        return {name: values[: self.size].clone() for name, values in self.data.items()}

    def load_state_dict(self, state):
        self.size = len(state["obs"])
        for name, values in state.items():
            self.data[name][: self.size] = values

    def add(self, transition):
        for name, value in transition.items():
            self.arrays[name][self.size] = value
        self.size += 1

    def sample(self, rng, num_batches, batch_size, offline_ratio, device):
        """Minibatches, a dict of tensors (G, B, ...); each begins with its rows set apart."""
        offline = round(offline_ratio * batch_size) if self.apart else 0
        shape = num_batches, batch_size - offline
        indices = self.size - 1 - rng.integers(self.size - self.apart, size=shape)
        if offline:
            first = rng.integers(self.apart, size=(num_batches, offline))
            indices = np.concatenate([first, indices], axis=1)  # (G, B)
        indices = torch.from_numpy(indices)
        return {name: values[indices].to(device) for name, values in self.data.items()}


def usual_termination(args):
    """What --termination is where it is known whether an end is a fall or a success."""
    usual = {"fall": "penalty", "success": "mask", "either": "bootstrap"}
    return "mask" if args.reward == "task" else usual.get(end_is(args.env_id))


def end_of_episode(args, human, transition, terminated):
    """How the last transition of an episode is stored. A time limit is not an end.

    mask: nothing comes after an end, it is worth 0. Where it is a fall that is the suicide trap:
    all other rewards are 0 or -1, so the agent learns to fall as fast as it can.
    penalty: a fall costs what it costs to be taken over for ever, -1 now and after every m steps.
    bootstrap: the critic says what the last state is worth, although no step ever starts there.
    """
    if terminated and args.termination == "penalty":
        return transition | {"rewards": -1 / (1 - human.discount), "terminations": 1.0}
    ends = terminated and args.termination == "mask"
    return transition | {"terminations": float(ends)}


# --- main -----------------------------------------------------------------------------------------


def main(args):
    args = replace(args, termination=args.termination or usual_termination(args))
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    task = args.env_id, args.max_episode_steps
    training = TRAINING_TASKS.get(args.env_id, args.env_id), args.max_episode_steps
    if args.capture_video:
        check_rendering(make_env, *task)
    env = make_env(*training)
    eval_envs = [make_env(*task) for _ in range(min(args.eval_episodes, 20))]
    if env.discrete:
        raise InputError(f"--env-id {args.env_id}: RLPD needs continuous actions")
    expert, reference, human = None, None, None
    if args.intervention in ("value", "random"):
        expert = load_expert(args.env_id, args.expert, env)
        human = RandomHuman(args, rng)
    if args.intervention == "value":
        reference = load_expert(args.env_id, args.reference, env, with_q=True)
        human = ValueHuman(args, reference, rng)
    policies = [policy for policy in (expert, reference) if policy]
    source = args.demo_episodes, args.dataset_id, args.demo_noise, args.reward == "task"
    demos = load_demonstrations(env, args.env_id, *source)
    if args.intervention == "human":
        env = expert = human = Person(make_env(*training, render_mode="rgb_array"), args)
    obs_dim, act_dim = env.observation_space.shape + env.action_space.shape
    agent = Agent(obs_dim, act_dim, args, device)
    rb = ReplayBuffer(len(demos["rewards"]) + args.total_timesteps, obs_dim, act_dim)
    for i, terminated in enumerate(demos["terminations"]):
        transition = {name: values[i] for name, values in demos.items() if name in rb.data}
        rb.add(end_of_episode(args, human, transition, terminated))
    rb.apart = rb.size if args.offline_ratio else 0
    if args.standardize_obs and rb.size:
        agent.standardize(rb.data["obs"][: rb.size])
    if args.compile:
        agent.critic_gradients = compiled(agent.critic_gradients)
        agent.actor_gradients = compiled(agent.actor_gradients)
    update = CudaGraph(agent.update) if args.cuda else agent.update
    kept = {"agent": agent, "rb": rb, "rng": rng}  # what learns or draws
    kept |= {"actor_optimizer": agent.actor_optimizer, "qf_optimizer": agent.qf_optimizer}
    counts = {"labels": 0, "takeovers": 0, "expert_steps": 0, "checks": 0, "flags": 0}
    global_step, episode, rows = 0, 0, []  # rows: of eval.csv
    folder, checkpoint = open_run(args, policies)
    if checkpoint:
        restore(checkpoint, kept)
        global_step, episode, rows, counts = checkpoint["progress"]
    writer = SummaryWriter(folder, purge_step=global_step + 1 if checkpoint else None)
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", dynamic_ncols=True)
    stop = Stop()
    while True:
        # Between two episodes: a checkpoint, from which --resume goes on, and an evaluation
        over = global_step == args.total_timesteps
        before = rows[-1] if rows else {"global_step": 0} | dict.fromkeys(counts, 0)
        passed = global_step // args.eval_frequency - before["global_step"] // args.eval_frequency
        due = over or passed > 0
        if due or stop.asked:
            save_run(folder, args, kept, (global_step, episode, rows, counts), policies)
            stop.heed()
        if due:
            row = {"global_step": global_step, **counts}
            new = {name: row[name] - before[name] for name in row}  # since the last evaluation
            row["intervention_rate"] = new["expert_steps"] / new["global_step"]
            row["flagged_rate"] = new["flags"] / max(1, new["checks"])
            fresh = seed_for(args.seed, 1, global_step)
            row |= evaluate(args.env_id, agent.actor, eval_envs, args.eval_episodes, fresh)
            rows.append(row | {"wall_seconds": run_seconds()})
            write_rows(folder, writer, rows)
            shown = {"interventions": f"{row['intervention_rate']:.0%}"}
            bar.set_postfix(score=f"{row[main_metric(rows)]:.0f}", **shown)
        if over:
            break
        stop.wait()

        obs, _ = env.reset(seed=seed_for(args.seed, 0, episode))
        t, expert_until, next_check = 0, 0, 0  # steps of this episode
        last, ended, episodic_return = None, False, 0.0  # last: the transition before this step
        while not ended:
            # The novice proposes; does the person take over? (Alg. 2, line 4)
            actions = agent.actor.act(obs[None])[0]  # (A,)
            started = False
            if human and t >= next_check:
                flagged, started, steps = human.check(obs, actions)
                counts["checks"] += 1
                counts["flags"] += flagged
                if steps:
                    counts["takeovers"] += started
                    expert_until, next_check = t + steps, t + steps + human.grace_steps
            if t < expert_until:
                actions = expert.act(obs[None])[0].numpy()  # (A,)
                counts["expert_steps"] += 1
            # What is done in a state leads to the next, where the person looks:
            #     s_0 -- a_0 --> s_1 -- a_1 --> s_2 (takes over)
            # so the takeover at s_2 makes the reward of (s_1, a_1) -1. (Alg. 2, lines 5 and 7)
            if started and last and args.reward == "intervention":
                last["rewards"] = -1.0
                counts["labels"] += 1
            if last:
                rb.add(last)

            next_obs, task_reward, terminated, truncated, _ = env.step(actions)
            rewards = task_reward if args.reward == "task" else 0.0
            last = {"obs": obs, "next_obs": next_obs, "actions": actions}
            last |= {"rewards": rewards, "terminations": 0.0}
            obs = next_obs
            t, global_step = t + 1, global_step + 1
            episodic_return += task_reward
            ended = terminated or truncated or global_step == args.total_timesteps
            if ended:
                rb.add(end_of_episode(args, human, last, terminated))  # no takeover can follow it

            # Train pi on D by reinforcement learning. (Alg. 2, line 2; as RLPD does, at every step)
            updates = 1 if rb.size - rb.apart >= args.batch_size else 0
            if updates and args.intervention == "human":
                updates = human.updates(ended)  # as many as there is time for, of those owed
            for _ in range(updates):
                agent.set_learning_rate(global_step / args.total_timesteps)
                sizes = args.utd_ratio, args.batch_size, args.offline_ratio
                losses = update(rb.sample(rng, *sizes, device))  # on batches (G, B, ...)
                if not math.isfinite(losses["qf_loss"] + losses["actor_loss"]):
                    raise RunError(f"step {global_step}: learning broke down, {losses}")
            if updates and global_step % 500 == 0:
                for name, value in losses.items():
                    writer.add_scalar(f"losses/{name}", value.item(), global_step)
            bar.update()
        writer.add_scalar("charts/episodic_return", episodic_return, global_step)
        episode += 1
    bar.close()
    summary = {"demo_episodes": int(demos["ends"].sum()), "demo_transitions": len(demos["rewards"])}
    summary |= {"env_steps": global_step, **counts, "seconds": rows[-1]["wall_seconds"]}
    finish_run(folder, writer, args, rows, agent.actor, agent.qf, **summary)
    if args.capture_video:
        shown = make_env(*task, render_mode="rgb_array")
        film(shown, agent.actor, folder, args.seed, human, expert)


if __name__ == "__main__":
    with exit_codes():
        main(parse(Args, check))
