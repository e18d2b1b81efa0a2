"""The command line: ranges of options, options that do nothing beside others, and those of a run that goes on."""

import importlib
import json
import math
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

from experts import InputError, parse, unused
from experts.options import Count, Discount, Finite, Natural, NonNegative, Percentage, Positive
from experts.options import Seed, Share, options_to_save, require_package


@dataclass
class Args:
    """One option of every range, and those that every script has."""

    count: Count = 1
    natural: Natural = 0
    seed: Seed = 1
    finite: Finite = 0.0
    positive: Positive = 1.0
    non_negative: NonNegative = 0.0
    share: Share = 0.5
    discount: Discount = 0.5
    percentage: Percentage = 50.0
    limit: Count | None = None
    goal: Finite | None = None
    sizes: tuple[Count, ...] = (8, 8)
    scales: tuple[NonNegative, ...] = (1.0,)
    number: int = 0
    text: str = "a"
    fast: bool = True
    resume: str | None = None
    cuda: bool = False
    track: bool = False
    capture_video: bool = False


def no_check(args, typed):
    pass


def parsed(*words, check=no_check):
    return parse(Args, check, [str(word) for word in words])


def refusal(*words, check=no_check):
    """The one line with which these options are refused."""
    with pytest.raises(InputError) as caught:
        parsed(*words, check=check)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# --- ranges ----------------------------------------------------------------------------------------------------------

TINY, NEARLY_1 = math.ulp(0.0), math.nextafter(1.0, 0.0)


@pytest.mark.parametrize(("name", "allowed", "refused", "words"), [
    ("count", [1, 10**9], [0, -1], "positive"),
    ("natural", [0, 1], [-1], "zero or more"),
    ("seed", [0, 2**63 - 1], [-1, 2**63], "zero or more, below 2 to the 63rd"),
    ("finite", [-1e300, 0.0, 1e300], [], "finite"),
    ("positive", [TINY, 1e300], [0.0, -0.0, -1.0], "positive"),
    ("non-negative", [0.0, -0.0, 1e300], [-TINY], "zero or more"),
    ("share", [0.0, 1.0], [-TINY, math.nextafter(1.0, 2.0)], "in [0, 1]"),
    ("discount", [0.0, NEARLY_1], [-TINY, 1.0], "in [0, 1)"),
    ("percentage", [TINY, 99.9], [0.0, 100.0, -1.0], "between 0 and 100"),
])  # fmt: skip
def test_a_number_is_refused_outside_its_range_and_taken_at_its_edges(
    name, allowed, refused, words
):
    for value in allowed:
        taken = getattr(parsed(f"--{name}={value}"), name.replace("-", "_"))
        assert taken == value and type(taken) is type(value)
    if name not in ("count", "natural", "seed"):  # which are whole numbers
        refused = [*refused, math.nan, math.inf, -math.inf]
    for value in refused:
        assert refusal(f"--{name}={value}") == f"--{name} must be {words}, not {value}"


def test_an_optional_number_may_be_left_out_or_lie_in_its_range():
    assert (parsed().limit, parsed().goal) == (None, None)
    args = parsed("--limit", 3, "--goal", "-2.5")
    assert (args.limit, args.goal) == (3, -2.5)
    assert parsed("--limit", "None").limit is None
    assert refusal("--limit", 0) == "--limit must be positive, not 0"
    for value in ("nan", "inf"):
        assert refusal("--goal", value) == f"--goal must be finite, not {value}"


def test_each_of_several_numbers_lies_in_its_range_and_there_is_at_least_one():
    args = parsed("--sizes", 1, 2, 3, "--scales", 0, 0.5)
    assert (args.sizes, args.scales) == ((1, 2, 3), (0.0, 0.5))
    assert refusal("--sizes", 4, 0, 3) == "--sizes must be positive, not 0"
    for value in ("nan", "inf"):
        assert refusal("--scales", 1, value) == f"--scales must be zero or more, not {value}"
    for name in ("sizes", "scales"):
        assert refusal(f"--{name}") == f"--{name} needs at least one number"


def test_a_default_outside_its_range_is_found_out_as_well():
    @dataclass
    class Wrong(Args):
        share: Share = 2.0

    with pytest.raises(InputError, match=re.escape("--share must be in [0, 1], not 2.0")):
        parse(Wrong, no_check, [])


def test_what_has_no_range_is_taken_as_it_is():
    args = parsed("--number", "-5", "--text", "", "--no-fast")
    assert (args.number, args.text, args.fast) == (-5, "", False)


@pytest.mark.parametrize(
    "name", ["bc", "dagger", "hg_dagger", "iwr", "mile", "rlif_rlpd", "sirius"]
)
def test_every_number_of_every_script_has_a_range(name):
    script = importlib.import_module(name)
    hints = get_type_hints(script.Args)  # without their ranges
    with_ranges = get_type_hints(script.Args, include_extras=True)
    numbers = int, float, int | None, float | None, tuple[int, ...], tuple[float, ...]
    assert {field.name for field in fields(script.Args) if hints[field.name] in numbers}
    for option, hint in hints.items():
        assert hint not in numbers or with_ranges[option] != hint, option


# --- options that do nothing, and options that are typed -------------------------------------------------------------


def test_options_that_would_do_nothing_are_refused_only_if_they_are_typed():
    def check(args, typed):
        if not args.fast:
            unused(typed, "share non_negative track", "it is slow")

    assert parsed("--share", 0.25, check=check).share == 0.25  # it is fast
    assert parsed("--no-fast", "--count", 2, check=check).count == 2
    said = "--{} would do nothing here: it is slow; leave it out"
    # the default, but typed
    assert refusal("--no-fast", "--share", 0.5, check=check) == said.format("share")
    assert refusal("--share=0.5", "--no-fast", check=check) == said.format("share")
    assert refusal("--no-fast", "--non-negative", 1, check=check) == said.format("non-negative")
    assert refusal("--no-fast", "--non_negative", 1, check=check) == said.format("non-negative")
    assert refusal("--no-fast", "--no-track", check=check) == said.format("no-track")


