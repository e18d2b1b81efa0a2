"""Measures how fast rlif_rlpd.py learns, and writes it to benchmark/results/speed/, in about five minutes.

    python benchmark/speed.py
    python benchmark/speed.py --devices cuda:1 --results speed-gpu    # on another machine, the GPU alone

updates.csv: one RLPD update (the critics --utd-ratio times, then the actor) on batches of 256 with 17 observations and
6 actions, for 2 and 10 critics, plain and compiled, in float32 and bfloat16, on one and two cores, and on the GPU where
there is one. Machines are noisy: all settings take turns, round after round, and a figure is the median of its times;
a product of ten pairs of 256 x 256 matrices is timed in the same rounds, and the floating-point operations per second
of an update are given as a share of its own (of the same precision). The parts are those of a compiled update.
runs.csv: the default command from start to end, on Hopper-v5, for a few thousand steps.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import torch
import tyro
from run import ROOT, read_evaluations, refuse, results_of  # which makes rlif_rlpd importable
from tables import write

import rlif_rlpd
from experts.speed import CudaGraph, compiled

OBS, ACT, BATCH, HIDDEN = 17, 6, 256, 256
# milliseconds of the public JAX code's update on one core with a product of JAX_GFLOPS, by critics and UTD ratio
JAX_MS, JAX_GFLOPS = {(2, 1): 7.3, (10, 1): 32.7, (10, 10): 216.0}, 160.0


@dataclass
class Args:
    rounds: int = 15  # of all settings in turn
    steps: int = 2_500  # of each run from start to end
    # with their numbers of threads, e.g. cpu:1 cuda:1; default: one core, two cores, the GPU if there is one
    devices: tuple[str, ...] = ()
    results: str = "speed"  # the folder of benchmark/results where they go
    worker: str | None = None  # internal: print the updates of this one device


def gflop(num_qs, utd):
    """10^9 floating-point operations in the matrix products of an update."""
    layer = 2 * BATCH * HIDDEN / 1e9
    actor, critic, inputs = OBS + HIDDEN + 2 * ACT, OBS + ACT + HIDDEN + 1, OBS + ACT
    target = actor + 2 * critic
    # forward, gradients of weights, and of all inputs but the first
    critic_step = num_qs * (3 * critic - inputs)
    # the critics pass the gradient on, their weights get none
    actor_step = 3 * actor - OBS + num_qs * 2 * critic
    return layer * (utd * (target + critic_step) + actor_step)


def clock(function, device):
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def split(agent, batch):
    """The parts of an update with one minibatch, to be timed one by one."""
    members = torch.arange(agent.args.num_min_qs)
    noise = torch.randn_like(batch["actions"])
    critic_gradients = partial(agent.critic_gradients, batch, noise, members)
    actor_gradients = partial(agent.actor_gradients, batch, noise)
    of_critics, of_actor = critic_gradients()[1], actor_gradients()[1]

    def adam():
        rlif_rlpd.descend(agent.qf_optimizer, of_critics)
        rlif_rlpd.descend(agent.actor_optimizer, of_actor)

    return {"critic_gradients": critic_gradients, "actor_gradients": actor_gradients, "adam": adam}


def measure_updates(worker, rounds):
    """Rows of updates.csv for one device and number of threads."""
    device, threads = worker.split(":")
    torch.set_num_threads(int(threads))
    updates, batches, parts = {}, {}, {}
    for utd in (1, 10):
        columns = [
            torch.rand(utd, BATCH, *shape, device=device)
            for shape in ((OBS,), (OBS,), (ACT,), (), ())
        ]
        batches[utd] = dict(zip(rlif_rlpd.ReplayBuffer(1, OBS, ACT).data, columns))
        batches[utd]["terminations"].zero_()
    for num_qs, path, bf16 in product((2, 10), ("eager", "compiled"), (False, True)):
        args = rlif_rlpd.Args(num_qs=num_qs, bf16=bf16, cuda=device == "cuda")
        for utd in (1, 10):
            # a CUDA graph holds one number of minibatches, so each gets an agent of its own there
            if utd == 1 or device == "cuda":
                agent = rlif_rlpd.Agent(OBS, ACT, args, torch.device(device))
                if path == "compiled":
                    agent.critic_gradients = compiled(agent.critic_gradients)
                    agent.actor_gradients = compiled(agent.actor_gradients)
            update = (
                CudaGraph(agent.update) if device == "cuda" and path == "compiled" else agent.update
            )
            updates[num_qs, utd, path, bf16] = update
            if device == "cpu" and utd == 1 and path == "compiled":
                parts[num_qs, bf16] = split(
                    agent, {name: values[0] for name, values in batches[1].items()}
                )
    factors = {bf16: torch.rand(2, 10, 256, 256, device=device).to(torch.bfloat16 if bf16 else torch.float32)
               for bf16 in (False, True)}  # fmt: skip
    obs, actor = (
        torch.rand(1, OBS).numpy(),
        next(iter(updates.values())).__self__.actor if device == "cpu" else None,
    )
    times, products, latencies = {key: [] for key in updates}, {False: [], True: []}, []
    part_times = {(key, name): [] for key, functions in parts.items() for name in functions}
    for _ in range(rounds + 1):  # the first round warms up
        for bf16, (a, b) in factors.items():
            products[bf16] += [clock(lambda: torch.bmm(a, b), device) for _ in range(10)]
        for key, update in updates.items():
            repeats = 5 if key[1] == 1 else 2
            times[key] += [
                [clock(lambda: update(batches[key[1]]), device) for _ in range(repeats)][1:]
            ]
        for (key, name), seconds in part_times.items():
            seconds += [clock(parts[key][name], device) for _ in range(5)][1:]
        if actor:
            latencies += [clock(lambda: actor.act(obs), device) for _ in range(50)]
    rows, peaks = (
        [],
        {bf16: 10 * 2 * 256**3 / 1e9 / median(seconds[10:]) for bf16, seconds in products.items()},
    )
    for (num_qs, utd, path, bf16), rounds_of_times in times.items():
        seconds = median([t for times_of_round in rounds_of_times[1:] for t in times_of_round])
        row = {
            "device": device,
            "threads": threads,
            "num_qs": num_qs,
            "utd_ratio": utd,
            "path": path,
        }
        row |= {"precision": "bfloat16" if bf16 else "float32", "ms": f"{seconds * 1e3:.2f}"}
        row |= {
            "critic_updates_per_second": f"{utd / seconds:.0f}",
            "product_gflops": f"{peaks[bf16]:.0f}",
        }
        row |= {"share_of_product": f"{gflop(num_qs, utd) / seconds / peaks[bf16]:.2f}"}
        jax = JAX_MS.get((num_qs, utd)) if worker == "cpu:1" else None
        row |= {
            "times_jax": f"{jax * JAX_GFLOPS / peaks[False] / (seconds * 1e3):.2f}" if jax else ""
        }
        row |= {"act_microseconds": f"{median(latencies) * 1e6:.0f}" if actor else ""}
        for name in ("critic_gradients", "actor_gradients", "adam"):
            seconds = (
                part_times.get(((num_qs, bf16), name)) if (utd, path) == (1, "compiled") else None
            )
            row[f"{name}_ms"] = f"{median(seconds[4:]) * 1e3:.2f}" if seconds else ""
        rows.append(row)
    return rows


def measure_run(options, steps, folder):
    """A row of runs.csv: the default command for so many steps, measured between two evaluations of one episode."""
    command = [
        sys.executable,
        str(ROOT / "rlif_rlpd.py"),
        "--total-timesteps",
        str(steps),
        *options.split(),
    ]
    command += ["--eval-frequency", str(steps // 3), "--eval-episodes", "1", "--exp-name", "speed"]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"this run failed, try it by hand: {' '.join(command)}")
    seconds = time.perf_counter() - start
    (path,) = Path(folder).glob("runs/*/eval.csv")
    columns = read_evaluations(path)
    first, last = columns[0], columns[-1]
    rate = (last["global_step"] - first["global_step"]) / (
        last["wall_seconds"] - first["wall_seconds"]
    )
    row = {"command": f"python rlif_rlpd.py {options}".strip(), "steps_per_second": f"{rate:.0f}"}
    return row | {
        "start_up_seconds": f"{seconds - steps / rate:.0f}",
        "peak_mib": usage.ru_maxrss // 1024,
    }


def keep(path, rows):
    """Write a csv file, and show it."""
    write(path, rows)
    for row in [rows[0].keys(), ["-"] * len(rows[0]), *(row.values() for row in rows)]:
        print("|" + "|".join(map(str, row)) + "|")
    print(f"written: {path.relative_to(ROOT)}\n")


def machine():
    """The processor's name, its instructions for bfloat16, the GPU."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [
        line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")
    ]
    flags = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in info]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    name = names[0] if names else platform.processor()
    return f"{name}, {os.cpu_count()} cores, {' '.join(flags)}, {gpu}, torch {torch.__version__}"


