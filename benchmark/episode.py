"""Draws one episode of a trained policy under its person: film strip, critic, who acts, flags, labels.

    python benchmark/episode.py runs/<run of rlif_rlpd.py>
    python benchmark/episode.py runs/<run> --first 100 --steps 60 --output episode.png

The policy acts by samples, as it learned, and the person is the one of the run's options. Frames need a way to render
(MuJoCo without a screen: `apt install libosmesa6`, MUJOCO_GL=osmesa).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from run import ROOT  # which makes the scripts importable

import rlif_rlpd
from experts import (
    TRAINING_TASKS,
    Expert,
    InputError,
    check_rendering,
    exit_codes,
    load_expert,
    seed_for,
)

NOVICE, EXPERT, FLAG = "#4c78a8", "#f58518", "#d62728"
FRAMES = 8  # of the film strip


@dataclass
class Args:
    run: tyro.conf.Positional[str]  # a finished run's folder
    first: int = 0  # the first step that is drawn
    steps: int = 60  # how many steps are drawn
    episode: int = 0  # another number, another episode
    output: str = str(ROOT / "benchmark" / "figures" / "episode.png")


def play(options, policy, seed, first, steps):
    """An episode until step first + steps, as the loop in rlif_rlpd.py has it: a dict of lists, an entry a step.

    by_expert, flagged, started (a takeover), value (of the state, by the run's own critics), score (the task's reward
    so far) and frames, at the steps of the film strip only, elsewhere None.
    """
    torch.manual_seed(seed)
    env_id = TRAINING_TASKS.get(options.env_id, options.env_id)
    env = rlif_rlpd.make_env(env_id, options.max_episode_steps, render_mode="rgb_array")
    expert = load_expert(options.env_id, options.expert, env)
    rng = np.random.default_rng(seed)
    if options.intervention == "value":
        reference = load_expert(options.env_id, options.reference, env, with_q=True)
        human = rlif_rlpd.ValueHuman(options, reference, rng)
    else:
        human = rlif_rlpd.RandomHuman(options, rng)
    names = "by_expert", "flagged", "started", "value", "score", "frames"
    episode = {name: [] for name in names}
    obs, _ = env.reset(seed=seed)
    t, expert_until, next_check, score, ended = 0, 0, 0, 0.0, False
    filmed = film_strip(first, first + steps)
    while not ended and t <= first + steps:
        episode["frames"].append(env.render() if t in filmed else None)
        state = torch.as_tensor(obs, dtype=torch.float32)[None]  # (1, O)
        episode["value"].append(policy.q(state, policy.act(state, deterministic=True)).item())
        actions, flagged, started = policy.act(state)[0].numpy(), False, False  # (A,)
        if t >= next_check:
            flagged, started, length = human.check(obs, actions)
            if length:
                expert_until, next_check = t + length, t + length + human.grace_steps
        if t < expert_until:
            actions = expert.act(state)[0].numpy()
        obs, reward, terminated, truncated, _ = env.step(actions)
        score += reward
        for name, value in (
            ("by_expert", t < expert_until),
            ("flagged", flagged),
            ("started", started),
        ):
            episode[name].append(value)
        episode["score"].append(score)
        ended = terminated or truncated
        t += 1
    env.close()
    return episode


def film_strip(first, last):
    """The steps from first to before last of which there are frames."""
    return np.linspace(first, last - 1, FRAMES).round().astype(int).tolist()


def draw(episode, first, steps):
    """The picture of these steps of an episode."""
    last = min(first + steps, len(episode["started"]))
    shown = range(first, last)
    figure = plt.figure(figsize=(10, 5), layout="constrained")
    grid = figure.add_gridspec(3, FRAMES, height_ratios=(2.2, 1.6, 1))
    filmed = [t for t in shown if episode["frames"][t] is not None]
    for i, t in enumerate(filmed):
        axis = figure.add_subplot(grid[0, i])
        axis.imshow(episode["frames"][t])
        colour = EXPERT if episode["by_expert"][t] else NOVICE
        axis.set_title(f"step {t}", fontsize=8, color=colour)
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=colour, linewidth=2)
    value = figure.add_subplot(grid[1, :])
    value.plot(shown, episode["value"][first:last], color="0.3")
    value.set(
        ylabel="value of the state,\nby the critics", xlim=(first - 0.5, last - 0.5), xticklabels=[]
    )
    score = value.twinx()
    score.plot(shown, episode["score"][first:last], color="0.7", linestyle="--")
    score.set_ylabel("task's reward so far\n(not learned from)", color="0.5")
    bar = figure.add_subplot(grid[2, :])
    for t in shown:
        bar.bar(t, 1, width=0.9, color=EXPERT if episode["by_expert"][t] else NOVICE)
        if episode["flagged"][t]:
            bar.plot(t, 1.3, marker="v", color=FLAG)
        if t + 1 < len(episode["started"]) and episode["started"][t + 1]:
            bar.text(t + 0.4, 1.3, "−1", ha="right", va="center", fontsize=8, weight="bold")
    bar.set(xlim=(first - 0.5, last - 0.5), ylim=(0, 1.7), yticks=[], xlabel="step")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (NOVICE, EXPERT)]
    handles.append(plt.Line2D([], [], color=FLAG, marker="v", linestyle=""))
    names = [
        "the policy acts",
        "the expert acts",
        "the proposal is flagged (a takeover without one: the 5 %)",
    ]
    figure.legend(handles, names, loc="outside lower center", ncol=3, frameon=False, fontsize=9)
    return figure


def main(args):
    folder = Path(args.run)
    try:
        saved = json.loads((folder / "args.json").read_text())
        tuples = {name: tuple(value) for name, value in saved.items() if isinstance(value, list)}
        options = rlif_rlpd.Args(**saved | tuples)
    except (OSError, TypeError, ValueError):
        raise InputError(
            f"{args.run}: no run of rlif_rlpd.py lies there (by its args.json)"
        ) from None
    if options.intervention not in ("value", "random") or args.first < 0 or args.steps < 2:
        raise InputError(
            "needs a run with a simulated person, --first 0 or more and --steps 2 or more"
        )
    policy = Expert(folder / "model.safetensors")
    check_rendering(rlif_rlpd.make_env, options.env_id, options.max_episode_steps)
    episode = play(options, policy, seed_for(options.seed, 8, args.episode), args.first, args.steps)
    if args.first + 2 > len(episode["started"]):
        raise InputError(f"--first {args.first}: the episode has {len(episode['started'])} steps")
    draw(episode, args.first, args.steps).savefig(args.output, dpi=100)
    print(f"written: {args.output}")


if __name__ == "__main__":
    with exit_codes():
        main(tyro.cli(Args))
