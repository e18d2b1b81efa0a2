"""A run: its folder, what stops it, what it writes, and how a script ends when something is wrong."""

import inspect
import json
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from experts.evaluation import main_metric
from experts.files import InputError, RunError, load_checkpoint, save_checkpoint, write_file
from experts.options import options_to_save
from experts.options import this_run as _run
from experts.policies import save_expert

# --- begin and go on -------------------------------------------------------------------------------------------------


def open_run(args, policies=()):
    """The folder of a new run, or of the one that --resume names, and its last checkpoint, or None.

    A new one is runs/<env_id>__<exp_name>__<seed>__<time>, with -2, -3, ... at its end if need be: no two runs share
    one. Call it once nothing can be wrong with the input any more. policies: those that the run uses; with others it
    cannot go on. Raises InputError.
    """
    try:
        if args.resume:
            folder = Path(args.resume)
        else:
            name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
            folder = _new_folder(Path("runs"), re.sub(r"[^\w.-]", "-", name, flags=re.ASCII))
        checkpoint = None
        if (folder / "checkpoint.pt").exists():
            checkpoint = load_checkpoint(folder / "checkpoint.pt")
            if checkpoint["args"] != options_to_save(args):
                raise InputError(
                    f"--resume {folder}: its args.json is not what it was started with"
                )
            if checkpoint["policies"] != [policy.sha256 for policy in policies]:
                raise InputError(f"--resume {folder}: an expert's file has changed since")
        else:  # it starts over, if it is not a new one
            for events in folder.glob("events.out.tfevents.*"):
                events.unlink()
        if args.track:
            _start_tracking(folder, options_to_save(args))
        write_file(folder / "args.json", json.dumps(options_to_save(args), indent=2).encode())
    except OSError as error:
        raise InputError(f"cannot write in {args.resume or 'runs'}: {error.strerror}") from None
    _run["folder"] = folder
    # a checkpoint of an earlier version does not say how long it took
    before = checkpoint.get("seconds", 0) if checkpoint else 0
    _run["begun"] = time.perf_counter() - before
    return folder, checkpoint


def run_seconds():
    """Seconds that this run has taken, up to its last checkpoint and since it goes on from there."""
    return time.perf_counter() - _run["begun"]


def _new_folder(parent, name):
    parent.mkdir(exist_ok=True)
    for number in range(1, 1_000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise InputError(
        f"there are a thousand runs called {name} in {parent}: give another --exp-name"
    )


def _start_tracking(folder, options):
    """Begin, or go on with, a run of Weights & Biases that has the folder's name; TensorBoard's scalars go there too.

    Raises InputError where that can't be, e.g. without a key, and leaves no new folder behind.
    """
    # it allows no other characters
    run_id = re.sub(r"[^\w.-]", "-", folder.resolve().name, flags=re.ASCII)
    try:
        import wandb

        wandb.init(project="rlif", id=run_id, resume="allow", config=options, sync_tensorboard=True)
    # whatever it or the network raises, or Ctrl-C while it asks for a key
    except BaseException as error:
        if not any(folder.iterdir()):
            folder.rmdir()
        if not isinstance(error, Exception):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"--track: Weights & Biases does not start: {lines[0]}") from None


# --- keep ------------------------------------------------------------------------------------------------------------


def save_run(folder, args, kept, progress, policies=()):
    """Write the checkpoint from which --resume goes on. Raises RunError.

    kept: by name, what learns or draws; progress: what else changes as the run goes on; policies: as for open_run.
    """
    state = {
        "args": options_to_save(args),
        "policies": [policy.sha256 for policy in policies],
        "progress": progress,
        "seconds": run_seconds(),
    }
    state["kept"] = {name: _state_of(thing) for name, thing in kept.items()}
    state["generators"] = {"cpu": torch.get_rng_state()}
    if args.cuda:
        state["generators"]["cuda"] = torch.cuda.get_rng_state()
    try:
        save_checkpoint(folder / "checkpoint.pt", state)
    except OSError as error:
        raise RunError(f"no new checkpoint written ({error.strerror}), make room") from None


def _state_of(thing):
    if isinstance(thing, np.random.Generator):
        return thing.bit_generator.state
    return thing.state_dict()


def restore(checkpoint, kept):
    """Bring back what save_run was given as kept, and torch's random generators."""
    for name, thing in kept.items():
        if isinstance(thing, np.random.Generator):
            thing.bit_generator.state = checkpoint["kept"][name]
        else:
            thing.load_state_dict(checkpoint["kept"][name])
    torch.set_rng_state(checkpoint["generators"]["cpu"])
    if "cuda" in checkpoint["generators"]:
        torch.cuda.set_rng_state(checkpoint["generators"]["cuda"])


