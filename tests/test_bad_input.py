"""What is wrong with the input is said in one line, before anything is written; a full disk or a nan costs nothing."""

import errno
import json
import os
import re
import resource
import subprocess
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import torch as safetensors_torch

import experts
import rlif_rlpd
from experts import Expert, InputError, load_checkpoint, policies
from tests import tiny

SMALL = (
    "--env-id", "Point-v0", "--expert", "expert.safetensors", "--reference", "expert.safetensors", "--demo-episodes", 0,
    "--total-timesteps", 60, "--eval-frequency", 20, "--eval-episodes", 1, "--batch-size", 8,
    "--hidden-sizes", 8, "--num-qs", 2, "--num-threads", 1, "--no-compile", "--termination", "penalty",
)  # fmt: skip


@pytest.fixture(autouse=True)
def expert(own_folder):
    return Path(
        tiny.write_expert("expert.safetensors", [[-1.0, 0.0]], noise=0.5, qf=tiny.critics(2, 1))
    )


def refusal(*options):
    """The one line with which the script refuses these options."""
    with pytest.raises(InputError) as caught:
        rlif_rlpd.main(tiny.parsed(rlif_rlpd, *options))
    message = str(caught.value)
    assert message.strip() and "\n" not in message
    return message


def refused(*options):
    """Of a new run: nothing may be left of it."""
    message = refusal(*SMALL, *options)
    assert not list(Path().glob("runs/*"))
    return message


@pytest.mark.parametrize(("options", "said"), [
    ("--env-id NoSuch-v0", "NoSuch"),
    ("--env-id no_such_module:Any-v0", "no_such_module"),
    ("--env-id Broken-v0", "Broken-v0"),
    ("--env-id CartPole-v1", "RLPD needs continuous actions"),
    ("--env-id Unbounded-v0", "bounded ones in a flat Box of floats, not Box(-inf, inf, (1,), float32)"),
    ("--env-id Picture-v0", "images are not supported"),
    ("--expert best", "'best'"),
    ("--reference best", "'best'"),
    ("--expert no_such_file.safetensors", "No such file"),
    ("--env-id Pendulum-v1", "2 observations and 1 actions, Pendulum-v1 has 3 and 1"),
    ("--intervention-beta 1.5", "--intervention-beta"),
    ("--intervention-beta -0.1", "--intervention-beta"),
    ("--intervention-beta nan", "--intervention-beta"),
    ("--offline-ratio 1.1", "--offline-ratio"),
    ("--tau 2", "--tau"),
    ("--gamma 1", "--gamma"),
    ("--bc-weight -1", "--bc-weight"),
    ("--offline-ratio 0.5", "--demo-episodes"),
    ("--seed 9223372036854775808", "--seed"),
    ("--intervention-alpha inf", "--intervention-alpha"),
    ("--learning-rate 0", "--learning-rate"),
    ("--utd-ratio 0", "--utd-ratio"),
    ("--total-timesteps 0", "--total-timesteps"),
    ("--takeover-steps 0", "--takeover-steps"),
    ("--seed -1", "--seed"),
    ("--hidden-sizes 0", "--hidden-sizes"),
    ("--num-min-qs 3", "--num-min-qs"),
    ("--reward task --termination penalty", "--termination bootstrap"),
    ("--env-id Endless-v0", "no time limit"),
    ("--env-id Hopper-v5 --max-episode-steps 0", "--max-episode-steps"),
    ("--random-rate 100 --intervention random", "--random-rate"),
    ("--dataset-id no/such/dataset-v0", "no/such/dataset-v0"),
])  # fmt: skip
def test_refused_in_one_line_before_anything_is_written(options, said):
    demonstrations = ("--demo-episodes", 5) if "dataset" in options else ()
    assert said in refused(*options.split(), *demonstrations)


