"""MILE: model-based intervention learning, from interventions and from their absence. One file.

Paper: Korkmaz and Biyik, ICRA 2025, https://arxiv.org/abs/2502.13519; "Eq. 1" to "Eq. 5" are its.

    python mile.py                                                      # Meta-World's peg insertion
    python mile.py --rounds 1 --round-episodes 15 --round-updates 1000  # the single iteration
    python mile.py --no-mental-model                                    # BC-intervention
    python mile.py --resume runs/<run>                                  # go on, to the bit

Read main() first, then intervention_log_probs() (Eq. 2: when does a person take over?) and losses()
(Eq. 5). In shapes: O observation size, A action size, B batch, T steps of an episode.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from scipy.special import gammaln, roots_genlaguerre
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import MAX_ACTION, Checked, InputError, RunError, Stop, UnitActions, check_rendering
from experts import evaluate, exit_codes, film, finish_run, load_expert, main_metric, open_run
from experts import open_task, parse, restore, run_seconds, save_run, seed_for, unused
from experts import write_rows
from experts.human import Person, check_person
from experts.options import Count, Finite, Natural, Positive, Seed, Share


@dataclass
class Args:
    # --- run ---
    exp_name: str = "mile"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: Seed = 1  # of everything: on the CPU, the same seed gives the same run to the bit
    resume: str | None = None  # go on with this folder, runs/<run>, and its options
    capture_video: bool = False  # at the end, film what it can do (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)

    # --- task ---
    env_id: str = "Meta-World/peg-insert-side-v3"  # or any, with Box or discrete actions
    max_episode_steps: Count | None = None  # of every episode; default: the environment's own limit
    rounds: Count = 20  # N: a round is some watched episodes, then training
    round_episodes: Count = 1  # k: episodes of a round
    eval_frequency: Count = 1  # rounds between evaluations
    eval_episodes: Count = 20  # of an evaluation by mean actions, and of one by sampled actions

    # --- person ---
    intervention: Literal["model", "human"] = "model"  # by MILE's Eq. 2, or you, in a window
    expert: str = "top"  # who takes over: a shipped level or a .safetensors file
    human_model: str = "mental"  # what the person expects of the robot: a level or a file
    intervention_cost: Finite = 16.0  # c, what it takes to take over: benchmark/person.py finds it
    intervention_scale: Positive = 10.0  # by which the advantage minus c is divided
    takeover_steps: Count = 1  # steps that the expert keeps control
    keys: str | None = None  # human: a file that says what they do, as experts/keys.toml
    replay: str | None = None  # human: the session that was recorded in this folder, runs/<run>

    # --- data ---
    initial_policy: str = "initial"  # what the robot can do at first: a level or a file
    warm_up_episodes: Count = 10  # of it, from which the mental model is cloned at first

    # --- learner ---
    mental_model: bool = True  # no: a network guesses when, the policy clones what the person did
    warm_up_updates: Natural = 2_000  # gradient steps on the warm-up episodes
    round_updates: Count = 100  # gradient steps after a round (official code: 300 passes)
    batch_size: Count = 1_024  # transitions per gradient step
    learning_rate: Positive = 1e-4  # Adam's
    intervention_weight: Share = 0.5  # lambda of Eq. 5, for continuous actions
    min_std: Positive = 0.1  # lower limit of the policy's standard deviation, before the tanh
    hidden_sizes: tuple[Count, ...] = (256, 256)  # of mental model and of the network that guesses

    # --- speed ---
    cuda: bool = False  # learn on the GPU
    num_threads: Count = 2  # of torch on the CPU


def check(args, typed):
    """Refuse options that do nothing beside others."""
    check_person(args, typed, "expert human_model takeover_steps")
    if not args.mental_model:
        why = "there is no mental model to train"
        unused(typed, "intervention_weight warm_up_episodes warm_up_updates", why)
        if args.intervention == "human":
            unused(typed, "intervention_cost intervention_scale", why)
    elif args.warm_up_updates == 0:
        unused(typed, "warm_up_episodes", "with --warm-up-updates 0 they teach nothing")


# --- environment ----------------------------------------------------------------------------------


def make_env(env_id, max_episode_steps=None, **options):
    """The environment with flat observations, and actions in [-1, 1] or as one-hot vectors."""
    env = open_task(env_id, max_episode_steps, **options)  # gym.make, or one line on what is wrong
    env = gym.wrappers.FlattenObservation(env)
    return UnitActions(Checked(env))


# --- intervention ---------------------------------------------------------------------------------


class ProbitHuman:
    """Takes over as MILE's Eq. 2 has it: by the state, whatever the robot proposes."""

    def __init__(self, args, expert, human_model):
        self.expert, self.human_model = expert, human_model  # pi, and what is expected of the robot
        self.cost, self.scale = args.intervention_cost, args.intervention_scale  # c, and the scale
        self.takeover_steps, self.began = args.takeover_steps, True  # each takeover is a new one

    def takes_over(self, obs, rng):
        """Does a takeover start at obs, (O,)?

        The advantage of an action a ~ pi: ln pi(a|s) - E_{a' ~ human model}[ln pi(a'|s)], how much
        better it is than what the person expects of the robot. Gaussians count before the tanh.
        """
        state = torch.as_tensor(obs, dtype=torch.float32)[None]  # (1, O)
        if self.expert.discrete:
            log_pi = self.expert(state)[0].log_softmax(-1)  # (A,)
            expected = (self.human_model(state)[0].softmax(-1) * log_pi).sum()
            gumbel = torch.from_numpy(rng.gumbel(size=len(log_pi)))
            advantage = log_pi[(log_pi + gumbel).argmax()] - expected
        else:
            mean, log_std = (x[0] for x in self.expert(state))  # (A,) each
            robot_mean, robot_log_std = (x[0] for x in self.human_model(state))
            # both logarithms have the same constants; -E[ln pi(a')] without them:
            surprise = (robot_mean - mean).pow(2) + (2 * robot_log_std).exp()
            surprise = surprise / (2 * (2 * log_std).exp())  # (A,)
            noise = torch.from_numpy(rng.standard_normal(len(mean)))  # a = mean + std * noise
            advantage = (surprise - noise.pow(2) / 2).sum()
        # true with probability Phi((advantage - c) / scale)
        return bool(advantage + self.scale * rng.standard_normal() > self.cost)


