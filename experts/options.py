"""The command line of a script: ranges of options, options that do nothing, options of a run that goes on."""

import json
import math
import sys
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import torch
import tyro

from experts.files import InputError

# of this process's run: where it lies; by the clock, when it would have begun without an interruption; whether a person
# at the keys has paused it
this_run = {"folder": None, "begun": 0.0, "paused": False}


@dataclass(frozen=True)
class Range:
    """Numbers x with least <= x <= most and above < x < below, in words."""

    words: str
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, x):
        return self.least <= x <= self.most and self.above < x < self.below


Count = Annotated[int, Range("positive", least=1)]
Natural = Annotated[int, Range("zero or more", least=0)]
Seed = Annotated[int, Range("zero or more, below 2 to the 63rd", least=0, most=2**63 - 1)]
Finite = Annotated[float, Range("finite")]
Positive = Annotated[float, Range("positive", above=0)]
NonNegative = Annotated[float, Range("zero or more", least=0)]
Share = Annotated[float, Range("in [0, 1]", least=0, most=1)]
Discount = Annotated[float, Range("in [0, 1)", least=0, below=1)]
Percentage = Annotated[float, Range("between 0 and 100", above=0, below=100)]


def parse(Args, check, argv=None):
    """The options that were typed, as Args; with --resume, the run's own, which nothing may contradict.

    check(args, typed) raises InputError where options do not go together; typed holds those that were typed.
    Raises InputError for those, for numbers out of range and for what this machine does not have.
    """
    words = sys.argv[1:] if argv is None else argv
    args = tyro.cli(Args, args=words)
    if (
        getattr(args, "replay", None) and args.resume is None
    ):  # the options of that run, but for those that are typed
        own = replace(_options_of(args.replay, Args, "--replay"), resume=None, replay=args.replay)
        args = tyro.cli(Args, args=words, default=own)
    if args.resume is None:
        typed = {}
        for word in words:
            if word.startswith("--"):
                option = word.split("=")[0].replace("_", "-")
                typed[option.removeprefix("--").removeprefix("no-").replace("-", "_")] = option
    else:
        typed, args = {}, _options_of(args.resume, Args, "--resume")
        for name, value in vars(tyro.cli(Args, args=words, default=args)).items():
            if value != getattr(args, name):
                runs_with = f"it runs with {getattr(args, name)} as {_flag(name)}"
                raise InputError(f"--resume {args.resume}: {runs_with}; leave that out")
    _check_ranges(args)
    check(args, typed)
    if args.cuda and not torch.cuda.is_available():
        raise InputError("--cuda: torch finds no GPU here")
    if args.track:
        require_package("wandb")
    if args.capture_video:
        require_package("moviepy")
    this_run["folder"] = args.resume and Path(args.resume)
    return args


def unused(typed, names, why):
    """Refuse those of these options, names with blanks between, that were typed, for they would do nothing."""
    for name in names.split():
        if name in typed:
            raise InputError(f"{typed[name]} would do nothing here: {why}; leave it out")


def require_package(name):
    """Raises InputError if this package is not installed; a folder of its name that lies about is not it."""
    found = find_spec(name)
    if found is None or found.origin is None:
        raise InputError(f"this run needs another package: python -m pip install {name}")


def _flag(name):
    return f"--{name.replace('_', '-')}"


def _check_ranges(args):
    hints = get_type_hints(type(args), include_extras=True)
    for field in fields(args):
        value, allowed = getattr(args, field.name), _range(hints[field.name])
        if isinstance(value, tuple) and not value:
            raise InputError(f"{_flag(field.name)} needs at least one number")
        if allowed is None or value is None:
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if number not in allowed:
                raise InputError(f"{_flag(field.name)} must be {allowed.words}, not {number}")


def _range(hint):
    """The Range in a type such as Count, Count | None or tuple[Count, ...]; None if there is none."""
    if isinstance(hint, Range):
        return hint
    for part in (*getattr(hint, "__metadata__", ()), *get_args(hint)):
        found = _range(part)
        if found:
            return found
    return None


def _options_of(folder, Args, option):
    """The options that the run in this folder was started with; option: what named it."""
    try:
        saved = json.loads((Path(folder) / "args.json").read_text())
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in saved.items()
        }
        hints = get_type_hints(Args, include_extras=True)
        if values.keys() == hints.keys() and all(_is(values[name], hints[name]) for name in hints):
            return replace(Args(**values), resume=folder)
    except (OSError, TypeError, ValueError, AttributeError):
        pass
    raise InputError(f"{option} {folder}: no run of this script lies there (by its args.json)")


def _is(value, hint):
    """Is the value of this type, as options have them?"""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return _is(value, parts[0])
    if kind is Literal:
        return value in parts
    if kind is tuple:
        return isinstance(value, tuple) and all(_is(one, parts[0]) for one in value)
    if kind:  # a union
        return any(_is(value, part) for part in parts)
    return type(value) is hint or (hint is float and type(value) is int)


def options_to_save(args):
    """All options but --resume, as args.json and the checkpoint have them."""
    return asdict(replace(args, resume=None))