@pytest.mark.parametrize(
    "options", ["--bc-weight 1", "--bc-weight 1 --offline-ratio 0.06", "--offline-ratio 0.06"]
)
def test_demonstrations_that_no_batch_would_have_are_refused(options):
    options = *options.split(), "--demo-episodes", 5  # a batch has 8 rows
    assert "--offline-ratio is too small: no demonstrations in a batch" in refused(*options)


def test_without_intervention_there_has_to_be_another_reward():
    assert "no reward but --reward task" in refusal(
        "--env-id", "Point-v0", "--intervention", "none"
    )


def test_an_unknown_level_is_answered_with_the_known_ones():
    message = refusal("--env-id", "Hopper-v5", "--expert", "best", "--eval-episodes", 1)
    assert all(level in message for level in ("low", "middle", "top"))


def test_without_a_shipped_top_expert_demonstrations_must_be_named():
    message = refused("--demo-episodes", 5)
    assert "--dataset-id" in message and "--demo-episodes 0" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu():
    assert "GPU" in refused("--cuda")


@pytest.mark.parametrize(
    ("option", "package"), [("--track", "wandb"), ("--capture-video", "moviepy")]
)
def test_options_that_need_another_package_name_it(option, package):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    assert f"pip install {package}" in refused(option)


# --- files -----------------------------------------------------------------------------------------------------------


def cut(data):
    return data[: len(data) * 2 // 3]


def flip(data):
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


@pytest.mark.parametrize("damage", [cut, flip, lambda data: b"no expert at all", lambda data: b""])
def test_damaged_expert_file(expert, damage):
    expert.write_bytes(damage(expert.read_bytes()))
    assert "expert.safetensors" in refused()


@pytest.mark.parametrize("position", range(0, 400, 37))
def test_no_flipped_bit_in_an_experts_header_passes(expert, position):
    data = expert.read_bytes()
    expert.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
    assert "expert.safetensors" in refused()


def edit_header(path, **facts):
    """Write other facts than the tensors tell, with a checksum that is right."""
    tensors = safetensors_torch.load_file(path)
    facts = Expert(path).facts | facts
    header = {"facts": json.dumps(facts), "sha256": policies._digest(tensors, facts)}
    safetensors_torch.save_file(tensors, path, header)


@pytest.mark.parametrize(("facts", "said"), [
    ({"hidden_sizes": [32, 32]}, "its tensors are not those of its header"),
    ({"obs_dim": 3}, "its tensors are not those of its header"),
    ({"distribution": "categorical"}, "its tensors are not those of its header"),
    ({"distribution": "gaussian"}, "not gaussian"),
], ids=str)  # fmt: skip
def test_an_expert_whose_tensors_are_not_those_of_its_header(expert, facts, said):
    edit_header(expert, **facts)
    message = refused()
    assert message.startswith("expert.safetensors: ") and said in message


def test_a_reference_needs_critics():
    tiny.write_expert("blind.safetensors", [[-1.0, 0.0]])
    assert "critics" in refused("--reference", "blind.safetensors")


def test_a_runs_folder_that_cannot_be_written():
    Path("runs").write_text("a file")  # root may write in any folder
    assert "cannot write in runs" in refusal(*SMALL)


def test_a_dataset_of_another_shape():
    tiny.write_demonstrations("test/count-v0", episodes=2, steps=4, env_id="Falls-v0")
    message = refused("--dataset-id", "test/count-v0", "--demo-episodes", 5)
    assert "test/count-v0" in message and "(1,)" in message and "(2,)" in message


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(expert):
    return tiny.run("a", *SMALL)


@pytest.mark.parametrize("damage", [cut, flip, lambda data: b"", lambda data: data[:20]])
def test_damaged_checkpoint(run_dir, damage):
    checkpoint = run_dir / "checkpoint.pt"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    assert "checkpoint.pt is damaged" in refusal("--resume", run_dir)


@pytest.mark.parametrize(
    "option", ["--seed 2", "--gamma 0.9", "--env-id Hopper-v5", "--total-timesteps 90"]
)
def test_resume_with_a_contradicting_option(run_dir, option):
    before = (run_dir / "args.json").read_bytes()
    name, _ = option.split()
    assert name in refusal("--resume", run_dir, *option.split())
    assert (run_dir / "args.json").read_bytes() == before


def test_resume_with_an_option_that_agrees(run_dir):
    assert tiny.parsed(rlif_rlpd, "--resume", run_dir, "--seed", 1).total_timesteps == 60


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_resume_of_a_folder_that_is_no_run(folder):
    assert folder in refusal("--resume", folder)
    assert not Path("nowhere").exists()


NO_OPTIONS = (
    {"no_such_option": 1}, {"seed": "one"}, {"seed": True}, {"seed": -1}, {"gamma": None}, {"hidden_sizes": 8},
    {"hidden_sizes": ["a"]}, {"hidden_sizes": []}, {"env_id": 3}, {"cuda": 1}, {"termination": "never"},
    {"intervention": "always"}, {"num_min_qs": 3},
)  # fmt: skip


def edit_options(run_dir, edit):
    path = run_dir / "args.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))


@pytest.mark.parametrize("edit", [{"gamma": 0.9}, {"total_timesteps": 90}, *NO_OPTIONS], ids=str)
def test_resume_after_args_json_was_edited(run_dir, edit):
    edit_options(run_dir, edit)
    assert "--" in refusal("--resume", run_dir)


@pytest.mark.parametrize("edit", NO_OPTIONS, ids=str)
def test_resume_after_args_json_was_edited_and_there_is_no_checkpoint(run_dir, edit):
    (run_dir / "checkpoint.pt").unlink()
    edit_options(run_dir, edit)
    assert "--" in refusal("--resume", run_dir)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"seed": 1}', "\x00\xff"])