def write_rows(folder, writer, rows):
    """Write all evaluations to eval.csv, a dict of numbers a row, and the last one to TensorBoard; nan is left out.

    With the first one TensorBoard gets the run's options as well.
    """
    if len(rows) == 1:
        options = json.loads((folder / "args.json").read_text())
        table = "\n".join(f"|{name}|{value}|" for name, value in options.items())
        writer.add_text("hyperparameters", f"|option|value|\n|-|-|\n{table}")
    for name, value in rows[-1].items():
        if name != "global_step" and not math.isnan(value):
            writer.add_scalar(f"eval/{name}", value, rows[-1]["global_step"])
    writer.flush()
    lines = [",".join(rows[0])]
    for row in rows:
        lines.append(",".join("" if math.isnan(value) else str(value) for value in row.values()))
    write_file(folder / "eval.csv", "\n".join([*lines, ""]).encode())


def finish_run(folder, writer, args, rows, actor, qf=None, **summary):
    """Write the policy, with its critics if there are any, and summary.json: the last row, the best, and the summary.

    Prints the main things.
    """
    writer.close()
    key = main_metric(rows)
    best = max(rows, key=lambda row: row[key])
    tensors = {f"actor.{name}": values for name, values in actor.state_dict().items()}
    if qf is not None:
        tensors |= {f"qf.{name}": values for name, values in qf.state_dict().items()}
    save_expert(
        folder / "model.safetensors", tensors, env_id=args.env_id, level=args.exp_name, min_log_std=actor.min_log_std,
        score_mean=rows[-1][f"stochastic_{key}"], score_episodes=args.eval_episodes,
        trained_by=f"{Path(inspect.getfile(type(args))).name}, seed {args.seed}",
    )  # fmt: skip
    known = [
        {name: value for name, value in row.items() if not math.isnan(value)}
        for row in (rows[-1], best)
    ]
    kept = {"main_metric": key, "final": known[0], "best": known[1], **summary}
    write_file(folder / "summary.json", json.dumps(kept, indent=2).encode())
    print(
        f"{f'{key}: first, last, best':<36} {rows[0][key]:.1f}, {rows[-1][key]:.1f}, {best[key]:.1f}"
    )
    for name, value in summary.items():
        if isinstance(value, int | float):
            print(f"{name.replace('_', ' '):<36} {round(value, 2)}")
    print(f"{'folder':<36} {folder}")


# --- stop ------------------------------------------------------------------------------------------------------------


class Stop:
    """Ctrl-C and SIGTERM: between wait() and heed() the first one waits for the next checkpoint, a second one doesn't.

    Otherwise, as in an evaluation, they end the run at once, back at its last checkpoint; so they do while a person at
    the keys pauses, of whom every step is kept.
    """

    def __init__(self):
        self.asked, self.waiting = None, False
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._hear)

    def _hear(self, signum, _):
        if self.asked or not self.waiting or _run["paused"]:
            raise KeyboardInterrupt(signum)
        self.asked = signum
        os.write(
            2,
            b"\nstopping at the next checkpoint; once more stops at once, back at the last checkpoint\n",
        )

    def wait(self):
        self.waiting = True

    def heed(self):
        """Raises KeyboardInterrupt if a signal has come."""
        self.waiting = False
        if self.asked:
            raise KeyboardInterrupt(self.asked)


def how_to_go_on():
    """The command that goes on with this process's run, as it is typed."""
    folder = _run["folder"]
    files = (
        "checkpoint.pt",
        "person.csv",
    )  # what a person did is gone through from the start, if need be
    if folder is None or not any((folder / name).exists() for name in files):
        return "there is no checkpoint yet: start it again"
    return f"go on with: {shlex.join(['python', sys.argv[0], '--resume', str(folder)])}"


def _write_error_log(error):
    """Keep the traceback of what an environment raised, in the run's folder or beside it; returns where, in words."""
    log = (_run["folder"] or Path("runs")) / "error.log"
    try:
        log.parent.mkdir(exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)))
    except OSError:  # e.g. a full disk: the one line has to do
        return ""
    return f" (what was raised: {log})"


def _thread_failed(args):
    """TensorBoard writes in a thread, and raises a full disk in the main thread as well: one of the two is enough."""
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)


@contextmanager
def exit_codes():
    """One line on stderr for what goes wrong in here; exit code 2 for bad input, 1 for a broken run, 128 + signal.

    Ctrl-C and SIGTERM raise a KeyboardInterrupt. The traceback of what an environment raised is in the run's error.log.
    """

    def stop(signum, _):
        raise KeyboardInterrupt(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    threading.excepthook = _thread_failed
    try:
        yield
        return
    except InputError as error:
        code, line, raised = 2, str(error), error
    except (RunError, OSError) as error:  # an OSError is a full disk
        code, line, raised = 1, f"{error}; {how_to_go_on()}", error
        if error.__cause__:
            line += _write_error_log(error)
    except KeyboardInterrupt as error:
        code, line, raised = (
            128 + (error.args[0] if error.args else signal.SIGINT),
            f"stopped; {how_to_go_on()}",
            error,
        )
    # from here on they end the process without a word
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    # lets go of progress bars, which end their line then
    traceback.clear_frames(raised.__traceback__)
    print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
    sys.exit(code)
