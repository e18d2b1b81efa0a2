"""rlif_rlpd.py with one thing changed that is not among its options: for the table of what was tried.

    python benchmark/variants.py --label-steps 5 --env-id Walker2d-v5    # and every option of rlif_rlpd.py

docs/results.md says what came out. Without an option of its own this is rlif_rlpd.py, to the bit.
"""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import torch

import run  # noqa: F401, which makes the scripts importable
import rlif_rlpd
from experts import InputError, exit_codes, parse, unused
from experts.options import Count, Share

WINDOW = 1_000  # checks whose gaps say how strict the person is


@dataclass
class Args(rlif_rlpd.Args):
    exp_name: str = "variants"
    label_steps: Count = 1  # the last so many steps before a takeover share its -1
    flag_share: Share | None = None  # about this share of the checks is flagged, the worst of late
    n_step: Count = 1  # rewards of so many steps, then the critics
    fade_bc_weight: bool = False  # --bc-weight is halved after each quarter of training


def check(args, typed):
    """As rlif_rlpd.py, and what does not go together here."""
    rlif_rlpd.check(args, typed)
    if args.flag_share is not None:
        if args.intervention != "value":
            raise InputError("--flag-share needs --intervention value")
        if args.resume:
            raise InputError(
                f"--flag-share: its window of gaps is not in a checkpoint; delete {args.resume} and start anew"
            )
        why = "--flag-share sets how large a gap is flagged"
        unused(typed, "intervention_alpha intervention_delta", why)
    if args.label_steps > 1 and args.reward != "intervention":
        raise InputError("--label-steps shares the -1 of --reward intervention")
    if args.n_step > 1 and args.offline_ratio:
        raise InputError("--n-step samples demonstrations like all else, without --offline-ratio")
    if args.fade_bc_weight and not args.bc_weight:
        raise InputError("--fade-bc-weight needs a --bc-weight above 0")
    if args.fade_bc_weight and args.cuda:
        raise InputError("--fade-bc-weight changes what a CUDA graph has recorded; without --cuda")


class AdaptiveHuman(rlif_rlpd.ValueHuman):
    """Flags a proposal whose gap of Q is among the largest of the last checks.

    Eq. 1 with a delta that is a running quantile: a novice who gets better meets a stricter person.
    """

    def __init__(self, args, reference, rng):
        super().__init__(args, reference, rng)
        self.gaps = deque(maxlen=WINDOW)

    def check(self, obs, proposal):
        obs = torch.as_tensor(obs, dtype=torch.float32)[None]  # (1, O)
        actions = torch.cat([torch.as_tensor(proposal)[None], self.reference.act(obs)])  # (2, A)
        q_novice, q_reference = self.reference.q(obs.expand(2, -1), actions).tolist()
        self.gaps.append((q_reference - q_novice) / abs(q_reference))
        flagged = bool(self.gaps[-1] > np.quantile(self.gaps, 1 - self.args.flag_share))
        chance = self.args.intervention_beta if flagged else 1 - self.args.intervention_beta
        started = self.rng.random() < chance
        return flagged, started, self.args.takeover_steps if started else 0


class FadingAgent(rlif_rlpd.Agent):
    """RLPD's learner with a pull towards the demonstrations that gets weaker, in four stages.

    The weight is a constant of the compiled gradients, so each stage compiles them again.
    """

    def __init__(self, obs_dim, act_dim, args, device):
        super().__init__(obs_dim, act_dim, replace(args), device)
        self.first_weight = args.bc_weight

    def set_learning_rate(self, progress):
        super().set_learning_rate(progress)
        stage = min(3, int(4 * progress))
        self.args.bc_weight = self.first_weight / 2**stage


def same_episode(rb, i):
    """Does row i of the buffer go on from row i - 1?"""
    return i > 0 and bool((rb.data["next_obs"][i - 1] == rb.data["obs"][i]).all())


class Buffer(rlif_rlpd.ReplayBuffer):
    """The replay buffer with labels shared between steps, and with returns of n steps."""

    label_steps, n_step, gamma = 1, 1, 0.99

    def add(self, transition):
        """A label of -1 is shared by the steps before it, down to the last that has one already."""
        super().add(transition)
        rewards, i = self.data["rewards"], self.size - 1
        if self.label_steps == 1 or transition["rewards"] != -1:
            return
        first = i
        while first > i - self.label_steps + 1 and same_episode(self, first):
            if rewards[first - 1] != 0:
                break
            first -= 1
        rewards[first : i + 1] = -1 / (i - first + 1)

    def sample(self, rng, num_batches, batch_size, offline_ratio, device):
        """Minibatches (G, B, ...) whose rewards are sums of n steps, fewer at the end of an episode.

        The learner discounts the critics' part by gamma (1 - terminations); after k steps it must be
        gamma^k, so terminations become 1 - gamma^(k - 1) (1 - terminations).
        """
        if self.n_step == 1:
            return super().sample(rng, num_batches, batch_size, offline_ratio, device)
        i = torch.from_numpy(rng.integers(self.size, size=(num_batches, batch_size)))  # (G, B)
        data = self.data
        batch = {name: values[i].clone() for name, values in data.items()}
        alive = torch.ones_like(batch["rewards"])
        for k in range(1, self.n_step):
            j = (i + k).clamp_max(self.size - 1)
            follows = (data["next_obs"][j - 1] == data["obs"][j]).all(-1)  # (G, B)
            alive = alive * follows * (i + k < self.size) * (1 - data["terminations"][j - 1])
            on = alive > 0
            batch["rewards"] += alive * self.gamma**k * data["rewards"][j]
            ends = 1 - self.gamma**k * (1 - data["terminations"][j])
            batch["terminations"] = torch.where(on, ends, batch["terminations"])
            batch["next_obs"] = torch.where(on[..., None], data["next_obs"][j], batch["next_obs"])
        return {name: values.to(device) for name, values in batch.items()}


def main(args):
    Buffer.label_steps, Buffer.n_step, Buffer.gamma = args.label_steps, args.n_step, args.gamma
    rlif_rlpd.ReplayBuffer = Buffer
    if args.flag_share is not None:
        rlif_rlpd.ValueHuman = AdaptiveHuman
    if args.fade_bc_weight:
        rlif_rlpd.Agent = FadingAgent
    rlif_rlpd.main(args)


if __name__ == "__main__":
    with exit_codes():
        main(parse(Args, check))
