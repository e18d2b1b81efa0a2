"""How fast rlif_rlpd.py learns, and how far that is from the limit; takes a minute or two.

    python benchmark/speed.py                    # on one core
    python benchmark/speed.py --threads 2        # on two
    python benchmark/speed.py --device cuda      # on the GPU
    python benchmark/speed.py --pictures         # what a step costs where the robot sees pictures

One RLPD update (batches of 256, 17 observations, 6 actions), and its floating-point operations per
second as a share of those of a plain product of 256 x 256 matrices in the same precision. Machines
are noisy, so all settings take turns, and a figure is a median. In results/speed/.
"""

import time
import timeit
from itertools import product
from statistics import median
from typing import Literal

import numpy as np
import torch
from files import RESULTS, InputError, command_line, compiled, write_rows  # and the scripts
from torch.utils.flop_counter import FlopCounterMode

import rlif_rlpd
from experts import Task

SEEN = [f"Meta-World/{x}-v3" for x in ("button-press", "peg-insert-side", "drawer-open")]
SEEN += ["gym_hil/PandaPickCube-v0"]
OBS, ACT, BATCH, HIDDEN = 17, 6, 256, 256
ROUNDS = 15  # of all settings in turn


@torch.no_grad()
def of_pictures(env_id, steps=100):
    """What a step with pictures takes beside an update, in milliseconds."""
    env = Task(f"Pixels/{env_id}")  # closed when nobody holds it
    eyes = env.env  # Pixels, of experts/vision.py
    env.reset(seed=0)
    still = np.zeros(env.action_space.shape, np.float32)  # (A,)
    functions = {"simulation": lambda: eyes.env.step(still), "picture": eyes.env.render}
    functions["network"] = lambda: eyes.encoder(eyes.pictures)
    row = {"pictures of": env_id}
    for name, function in functions.items():
        row[name] = f"{1e3 * median(timeit.repeat(function, number=1, repeat=steps)):.1f}"
    return row


def main(
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,  # of torch on the CPU
    pictures: bool = False,
):
    if pictures and device == "cuda":
        raise InputError("--pictures is about the CPU")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here")
    torch.set_num_threads(threads)
    if pictures:
        return write_rows(RESULTS / "pictures" / "cpu.csv", [*map(of_pictures, SEEN)])
    functions, work = {}, {}  # by (path, precision, critics, critic updates); GFLOP of each
    for precision in ("float32", "bfloat16"):
        a, b = torch.rand(2, 10, HIDDEN, HIDDEN, device=device).to(getattr(torch, precision))
        key = "product", precision, 0, 0
        functions[key], work[key] = lambda a=a, b=b: torch.bmm(a, b), 20 * HIDDEN**3 / 1e9
    forms = ("eager", "float32"), ("compiled", "float32"), ("compiled", "bfloat16")
    for (path, precision), num_qs in product(forms, (3, 10)):
        options = rlif_rlpd.Args(num_qs=num_qs, precision=precision.replace("bfloat16", "bf16"))
        agent = rlif_rlpd.Agent(OBS, ACT, options, torch.device(device))
        for utd in (1, 10):
            sizes = {"obs": [OBS], "next_obs": [OBS], "actions": [ACT]}
            sizes |= {"rewards": [], "discounts": [], "terminations": []}
            batch = {x: torch.rand(utd, BATCH, *n, device=device) for x, n in sizes.items()}
            key = path, precision, num_qs, utd
            functions[key] = lambda agent=agent, batch=batch: agent.update(batch, 0.0)
            with FlopCounterMode(display=False) as counter:  # in the matrix products
                functions[key]()
            work[key] = counter.get_total_flops() / 1e9
        if path == "compiled":
            agent.critic_gradients = compiled(agent.critic_gradients, needed=True)
            agent.actor_gradients = compiled(agent.actor_gradients, needed=True)
    times = {key: [] for key in functions}
    for _, (key, function), call in product(range(1 + ROUNDS), functions.items(), range(5)):
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times[key] += [time.perf_counter() - start] if call else []
    times = {key: seconds[4:] for key, seconds in times.items()}  # the first round warms up
    rates = {key: work[key] / median(seconds) for key, seconds in times.items()}  # GFLOP/s
    rows = []
    for key in list(functions)[2:]:
        of_product = rates["product", key[1], 0, 0]
        row = {"device": device, "threads": threads}
        row |= zip(("path", "precision", "num_qs", "utd_ratio"), key)
        row |= {"ms": f"{1e3 * median(times[key]):.2f}", "product_gflops": f"{of_product:.0f}"}
        rows.append(row | {"share_of_product": f"{rates[key] / of_product:.2f}"})
        print(rows[-1])
    write_rows(RESULTS / "speed" / f"{device}-{threads}.csv", rows)


if __name__ == "__main__":
    command_line(main, __doc__)
