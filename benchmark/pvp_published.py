"""pvp.py with the mask where PVP's code has it: outside the mean, so that it masks nothing.

All else is as in pvp.py, also where PVP's code differs: it halves the TD error and drops it where a
takeover starts, and it has neither demonstrations nor a worth of ends.

    python benchmark/pvp_published.py --env-id Hopper-v5

The options are pvp.py's; after --resume all of them are typed again. For the suite `rivals`.
"""

import torch
from files import command_line  # makes the scripts importable

import pvp
from pvp import Args


class Agent(pvp.Agent):
    def critic_loss(self, batch, noise):
        """TD error as in pvp.py; then I * mean(|Q(s, a_h) - 1|^2 + |Q(s, a_n) + 1|^2)."""
        by_person, none = batch["by_person"], torch.zeros_like(batch["by_person"])  # (B,), I
        td = super().critic_loss(batch | {"by_person": none, "refused": none}, noise)
        # in a demonstration nothing was proposed: as in the robot's own steps, what was done
        shown = (by_person > batch["refused"])[:, None]  # (B, 1)
        proposals = torch.where(shown, batch["actions"], batch["proposals"])  # (B, A)
        q, q_n = (self.q(self.qf, batch["obs"], x) for x in (batch["actions"], proposals))  # (2, B)
        proxy = (q - 1).pow(2).mean(-1) + (q_n + 1).pow(2).mean(-1)  # (2,)
        return td + (by_person.mean() * proxy).sum()


def main(args: Args):
    args.check()
    pvp.Agent = Agent
    pvp.main(args)


if __name__ == "__main__":
    command_line(main, __doc__)