def test_resume_after_args_json_was_spoilt(run_dir, text):
    (run_dir / "args.json").write_text(text)
    assert str(run_dir) in refusal("--resume", run_dir)


def test_resume_with_another_expert_under_the_same_name(run_dir):
    tiny.write_expert("expert.safetensors", [[1.0, 0.0]], noise=0.5, qf=tiny.critics(2, 1))
    assert "changed" in refusal("--resume", run_dir)


# --- how it ends -----------------------------------------------------------------------------------------------------


def test_a_refusal_is_exit_code_2_and_one_line(ending, run_dir):
    code, line = ending(rlif_rlpd, "--resume", "nowhere")
    assert code == 2 and line.startswith("rlif_rlpd.py: --resume nowhere: ")
    (run_dir / "checkpoint.pt").write_bytes(flip((run_dir / "checkpoint.pt").read_bytes()))
    code, line = ending(rlif_rlpd, "--resume", run_dir)
    assert code == 2 and re.fullmatch(r"rlif_rlpd.py: [^\n]+damaged[^\n]+", line)


def test_of_a_process_as_well():
    process = tiny.start("--env-id", "NoSuch-v0", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    output, error = process.communicate()
    assert (
        process.returncode == 2
        and output == ""
        and re.fullmatch(r"rlif_rlpd.py: --env-id [^\n]+\n", error)
    )


# --- misfortunes -----------------------------------------------------------------------------------------------------


@contextmanager
def full_disk(file_name, nth=1):
    """The nth time that a file of this name is written, the disk is full."""
    left, fsync = [nth], os.fsync

    def failing(file):
        if any(file_name in path.name for path in Path("runs").glob("*/.*.tmp")):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fsync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        yield


# an episode has ten steps, so that there is a checkpoint every 20 steps
TENS = *SMALL, "--env-id", "Walled-v0", "--max-episode-steps", 10


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_full_disk_keeps_the_last_checkpoint_and_says_how_to_go_on(ending, nth):
    whole = tiny.run("whole", *TENS)
    with full_disk("checkpoint.pt", nth):
        code, line = ending(rlif_rlpd, *TENS, "--exp-name", "full")
    (run_dir,) = Path("runs").glob("*__full__*")
    go_on = (
        f"go on with: python rlif_rlpd.py --resume {run_dir}"
        if nth > 1
        else "there is no checkpoint yet: start it again"
    )
    assert code == 1
    said = "rlif_rlpd.py: no new checkpoint written (No space left on device), make room"
    assert line == f"{said}; {go_on}"
    assert not list(run_dir.glob(".*"))  # no half of a file is left
    if nth > 1:
        steps = load_checkpoint(run_dir / "checkpoint.pt")["progress"][0]
        assert steps == 20 * (nth - 1)
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, "--resume", run_dir))
    tiny.assert_same_run(run_dir, whole)


