"""What stands behind a norm, found with torch.fx in the forward of the module that calls it.

One module is traced at a time, with all of its children as leaves: what lies between a norm and its activation is then
seen by this one forward and by no other module.  A forward that cannot be traced keeps its norms as they are; the
Sequential containers in it are modules of their own.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from fastbn.torch._folding import PAIRS
from fastbn.torch._pending import Behind, activation_of, name_of_module

__all__ = ["Before", "Untraced", "standing_behind"]

_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_", "__add__", "__iadd__")
_IN_PLACE_SUMS = (operator.iadd, "add_", "__iadd__")


class _OwnForward(fx.Tracer):
    """Traces the forward of one module; its children are calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class Before(NamedTuple):
    """A convolution whose result goes to one norm alone: the module that calls both, and their paths in it."""

    parent: nn.Module
    convolution: str
    norm: str


class Untraced(str):
    """A reason that says nothing about norms which other modules call."""


def _traced(module: nn.Module) -> fx.Graph | None:
    """The graph of a module's forward, or None; the module is left as it was."""
    before = dict(module.__dict__)
    try:
        with torch.random.fork_rng(devices=[]):
            return _OwnForward().trace(module)
    except Exception:  # whatever a forward raises when it meets something that is no tensor
        return None
    finally:
        module.__dict__.clear()
        module.__dict__.update(before)


def standing_behind(parent: nn.Module, norms: dict[str, nn.Module]) -> tuple[dict[str, Behind | str], list[Before]]:
    """For each of the norms that a module calls, by their paths in it: what takes its result, or why nothing does.

    And the convolutions that stand before norms.
    """
    if isinstance(parent, nn.ModuleList | nn.ModuleDict):
        return {}, []
    graph = _traced(parent)
    if graph is None:
        return dict.fromkeys(norms, Untraced(f"the forward of {type(parent).__name__} cannot be traced")), []
    found: dict[str, Behind | str] = {}
    before: list[Before] = []
    for node in graph.nodes:
        if node.op == "call_module" and node.target in norms:
            behind, conv = _behind(parent, node), _convolution(parent, node, graph)
            if conv is not None:
                before.append(Before(parent, conv, node.target))
            if isinstance(behind, Behind) and isinstance(found.get(node.target), str):
                continue  # called twice, and once with nothing behind
            found[node.target] = behind
    return found, before


def _convolution(parent: nn.Module, norm: fx.Node, graph: fx.Graph) -> str | None:
    """The path of the convolution whose result the norm takes and nobody else; None if there is none."""
    if len(norm.args) != 1 or norm.kwargs or not isinstance(norm.args[0], fx.Node):
        return None
    node: fx.Node = norm.args[0]
    if node.op != "call_module" or len(node.users) != 1 or len(node.args) != 1 or node.kwargs:
        return None
    module = parent.get_submodule(str(node.target))
    pair = PAIRS.get(type(module))
    if pair is None or not isinstance(parent.get_submodule(str(norm.target)), pair):
        return None
    calls = [n.target for n in graph.nodes if n.op == "call_module"]
    if calls.count(node.target) != 1 or calls.count(norm.target) != 1:
        return None
    users = list(norm.users)
    sums = users if len(users) == 1 and _is_sum(users[0], norm) else []  # which reads what is convolved, at most
    last = [*norm.users, *(user for node in sums for user in node.users)][-1:]  # before it, nothing may be computed
    return None if _input_is_used_before(node, last[0] if last else norm, sums) else str(node.target)


def _behind(parent: nn.Module, norm: fx.Node) -> Behind | str:
    """What takes the result of one call."""
    if len(norm.users) != 1 or norm.kwargs or len(norm.args) != 1:
        return "more than one operation takes its result" if len(norm.users) > 1 else "nothing stands behind"
    (node,) = norm.users
    text, modules = [], []
    if _is_sum(node, norm):
        if _input_is_used_before(norm, node):
            return "its input is used again before the sum"
        text.append("residual sum")
        if len(node.users) != 1:
            return Behind(type(parent), (), "residual sum")
        last, (node,) = node, node.users
    else:
        last = norm
    name, module = _activation(parent, node, last)
    if name is not None:
        text.append(name)
        if module is not None:
            modules.append(module)
    if not text:
        return "no activation and no sum stands behind"
    return Behind(type(parent), tuple(modules), " + ".join(text))


def _is_sum(node: fx.Node, norm: fx.Node) -> bool:
    """Whether it is norm + another tensor, in this order if in place."""
    if node.op not in ("call_function", "call_method") or node.target not in _SUMS or node.kwargs:
        return False
    if len(node.args) != 2 or not all(isinstance(a, fx.Node) for a in node.args) or node.args[0] is node.args[1]:
        return False
    return node.args[0] is norm or node.target not in _IN_PLACE_SUMS


def _input_is_used_before(norm: fx.Node, last: fx.Node, but: Sequence[fx.Node] = ()) -> bool:
    """Whether anything between the two, in the order of execution, might change the input of the first."""
    (x,) = norm.args
    node = norm.next
    while node is not last and node.op != "output":
        if x in node.all_input_nodes and node not in but:
            return True
        node = node.next
    return False


def _activation(parent: nn.Module, node: fx.Node, of: fx.Node) -> tuple[str | None, nn.Module | None]:
    """The name of the activation that a node is, and its module, if it is one."""
    if not node.args or node.args[0] is not of:
        return None, None
    if node.op == "call_module":
        module = parent.get_submodule(str(node.target))
        if _direct_child(parent, module) is None:
            return None, None
        return name_of_module(module), module
    function: Any = node.target
    if node.op == "call_method":
        function = getattr(Tensor, str(node.target), None)
    rest = tuple(a for a in node.args[1:])
    if function is None or any(isinstance(a, fx.Node) for a in (*rest, *node.kwargs.values())):
        return None, None
    found = activation_of(function, (None, *rest), dict(node.kwargs))
    if found is None:
        return None, None
    return (found[0] if isinstance(found[0], str) else found[0][0]), None


def _direct_child(parent: nn.Module, module: nn.Module) -> nn.Module | None:
    """The module, if it hangs from the parent itself: that is looked at again in every call."""
    return module if any(m is module for m in parent._modules.values()) else None