def test_check_is_told_the_options_that_were_typed_once_they_are_in_their_ranges():
    told = []

    def check(args, typed):
        told.append((args, typed))

    args = parsed("--count", 2, "--no-fast", "--sizes", 3, 4, "--goal=-1", check=check)
    typed = {"count": "--count", "fast": "--no-fast", "sizes": "--sizes", "goal": "--goal"}
    assert told == [(args, typed)]
    told.clear()
    refusal("--count", 0, check=check)
    assert not told


def test_options_are_those_of_the_command_line_if_none_are_given(monkeypatch):
    monkeypatch.setattr("sys.argv", ["script.py", "--count", "7"])
    assert parse(Args, no_check).count == 7


# --- what this machine does not have ---------------------------------------------------------------------------------


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refusal("--cuda") == "--cuda: torch finds no GPU here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert parsed("--cuda").cuda


@pytest.mark.parametrize(
    ("option", "package"), [("--track", "wandb"), ("--capture-video", "moviepy")]
)
def test_a_package_that_is_not_there(option, package, monkeypatch):
    asked = []
    monkeypatch.setattr("experts.options.find_spec", lambda name: asked.append(name))
    assert refusal(option) == f"this run needs another package: python -m pip install {package}"
    assert asked == [package]


def test_a_folder_of_a_packages_name_is_no_package(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lies_about").mkdir()
    with pytest.raises(InputError, match="pip install lies_about"):
        require_package("lies_about")
    require_package("json")


# --- a run that goes on ----------------------------------------------------------------------------------------------


@pytest.fixture
def begun(own_folder):
    """begun(...) writes what a run with these options leaves: args.json in runs/a."""

    def begin(*words):
        Path("runs/a").mkdir(parents=True, exist_ok=True)
        options = options_to_save(parsed(*words))
        Path("runs/a/args.json").write_text(json.dumps(options))
        return options

    return begin


def test_a_run_goes_on_with_its_own_options(begun):
    options = begun("--count", 5, "--sizes", 3, 4, "--no-fast", "--goal", -1.5, "--text", "b")
    assert options["resume"] is None
    args = parsed("--resume", "runs/a")
    assert asdict(args) == options | {"resume": "runs/a"}
    assert (args.count, args.sizes, args.fast, args.goal, args.text) == (
        5,
        (3, 4),
        False,
        -1.5,
        "b",
    )


def test_an_option_that_agrees_with_the_runs_own_may_be_typed_again(begun):
    begun("--count", 5, "--sizes", 3, 4, "--no-fast")
    args = parsed("--resume", "runs/a", "--count", 5, "--sizes", 3, 4, "--no-fast", "--share", 0.5)
    assert (args.count, args.sizes, args.fast, args.share) == (5, (3, 4), False, 0.5)


@pytest.mark.parametrize(("words", "said"), [
    ("--count 6", "it runs with 5 as --count"),
    ("--count 1", "it runs with 5 as --count"),  # the default
    ("--sizes 3", "it runs with (3, 4) as --sizes"),
    ("--fast", "it runs with False as --fast"),
    ("--goal 2", "it runs with None as --goal"),
    ("--non-negative 2", "it runs with 0.0 as --non-negative"),
])  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_an_option_that_contradicts_the_runs_own_is_refused(words, said, first, begun):
    begun("--count", 5, "--sizes", 3, 4, "--no-fast")
    words, resume = words.split(), ["--resume", "runs/a"]
    both = [*resume, *words] if first else [*words, *resume]
    assert refusal(*both) == f"--resume runs/a: {said}; leave that out"


def test_options_that_are_typed_again_are_not_counted_as_typed(begun):
    begun("--share", 0.25)
    told = []
    parsed("--resume", "runs/a", "--share", 0.25, check=lambda args, typed: told.append(typed))
    assert told == [{}]


@pytest.mark.parametrize("edit", [
    {"count": 0}, {"share": 1.5}, {"sizes": []}, {"limit": -1}, {"goal": math.inf}, {"positive": math.inf},
], ids=str)  # fmt: skip
def test_ranges_hold_for_the_options_of_a_run_as_well(edit, begun):
    Path("runs/a/args.json").write_text(json.dumps(begun() | edit))
    (name,) = edit
    assert refusal("--resume", "runs/a").startswith(f"--{name} ")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"seed": 1}', "\x00\xff"])
def test_a_folder_whose_options_are_spoilt_is_no_run(text, begun):
    begun()
    Path("runs/a/args.json").write_text(text)
    assert (
        refusal("--resume", "runs/a")
        == "--resume runs/a: no run of this script lies there (by its args.json)"
    )


@pytest.mark.parametrize("change", [{"another": 1}, {"count": None}], ids=["one more", "one less"])
def test_the_options_of_another_script_are_those_of_no_run_of_this_one(change, begun):
    options = begun() | change
    options = {
        name: value for name, value in options.items() if value is not None or name != "count"
    }
    Path("runs/a/args.json").write_text(json.dumps(options))
    assert "no run of this script lies there" in refusal("--resume", "runs/a")


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_that_is_no_run(folder, own_folder):
    said = f"--resume {folder}: no run of this script lies there (by its args.json)"
    assert refusal("--resume", folder) == said
    assert not list(own_folder.iterdir())
