"""A pass of a training step as one CUDA graph.

A network at a small batch is a thousand short kernels, and a GPU waits for the host that starts
them one by one. A graph starts them all at once: the same kernels, in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

_WARM_UP = 3  # calls that choose algorithms and reserve workspaces, as PyTorch's notes ask for


class Recorded:
    """A function of tensors on a GPU, recorded after some calls of one shape and then replayed.

    The first shape that comes often is recorded; batches of another size run as they are. The
    function, the same one at every call, may leave gradients in `parameters`, which must be without
    any when it is called. It is not kept: who owns this and the function would own itself.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.graph: torch.cuda.CUDAGraph | None = None
        self._seen: Counter[Any] = Counter()
        self._shape: Any = None
        self._inputs: list[Tensor] = []
        self._gradients: Sequence[Tensor | None] = []
        self._output: Tensor | None = None

    def __call__(self, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """Call `function` with (nested tuples of) tensors on the GPU and constants."""
        leaves, structure = tree_flatten(inputs)
        shape = (structure, *((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in leaves))
        if self.graph is None:
            self._seen[shape] += 1
            if self._seen[shape] <= _WARM_UP:
                return self._on_a_side_stream(function, inputs)
            self._record(function, leaves, structure)
            self._shape = shape
        elif shape != self._shape:
            return function(*inputs)
        tensors = (leaf for leaf in leaves if isinstance(leaf, Tensor))
        for kept, given in zip(self._inputs, tensors, strict=True):
            kept.copy_(given)
        assert self.graph is not None
        assert self._output is not None
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._output.clone()

    def _on_a_side_stream(self, function: Callable[..., Tensor], inputs: Sequence[Any]) -> Tensor:
        """Where a recording will find it warm; PyTorch records no default stream."""
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            output = function(*inputs)
        here.wait_stream(beside)
        return output

    def _record(self, function: Callable[..., Tensor], leaves: list[Any], structure: Any) -> None:
        kept = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._inputs = [leaf for leaf in kept if isinstance(leaf, Tensor)]
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile: a loader sends pixels ahead.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self._output = function(*tree_unflatten(kept, structure))
        self._gradients = [parameter.grad for parameter in self.parameters]
