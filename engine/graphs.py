"""Runs a training step as a CUDA graph: recorded once, then launched with one call instead of hundreds."""
import torch

WARM_UP = 3  # runs without a graph, in which libraries choose their algorithms and optimisers create their state


class Captured:
    """Wraps function(*tensors) -> two dicts of scalar tensors; the shapes of its inputs must not change.

    The first WARM_UP calls run the function directly. The next call records it, and from then on each call copies its
    inputs to those of the recording and replays the graph. Recording executes nothing, so every call updates weights
    and optimisers exactly once. If the function cannot be recorded, `say` gets the reason once, and all later calls
    run the function directly.
    """

    def __init__(self, function, say=print):
        self.function, self.say = function, say
        self.calls, self.graph, self.recordable = 0, None, True
        self.stream = torch.cuda.Stream()

    def __call__(self, *inputs):
        if self.graph is None and self.recordable and self.calls >= WARM_UP:
            self._record(inputs)
        self.calls += 1
        if not self.recordable:  # on the current stream: after a failed recording torch may not reuse shared memory
            return self.function(*inputs)
        if self.graph is None:
            return self._aside(inputs)
        for target, source in zip(self.inputs, inputs, strict=True):
            target.copy_(source, non_blocking=True)
        self.graph.replay()
        # Cloned, since the next replay overwrites the outputs.
        return tuple({name: value.clone() for name, value in part.items()} for part in self.outputs)

    def _aside(self, inputs):
        """Run on a side stream, as torch requires of the warm-up before a recording."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            outputs = self.function(*inputs)
        current.wait_stream(self.stream)
        for tensor in inputs:
            tensor.record_stream(self.stream)
        for tensor in (value for part in outputs for value in part.values()):
            tensor.record_stream(current)
        return outputs

    def _record(self, inputs):
        current = torch.cuda.current_stream()
        try:
            self.inputs = [tensor.clone() for tensor in inputs]
            graph = torch.cuda.CUDAGraph()
            # Record the calls of this thread only: another thread reads the next batch and may pin memory.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.outputs = self.function(*self.inputs)
            self.graph = graph
        except RuntimeError as error:  # out of memory included: each of the two graphs has its own memory
            torch.cuda.set_stream(current)  # a failed recording does not restore it
            self.recordable = False
            while error.__context__:  # the first error is the reason; later ones only report that recording failed
                error = error.__context__
            self.say("note: continuing without CUDA graphs, since a step cannot be recorded: "
                     f"{(str(error) or repr(error)).splitlines()[0]}")