def rollout(env, actor, human, seed):
    """One episode of the policy's mean actions, watched by a human, or alone (None).

    It depends on them and the seed alone. Returns a dict: obs (T, O), actions (T, A) as executed,
    nu (T,), takeovers, success (0 or 1 at its last step, nan if it does not tell) and return.
    """
    obs, _ = env.reset(seed=seed)
    steps, takeovers, episodic_return, ended = [], 0, 0.0, False
    expert_until = 0  # the step at which the robot has control again
    rng = np.random.default_rng((seed, 1))  # the environment has default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while not ended:
            t, actions = len(steps), actor.act(obs[None], deterministic=True)[0]  # (A,)
            if human and t >= expert_until and human.takes_over(obs, rng):
                expert_until = t + human.takeover_steps
                takeovers += int(human.began)  # at the keys it may be the same as a step before
            if t < expert_until:
                actions = human.expert.act(obs[None])[0].numpy()
            steps.append((obs, actions, t < expert_until))
            obs, reward, terminated, truncated, info = env.step(actions)
            episodic_return += reward
            ended = terminated or truncated
    obs, actions, nu = (torch.tensor(np.array(x), dtype=torch.float32) for x in zip(*steps))
    facts = {"success": info.get("success", math.nan), "return": episodic_return}
    return {"obs": obs, "actions": actions, "nu": nu, "takeovers": takeovers} | facts


# --- networks -------------------------------------------------------------------------------------