@pytest.mark.parametrize("file_name", ["eval.csv", "model.safetensors", "summary.json"])
def test_full_disk_at_any_other_file_is_said_as_well(ending, file_name):
    with full_disk(file_name):
        code, line = ending(rlif_rlpd, *SMALL)
    assert code == 1 and line.startswith("rlif_rlpd.py: [Errno 28] No space left on device; ")
    (run_dir,) = Path("runs").iterdir()
    assert line.endswith(f"go on with: python rlif_rlpd.py --resume {run_dir}")
    assert ending(rlif_rlpd, "--resume", run_dir)[0] == 0
    tiny.assert_same_run(run_dir, tiny.run("whole", *SMALL))


def test_full_disk_at_the_first_file_of_a_run(ending):
    with full_disk("args.json"):
        code, line = ending(rlif_rlpd, *SMALL)
    assert code == 2 and line == "rlif_rlpd.py: cannot write in runs: No space left on device"
    assert not [path for path in Path("runs").rglob("*") if path.is_file()]


def limit_files_to_20_kilobytes():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_checkpoint_that_cannot_be_written_ends_the_process_with_code_1_and_no_traceback():
    process = tiny.start(
        *SMALL, "--env-id", tiny.POINT, "--hidden-sizes", 64, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=limit_files_to_20_kilobytes,
    )  # fmt: skip
    error = process.communicate()[1]
    assert process.returncode == 1 and "Traceback" not in error
    assert re.search(
        r"no new checkpoint written \(File too large\), make room; there is no checkpoint yet",
        error,
    )


def test_events_that_cannot_be_written_end_the_process_with_code_1_and_no_traceback():
    """TensorBoard writes them in a thread of its own."""
    process = tiny.start(
        *SMALL, "--env-id", tiny.POINT, "--max-episode-steps", 2, "--total-timesteps", 100_000, "--eval-frequency",
        100_000, "--batch-size", 100_000, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=limit_files_to_20_kilobytes,
    )  # fmt: skip
    error = process.communicate()[1]
    assert process.returncode == 1 and "Traceback" not in error
    said = "[Errno 27] File too large; there is no checkpoint yet: start it again"
    assert error.splitlines()[-1] == f"rlif_rlpd.py: {said}"


def test_write_file_leaves_the_old_content_if_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    experts.write_file(path, b"old")
    monkeypatch.setattr(
        os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    with pytest.raises(OSError):
        experts.write_file(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.glob("*file*")] == ["file"]


def test_nan_stops_the_run_with_step_and_cause_and_keeps_a_clean_checkpoint(ending):
    code, line = ending(rlif_rlpd, *SMALL, "--env-id", "Nan-v0", "--total-timesteps", 400)
    (run_dir,) = Path("runs").iterdir()
    assert code == 1
    said = r"rlif_rlpd.py: Nan-v0: step \d+ of an episode gives an observation that is not finite"
    assert re.fullmatch(f"{said}; go on with: python rlif_rlpd.py --resume {run_dir}", line)
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    # the first nan comes with an environment's step 160, and an episode has 50 steps at most
    assert 90 < checkpoint["progress"][0] < 160
    kept = [checkpoint["kept"][name] for name in ("agent", "rb")]
    assert all(values.isfinite().all() for state in kept for values in state.values())
    assert len(kept[1]["obs"]) == checkpoint["progress"][0]
