"""Compiled functions, and CUDA graphs: the same results to rounding, and faster."""

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from experts.runs import how_to_go_on


def compiled(function):
    """A function that is compiled at its first call; if that fails, it says so and stays as it is.

    Calls must have the same shapes, and inputs that are not one and the same tensor. torch.autograd.grad may be in it.
    """
    # torch.autograd.grad becomes a part of the graph
    torch._dynamo.config.trace_autograd_ops = True
    chosen = []  # the compiled function or the plain one, once that is known

    def call(*inputs):
        if chosen:
            return chosen[0](*inputs)
        tqdm.write("compiling, once, for about 10 s (--no-compile does without)")  # above a bar
        fast = torch.compile(function, dynamic=False, fullgraph=True)
        try:
            with stops_without_exception():
                outputs = fast(*inputs)
            chosen.append(fast)
        except Exception as error:  # no compiler, or none that works
            # the first line may only say which part of torch failed, the next one why
            said = " ".join(str(error).splitlines()[:2]).strip()
            tqdm.write(f"not compiled ({said}), going on without, slower: is g++ installed?")
            outputs = function(*inputs)
            chosen.append(function)
        return outputs

    return call


@contextmanager
def stops_without_exception():
    """Ctrl-C and SIGTERM end the process in here at once, with the line and code of exit_codes().

    For torch's compiler, where an exception is lost now and then: Python ignores those in destructors.
    """

    def leave(signum, _):
        os.write(2, f"\n{Path(sys.argv[0]).name}: stopped; {how_to_go_on()}\n".encode())
        os._exit(128 + signum)

    handlers = {signum: signal.signal(signum, leave) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


class CudaGraph:
    """A function of a dict of tensors as one CUDA graph: however many kernels, one launch."""

    def __init__(self, function):
        self.function, self.stream, self.calls = function, torch.cuda.Stream(), 0

    def __call__(self, inputs):
        if self.calls == 0:
            self.inputs = {name: torch.empty_like(values) for name, values in inputs.items()}
        for name, values in inputs.items():
            self.inputs[name].copy_(values)
        self.calls += 1
        if self.calls <= 3:  # these compile, and allocate Adam's moments, on a stream of their own
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                outputs = self.function(self.inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return outputs
        if self.calls == 4:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, and runs nothing
                self.outputs = self.function(self.inputs)
        self.graph.replay()
        return self.outputs
