"""Files that are written whole or not at all, a run's folder, and how a script ends when something is wrong."""

import hashlib
import io
import os
import pickle
import re
import shlex
import signal
import sys
import traceback
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch


class InputError(Exception):
    """What is wrong with the user's input: one line. A script prints it and exits with code 2."""


class RunError(Exception):
    """What broke a run that had begun: one line. A script prints it, with how to go on, and exits with code 1."""


_run = {"folder": None}  # of this process, for what is printed when it ends


def new_run_folder(parent, name):
    """Make a folder of this name, or with -2, -3, ... at its end: no two runs share one, however close they begin."""
    Path(parent).mkdir(exist_ok=True)
    for number in range(1, 1_000):
        folder = Path(parent) / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise InputError(f"there are a thousand runs called {name} in {parent}: give another --exp-name")


def require_packages(*names):
    """Raises InputError if one of these packages is not installed; a folder of its name that lies about is not it."""
    missing = []
    for name in names:
        found = find_spec(name)
        if found is None or found.origin is None:
            missing.append(name)
    if missing:
        raise InputError(f"this run needs another package: python -m pip install {' '.join(missing)}")


def start_tracking(folder, options):
    """Begin, or go on with, a run of Weights & Biases that has the folder's name; TensorBoard's scalars go there too.

    Raises InputError where that can't be, e.g. without a key, and leaves no new folder behind.
    """
    run_id = re.sub(r"[^\w.-]", "-", folder.resolve().name, flags=re.ASCII)  # it allows no other characters
    try:
        import wandb

        wandb.init(project="rlif", id=run_id, resume="allow", config=options, sync_tensorboard=True)
    except BaseException as error:  # whatever it or the network raises, or Ctrl-C while it asks for a key
        if not any(folder.iterdir()):
            folder.rmdir()
        if not isinstance(error, Exception):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"--track: Weights & Biases does not start: {lines[0]}") from None


def begin_run(folder):
    """Tell exit_codes() which run this process is."""
    _run["folder"] = Path(folder)


def how_to_go_on():
    """The command that goes on with this process's run, as it is typed."""
    folder = _run["folder"]
    if folder is None or not (folder / "checkpoint.pt").exists():
        return "there is no checkpoint yet: start it again"
    return f"go on with: {shlex.join(['python', sys.argv[0], '--resume', str(folder)])}"


def write_error_log(error):
    """Keep the traceback of what an environment raised, in the run's folder or beside it; returns where, in words."""
    log = (_run["folder"] or Path("runs")) / "error.log"
    try:
        log.parent.mkdir(exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)))
    except OSError:  # e.g. a full disk: the one line has to do
        return ""
    return f" (what was raised: {log})"


@contextmanager
def exit_codes():
    """One line on stderr for what goes wrong in here; exit code 2 for bad input, 1 for a broken run, 128 + signal.

    Ctrl-C and SIGTERM raise a KeyboardInterrupt. The traceback of what an environment raised is in the run's error.log.
    """

    def stop(signum, _):
        raise KeyboardInterrupt(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        yield
        return
    except InputError as error:
        code, line, raised = 2, str(error), error
    except (RunError, OSError) as error:  # an OSError is a full disk
        code, line, raised = 1, f"{error}; {how_to_go_on()}", error
        if error.__cause__:
            line += write_error_log(error)
    except KeyboardInterrupt as error:
        code, line, raised = 128 + (error.args[0] if error.args else signal.SIGINT), f"stopped; {how_to_go_on()}", error
    for signum in (signal.SIGINT, signal.SIGTERM):  # from here on they end the process without a word
        signal.signal(signum, signal.SIG_DFL)
    traceback.clear_frames(raised.__traceback__)  # lets go of progress bars, which end their line then
    print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def stops_without_exception():
    """Ctrl-C and SIGTERM end the process in here at once, with the line and code of exit_codes().

    For torch's compiler, where an exception is lost now and then: Python ignores those in destructors.
    """

    def leave(signum, _):
        os.write(2, f"{Path(sys.argv[0]).name}: stopped; {how_to_go_on()}\n".encode())
        os._exit(128 + signum)

    handlers = {signum: signal.signal(signum, leave) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def write_file(path, data):
    """Write bytes completely or not at all, whether the process is killed or the disk is full (OSError)."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path, state):
    """Write nested dicts and lists of tensors, numbers and strings: a SHA-256, then what torch.save makes of them."""
    data = io.BytesIO()
    torch.save(state, data)
    write_file(path, hashlib.sha256(data.getbuffer()).digest() + data.getbuffer())


def load_checkpoint(path):
    """Read what save_checkpoint wrote. Raises InputError if it was cut short or changed; never runs code in it."""
    data = Path(path).read_bytes()
    if len(data) <= 32 or hashlib.sha256(memoryview(data)[32:]).digest() != data[:32]:
        raise InputError(f"{path} is damaged: its checksum does not match its content")
    try:
        return torch.load(io.BytesIO(memoryview(data)[32:]), weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, EOFError):
        raise InputError(f"{path} is not a checkpoint") from None