def main(args):
    for name in ("rounds", "steps"):
        if getattr(args, name) < 1:
            refuse(f"--{name} must be positive, not {getattr(args, name)}")
    usual = ["cpu:1", "cpu:2"][: os.cpu_count()] + ["cuda:1"] * torch.cuda.is_available()
    devices = list(args.devices) or usual
    if args.worker is not None:
        devices = [args.worker]
    for device in devices:
        if not re.fullmatch(r"(cpu|cuda):[1-9]\d*", device):
            refuse(f"a device with its number of threads is needed, e.g. cpu:2, not {device!r}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            refuse(f"{device}: torch finds no GPU here; for one core: --devices cpu:1")
    if args.worker is not None:
        json.dump(measure_updates(args.worker, args.rounds), sys.stdout)
        return
    print(machine(), flush=True)
    folder = results_of(args.results)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for worker in devices:
        command = [sys.executable, __file__, "--worker", worker, "--rounds", str(args.rounds)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows += json.loads(output.splitlines()[-1])
    keep(folder / "updates.csv", rows)
    runs, options_of_runs = [], []
    if any(device.startswith("cpu") for device in devices):
        options_of_runs += ["--no-compile", "", "--bf16"]
    if any(device.startswith("cuda") for device in devices):
        options_of_runs += ["--cuda", "--cuda --bf16"]
    with tempfile.TemporaryDirectory() as parent:
        for i, options in enumerate(options_of_runs):
            (Path(parent) / str(i)).mkdir()
            runs.append(measure_run(options, args.steps, Path(parent) / str(i)))
    keep(folder / "runs.csv", runs)
    (folder / "machine.txt").write_text(machine() + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
