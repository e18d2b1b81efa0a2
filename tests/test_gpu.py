"""On a GPU: the updates are those of the CPU to rounding, and every script learns and goes on."""

import pytest
import torch

from experts import load_expert
from tests import tiny
from tests.test_fast_paths import assert_close_to_rounding, compile_gradients, gradients
from tests.test_fast_paths import needs_compiler, on
from tests.test_networks import learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")


@pytest.mark.parametrize("compile_first", [False, pytest.param(True, marks=needs_compiler)])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_gradients_on_the_gpu_are_those_of_the_cpu_to_rounding(precision, compile_first):
    there = learner(precision=precision)
    expected = gradients(*there)
    agent, *inputs = on("cuda", *there)
    if compile_first:
        compile_gradients(agent)
    for _ in range(3):
        assert_close_to_rounding(gradients(agent, *inputs), expected, precision == "bf16")


def test_each_script_leaves_the_files_that_it_leaves_on_the_cpu_and_goes_on(script, ending):
    names = []
    for device in ("", "--cuda"):
        folder = tiny.short_run(script, device)
        found = (path.name for path in folder.iterdir() if "events" not in path.name)
        names.append(sorted(found))
        load_expert("Walled-v0", f"{folder}/model.safetensors")
    assert names[0] == names[1]
    kind = tiny.SCRIPTS[script.__name__].kind
    longer = "--rounds 7" if kind == "rounds" else "--total-timesteps 120"
    before = len(tiny.rows(folder))
    assert ending(script, "--resume", folder, longer)[0] == 0
    rows = tiny.rows(folder)
    assert len(rows) > before and float(rows[-1]["return_mean"]) > -1e9