class Actor(nn.Module):
    """Tanh-Gaussian policy."""

    heads, min_log_std = ("mean", "log_std"), -20.0

    def __init__(self, obs_dim, act_dim, hidden_sizes):
        super().__init__()
        self.act_dim, sizes = act_dim, [obs_dim, *hidden_sizes]
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:]))
        for head in self.heads:
            self.add_module(head, nn.Linear(sizes[-1], act_dim))

    def standardize(self, obs):
        """See observations with the mean and standard deviation of these, (n, O)."""
        self.obs_mean.copy_(obs.mean(0))
        self.obs_std.copy_(obs.std(0).clamp_min(0.01))

    def features(self, obs):
        x = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        x = (x - self.obs_mean) / self.obs_std  # (B, O)
        for layer in self.layers:
            x = F.relu(layer(x))  # (B, hidden)
        return x

    def forward(self, obs):
        """Mean and log standard deviation before the tanh: (B, O) -> (B, A) each."""
        x = self.features(obs)
        return self.mean(x), self.log_std(x).clamp(self.min_log_std, 2)

    def log_prob(self, policy, actions):
        """ln pi(a|s) of actions (B, A) in [-0.999, 0.999] under policy = self(obs): (B,)."""
        mean, log_std = policy
        u = actions.atanh()  # (B, A), before the tanh
        log_normal = -0.5 * ((u - mean) / log_std.exp()).pow(2) - log_std
        log_normal = log_normal - 0.5 * math.log(2 * math.pi)
        log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # ln(d tanh(u) / du)
        return (log_normal - log_slope).sum(-1)

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        """What is executed, kept off the edges of [-1, 1]: numpy (B, O) -> (B, A)."""
        mean, log_std = self(obs)
        u = mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)
        return u.tanh().clamp(-MAX_ACTION, MAX_ACTION).cpu().numpy()


class CategoricalActor(Actor):
    """Policy over A discrete actions, which are one-hot vectors."""

    heads = ("logits",)

    def forward(self, obs):
        return self.logits(self.features(obs))  # (B, A)

    def log_prob(self, policy, actions):
        return (policy.log_softmax(-1) * actions).sum(-1)  # (B,)

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        logits = self(obs)
        sampled = torch.distributions.Categorical(logits=logits).sample
        choice = logits.argmax(-1) if deterministic else sampled()  # (B,)
        return F.one_hot(choice, self.act_dim).float().cpu().numpy()


def make_actor(env, hidden_sizes):
    """An untrained policy for the environment's observations and actions."""
    sizes = *env.observation_space.shape, *env.action_space.shape, hidden_sizes
    return CategoricalActor(*sizes) if env.discrete else Actor(*sizes)


def load_actor(env, policy):
    """A policy from a file, as one that can learn."""
    actor = make_actor(env, policy.facts["hidden_sizes"])
    actor.load_state_dict(policy.state)
    actor.min_log_std = policy.facts.get("min_log_std", actor.min_log_std)
    return actor


