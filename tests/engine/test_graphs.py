"""`Captured` with a fake torch.cuda, in which recording does no work and replaying does. test_gpu.py tests it on a
GPU."""
import contextlib

import pytest
import torch
from engine import graphs
from engine.graphs import WARM_UP, Captured


class StandIn:
    """The parts of torch.cuda that `Captured` uses; `function` below asks it whether it is recording."""

    def __init__(self, fails=False):
        self.fails, self.recording, self.graphs, self.streams, self.shared = fails, False, [], ["first"], []

    def Stream(self):
        class Stream:
            def wait_stream(self, other):
                pass
        return Stream()

    def current_stream(self):
        return self.Stream()

    def set_stream(self, stream):
        self.streams.append(stream)

    def stream(self, stream):
        return contextlib.nullcontext()

    def CUDAGraph(self):
        outer = self

        class Graph:
            def replay(self):
                outer.replayed()
        self.graphs.append(Graph())
        return self.graphs[-1]

    @contextlib.contextmanager
    def graph(self, graph, capture_error_mode):
        assert capture_error_mode == "thread_local"  # else reading the next batch would end the recording
        self.recording = True
        try:
            yield
            if self.fails:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture") from None
        finally:
            self.recording = False


@pytest.fixture(params=[False, True], ids=["recorded", "refused"])
def stand_in(request, monkeypatch):
    cuda = StandIn(request.param)
    monkeypatch.setattr(graphs.torch, "cuda", cuda)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: cuda.shared.append(self))
    return cuda


def test_each_call_does_its_work_once_on_its_own_inputs(stand_in):
    weight, static, said = torch.zeros(()), {}, []

    def work(a, b):
        weight.add_((a + b).sum())
        return weight.clone()

    def function(a, b):
        if not stand_in.recording:
            return {"loss": work(a, b)}, {"norm": a.sum()}
        static.update(inputs=(a, b), outputs=({"loss": torch.zeros(())}, {"norm": torch.zeros(())}))
        return static["outputs"]

    def replayed():
        a, b = static["inputs"]
        static["outputs"][0]["loss"].copy_(work(a, b))
        static["outputs"][1]["norm"].copy_(a.sum())
    stand_in.replayed = replayed
    captured, total, results = Captured(function, said.append), 0.0, []
    for call in range(1, WARM_UP + 5):
        a, b = torch.full((2,), float(call)), torch.full((2,), 10.0 * call)
        total += 22.0 * call
        results.append((captured(a, b), total, 2.0 * call))
    for (losses, norms), wanted, norm in results:  # earlier results have not changed either
        assert float(losses["loss"]) == wanted and float(norms["norm"]) == norm
    assert len(stand_in.graphs) == 1 and (captured.graph is None) == stand_in.fails
    assert said == ([] if not stand_in.fails else [
        "note: continuing without CUDA graphs, since a step cannot be recorded: operation not permitted when stream is "
        "capturing"])
    assert len(stand_in.streams) == 1 + stand_in.fails  # the previous stream is current again
    assert len(stand_in.shared) == 4 * WARM_UP  # after a recording, failed or not, no two share memory
