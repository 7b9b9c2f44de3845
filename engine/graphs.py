"""A step of training as one CUDA graph: recorded once, then started with one call instead of hundreds."""
import torch

WARM_UP = 3  # runs without a graph, in which libraries choose their algorithms and optimisers make their state


class Captured:
    """function(*tensors), whose shapes never change, giving two dicts of scalar tensors.

    The first WARM_UP calls run it as it is; the next one records it and from then on it is replayed, on inputs
    that are copied to where those of the recording were. What it does to weights and optimisers is done in every
    call exactly once, for recording does nothing. If it cannot be recorded, that is said once, with the reason,
    and it goes on running as it is.
    """

    def __init__(self, function, say=print):
        self.function, self.say = function, say
        self.calls, self.graph, self.recordable = 0, None, True
        self.stream = torch.cuda.Stream()

    def __call__(self, *inputs):
        if self.graph is None and self.recordable and self.calls >= WARM_UP:
            self._record(inputs)
        self.calls += 1
        if not self.recordable:  # on one stream: after a broken recording torch may not reuse what two have shared
            return self.function(*inputs)
        if self.graph is None:
            return self._aside(inputs)
        for target, source in zip(self.inputs, inputs, strict=True):
            target.copy_(source, non_blocking=True)
        self.graph.replay()
        # The next replay writes over them.
        return tuple({name: value.clone() for name, value in part.items()} for part in self.outputs)

    def _aside(self, inputs):
        """On a stream of its own, as torch wants the runs before a recording."""
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
            # Of this thread's calls alone: another reads the next batch meanwhile and may pin memory.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.outputs = self.function(*self.inputs)
            self.graph = graph
        except RuntimeError as error:  # out of memory too: two graphs hold their own
            torch.cuda.set_stream(current)  # which a failed recording leaves
            self.recordable = False
            while error.__context__:  # the first error, which broke the recording; the last says only that it did
                error = error.__context__
            self.say("note: going on without CUDA graphs, for a step cannot be recorded: "
                     f"{(str(error) or repr(error)).splitlines()[0]}")