def warm_start(args, env, actor, mental_model):
    """Clone the mental model from the initial policy: at first a person expects it to go on so."""
    seeds = [seed_for(args.seed, 4, i) for i in range(args.warm_up_episodes)]
    alone = [rollout(env, actor, None, seed) for seed in seeds]
    obs = torch.cat([episode["obs"] for episode in alone]).to(actor.obs_mean.device)
    actions = torch.cat([episode["actions"] for episode in alone]).to(obs.device)
    optimizer = torch.optim.Adam(mental_model.parameters(), 1e-3, fused=True)
    for _ in range(args.warm_up_updates):
        i = torch.randint(len(obs), (256,), device=obs.device)
        loss = -mental_model.log_prob(mental_model(obs[i]), actions[i]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Estimator(nn.Module):
    """Guesses whether a person takes over, from the state alone (the NN-based estimator)."""

    def __init__(self, actor, hidden_sizes):
        super().__init__()
        self.register_buffer("obs_mean", actor.obs_mean.clone())
        self.register_buffer("obs_std", actor.obs_std.clone())
        sizes, layers = [len(actor.obs_mean), *hidden_sizes], []
        for i, o in zip(sizes[:-1], sizes[1:]):
            layers += [nn.Linear(i, o), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, obs):
        return self.layers((obs - self.obs_mean) / self.obs_std).squeeze(-1)  # (B,), a logit


# --- the model of interventions -------------------------------------------------------------------


@functools.cache
def laguerre(degrees):
    """Nodes and log weights (nodes,): the mean over half a chi^2 (Gauss-Laguerre quadrature)."""
    nodes = 32 if degrees <= 4 else 96  # the more actions, the more for the same accuracy
    x, weights = roots_genlaguerre(nodes, degrees / 2 - 1)
    log_weights = np.log(weights) - gammaln(degrees / 2)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(log_weights, dtype=torch.float32)


def intervention_log_probs(discrete, policy, mental_model, cost, scale):
    """ln p(nu=1 | s) and ln p(nu=0 | s) of Eq. 2, not sampled but integrated: (B,) each.

    policy and mental_model are what actors return at s: logits (B, A), or means and log stds (B, A)
    before the tanh. p(nu=1 | s) = E_{a ~ pi}[Phi((Delta(a) - c) / scale)] with the advantage
    Delta(a) = ln pi(a|s) - E_{a' ~ mental model}[ln pi(a'|s)]. For up to 24 continuous actions and
    a scale of 1 or more it is exact to 1e-6.
    """
    if discrete:  # the mean over a is a sum
        log_weights = policy.log_softmax(-1)  # (B, A), ln pi(a|s)
        expected = (mental_model.softmax(-1) * log_weights).sum(-1, keepdim=True)
        advantage = log_weights - expected  # (B, A)
    else:
        # With mean m, deviation s, constants K of a component, and m', s' of the mental model:
        #   ln pi(a) = K - ((a - m) / s)^2 / 2,   E[ln pi(a')] = K - ((m' - m)^2 + s'^2) / (2 s^2).
        # For a ~ pi the first square is standard normal: their sum over A components is a chi^2,
        # and Delta is the second sum minus half of it.
        (mean, log_std), (mental_mean, mental_log_std) = policy, mental_model
        squares = (mental_mean - mean).pow(2) + (2 * mental_log_std).exp()  # (B, A)
        surprise = (squares / (2 * (2 * log_std).exp())).sum(-1, keepdim=True)  # (B, 1)
        half_chi2, log_weights = (x.to(mean.device) for x in laguerre(mean.shape[-1]))  # (nodes,)
        advantage = surprise - half_chi2  # (B, nodes)
    z = (advantage - cost) / scale
    log_phi, log_not_phi = torch.special.log_ndtr(z), torch.special.log_ndtr(-z)  # 1 - Phi(z)
    log_p = torch.logsumexp(log_weights + log_phi, -1)
    return log_p, torch.logsumexp(log_weights + log_not_phi, -1)


def losses(args, actor, mental_model, obs, actions, nu):
    """J_1, J_2 and J of Eq. 5 on a batch: (B, O), (B, A), (B,) -> () each.

    J_1 is a mean over all steps, for each says whether a person took over; J_2 is one over the
    person's steps, for only they say what to do. Without a mental model J is J_2.
    """
    policy = actor(obs)
    log_pi = actor.log_prob(policy, actions)  # (B,)
    j2 = -(nu * log_pi).sum() / nu.sum().clamp_min(1)  # Eq. 4
    if mental_model is None:
        return torch.zeros_like(j2), j2, j2
    discrete = isinstance(actor, CategoricalActor)
    person = args.intervention_cost, args.intervention_scale
    log_p, log_not_p = intervention_log_probs(discrete, policy, mental_model(obs), *person)
    j1 = -(nu * log_p + (1 - nu) * log_not_p).mean()
    if discrete:  # cross entropy over A actions and no intervention (Eq. 3)
        return j1, j2, j1 - (nu * log_pi).mean()
    return j1, j2, args.intervention_weight * j1 + (1 - args.intervention_weight) * j2


def predict(args, actor, mental_model, estimator, obs, nu, earlier_nu):
    """How likely the interventions nu (n,) at obs (n, O) were, before they are learned from.

    Returns (n, 7): nu; ln p(nu=1) and ln p(nu=0) by the model, by the network, by the majority.
    """
    with torch.no_grad():
        logit = estimator(obs)
        network = F.logsigmoid(logit), F.logsigmoid(-logit)
        model = network
        if mental_model:
            discrete = isinstance(actor, CategoricalActor)
            person = args.intervention_cost, args.intervention_scale
            model = intervention_log_probs(discrete, actor(obs), mental_model(obs), *person)
        share = earlier_nu.mean().clamp(1e-3, 1 - 1e-3)
        majority = share.log().expand_as(logit), (1 - share).log().expand_as(logit)
    return torch.stack([nu, *model, *network, *majority], -1).cpu()


def prediction_quality(predictions):
    """By model, network and majority: accuracy, the mean of both classes' accuracies, log-loss."""
    nu, quality = predictions[:, 0], {}
    for name, i in (("model", 1), ("network", 3), ("majority", 5)):
        log_p, log_not_p = predictions[:, i], predictions[:, i + 1]  # (n,) each
        hits = ((log_p > log_not_p) == (nu > 0)).float()
        balanced = (hits[nu > 0].mean() + hits[nu == 0].mean()) / 2  # nan if one class is missing
        quality[f"{name}_accuracy"] = hits.mean().item()
        quality[f"{name}_balanced_accuracy"] = balanced.item()
        quality[f"{name}_log_loss"] = -torch.where(nu > 0, log_p, log_not_p).mean().item()
    return quality


# --- main -----------------------------------------------------------------------------------------


def main(args):
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    task = args.env_id, args.max_episode_steps
    if args.capture_video:
        check_rendering(make_env, *task)
    env = make_env(*task)
    eval_envs = [make_env(*task) for _ in range(min(args.eval_episodes, 20))]
    policies = [load_expert(args.env_id, args.initial_policy, env)]
    if not env.discrete and args.mental_model and args.intervention_scale < 1:
        raise InputError(
            f"--intervention-scale {args.intervention_scale}: with continuous actions it must be 1 "
            "or more (below, the integral of Eq. 2 is inexact)"
        )
    if env.discrete and (args.min_std, args.intervention_weight) != (0.1, 0.5):
        raise InputError("--min-std, --intervention-weight do nothing where actions are discrete")
    actor = load_actor(env, policies[0])  # pi_theta
    actor.min_log_std = max(actor.min_log_std, math.log(args.min_std))
    mental_model = None
    if args.mental_model:
        mental_model = make_actor(env, args.hidden_sizes)  # \hat pi_xi
        mental_model.obs_mean.copy_(actor.obs_mean)
        mental_model.obs_std.copy_(actor.obs_std)
    estimator = Estimator(actor, args.hidden_sizes)
    learned = [network.to(device) for network in (actor, mental_model) if network]
    estimator.to(device)
    parameters = [parameter for network in learned for parameter in network.parameters()]
    optimizer = torch.optim.Adam(parameters, args.learning_rate, fused=True)
    estimator_optimizer = torch.optim.Adam(estimator.parameters(), args.learning_rate, fused=True)
    if args.intervention == "human":
        env = human = Person(make_env(*task, render_mode="rgb_array"), args)
    else:
        policies += [load_expert(args.env_id, x, env) for x in (args.expert, args.human_model)]
        human = ProbitHuman(args, *policies[1:])
    kept = {"actor": actor, "estimator": estimator, "optimizer": optimizer}  # what learns
    kept["estimator_optimizer"] = estimator_optimizer
    if mental_model:
        kept["mental_model"] = mental_model
    counts = {"expert_steps": 0, "takeovers": 0}
    global_step, rounds, rows = 0, 0, []  # rows: of eval.csv
    data = {"obs": torch.empty(0, *env.observation_space.shape)}  # D: (n, O), (n, A), (n,)
    data |= {"actions": torch.empty(0, *env.action_space.shape), "nu": torch.empty(0)}
    data = {name: values.to(device) for name, values in data.items()}
    predictions = torch.empty(0, 7)  # since the last evaluation
    folder, checkpoint = open_run(args, policies)
    if checkpoint:
        restore(checkpoint, kept)
        global_step, rounds, rows, counts, data, predictions = checkpoint["progress"]
        data = {name: values.to(device) for name, values in data.items()}
    elif mental_model:
        warm_start(args, env, actor, mental_model)
    writer = SummaryWriter(folder, purge_step=global_step + 1 if checkpoint else None)
    bar = tqdm(total=args.rounds, initial=rounds, unit="round", dynamic_ncols=True)
    stop = Stop()
    while True:
        # Between two rounds: a checkpoint, from which --resume goes on, and an evaluation
        over = rounds == args.rounds
        before = rows[-1] if rows else {"global_step": 0, "round": 0} | dict.fromkeys(counts, 0)
        due = over or rounds // args.eval_frequency > before["round"] // args.eval_frequency
        if due or stop.asked:
            progress = global_step, rounds, rows, counts, data, predictions
            save_run(folder, args, kept, progress, policies)
            stop.heed()
        if due:
            row = {"global_step": global_step, "round": rounds, **counts}
            new = {name: row[name] - before[name] for name in row}  # since the last evaluation
            row["intervention_rate"] = new["expert_steps"] / new["global_step"]
            row |= prediction_quality(predictions)
            predictions = predictions[:0]
            fresh = seed_for(args.seed, 1, global_step)
            row |= evaluate(args.env_id, actor, eval_envs, args.eval_episodes, fresh)
            rows.append(row | {"wall_seconds": run_seconds()})
            write_rows(folder, writer, rows)
            shown = {"interventions": f"{row['intervention_rate']:.0%}"}
            bar.set_postfix(score=f"{row[main_metric(rows)]:.0f}", **shown)
        if over:
            break
        stop.wait()

        # The robot acts, the person takes over, for k episodes. (MILE, section III)
        first = rounds * args.round_episodes
        seeds = [seed_for(args.seed, 0, first + i) for i in range(args.round_episodes)]
        episodes = [rollout(env, actor, human, seed) for seed in seeds]
        new = {name: torch.cat([one[name] for one in episodes]).to(device) for name in data}
        global_step += len(new["nu"])
        counts["expert_steps"] += int(new["nu"].sum())
        counts["takeovers"] += sum(episode["takeovers"] for episode in episodes)

        # Would what was learned so far have predicted these interventions? (section VII)
        if rounds:
            networks = actor, mental_model, estimator
            seen = predict(args, *networks, new["obs"], new["nu"], data["nu"])
            predictions = torch.cat([predictions, seen])
        data = {name: torch.cat([data[name], new[name]]) for name in data}

        # Learn from all rounds, from where the networks stand. (Eq. 5)
        for _ in range(args.round_updates):
            i = torch.randint(len(data["nu"]), (args.batch_size,)).to(device)
            batch = {name: values[i] for name, values in data.items()}  # (B, ...)
            j1, j2, j = losses(args, actor, mental_model, **batch)
            optimizer.zero_grad()
            j.backward()
            optimizer.step()
            guess = F.binary_cross_entropy_with_logits(estimator(batch["obs"]), batch["nu"])
            estimator_optimizer.zero_grad()
            guess.backward()
            estimator_optimizer.step()
        if not math.isfinite((j + guess).item()):
            raise RunError(f"round {rounds}: learning broke down, its losses are {j}, {guess}")
        for name, value in (("j1", j1), ("j2", j2), ("network", guess)):
            writer.add_scalar(f"losses/{name}", value, global_step)
        rounds += 1
        bar.update()
    bar.close()
    summary = {"env_steps": global_step, "rounds": rounds, **counts}
    summary["seconds"] = rows[-1]["wall_seconds"]
    finish_run(folder, writer, args, rows, actor, **summary)
    if args.capture_video:
        film(make_env(*task, render_mode="rgb_array"), actor, folder, args.seed, human)


if __name__ == "__main__":
    with exit_codes():
        main(parse(Args, check))
