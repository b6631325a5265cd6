"""What stands behind a norm, found with torch.fx in the forward of the module that calls it.

One module is traced at a time, with all of its children as leaves: what lies between a norm and its activation is then
seen by this one forward and by no other module.  A forward that cannot be traced keeps its norms as they are; the
Sequential containers in it are modules of their own.
"""

import copy
import inspect
import operator
import sys
import threading
import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from fastbn.torch._folding import PAIRS
from fastbn.torch._pending import APPLY, SUM, Behind, Place, activation_of, code_at, name_of_module

__all__ = ["Before", "Untraced", "standing_behind"]

_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_", "__add__", "__iadd__")
_IN_PLACE_SUMS = (operator.iadd, "add_", "__iadd__")


class _OwnForward(fx.Tracer):
    """Traces the forward of one module; its children are calls, of which it is noted what code makes them."""

    proxy_buffer_attributes = True  # or a forward that changes one in place would do so while it is traced

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()  # torch.fx replaces calls and attributes of modules for all threads
        self.copied: dict[Any, Any] = {}  # by the code of torch.fx's copy of a forward, the forward's own

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Any, list[Any]]:
        """As torch.fx; of arguments that a forward does not name there are none, as in most calls."""
        run, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        if run is not root_fn:  # which takes arguments by their names alone, or any
            self.copied[run.__code__] = inspect.unwrap(root_fn).__code__
            args = [_unnamed(a) for a in args]
        return run, args

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.thread != threading.get_ident():
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.thread != threading.get_ident():
            return forward(*args, **kwargs)
        result = super().call_module(m, forward, args, kwargs)
        frame: Any = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename == _FX:
            frame = frame.f_back
        code = None if frame is None else frame.f_code
        result.node.meta[_CALLER] = self.copied.get(code, code)
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node; within an autograd function there is none, for nobody can tell what its backward does."""
        frame: Any = sys._getframe(1)
        while frame is not None:
            if frame.f_code is APPLY:
                raise NotImplementedError("an autograd function")
            frame = frame.f_back
        return super().create_node(*args, **kwargs)


def _unnamed(argument: Any) -> Any:
    """What a forward finds in the place of `*args` and `**kwargs`: nothing."""
    name = str(argument.node.target) if isinstance(argument, fx.Proxy) else ""
    if not name.startswith("*"):
        return argument
    return {} if name.startswith("**") else ()


_CALLER = "code that calls"
_FX = fx.Tracer.call_module.__code__.co_filename


class Before(NamedTuple):
    """A convolution whose result goes to one norm alone: the module that calls both, and their paths in it."""

    parent: nn.Module
    convolution: str
    norm: str
    place: Place  # whose code calls the convolution


class Untraced(str):
    """A reason that says nothing about norms which other modules call."""


def _traced(module: nn.Module) -> fx.Graph | None:
    """The graph of a module's forward, or None; the module and those in it are left as they were."""
    attributes = [m.__dict__ for m in module.modules()]
    before = [(own, copy.copy(own)) for own in (*attributes, *_collections(attributes))]
    tracer = _OwnForward()
    try:
        with _one_at_a_time, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arguments that no call may ever give
            return tracer.trace(module)
    except Exception:  # whatever a forward raises when it meets something that is no tensor
        return None
    finally:
        tracer.__dict__.clear()  # it refers to itself, and to the module, which is to be freed as soon as ever
        for own, contents in before:
            _put_back(own, contents)


_one_at_a_time = threading.RLock()  # or one thread would put back what the other has replaced


def _collections(attributes: list[dict[str, Any]]) -> list[Any]:
    """What modules keep in lists, dictionaries and the like, to which a forward may add what it has seen."""
    found = {id(v): v for own in attributes for v in own.values() if type(v) in _KINDS}
    return list(found.values())


def _put_back(own: Any, contents: Any) -> None:
    """Make what a collection holds what it held."""
    if type(own) is list:
        own[:] = contents
    elif type(own) is deque:
        own.clear()
        own.extend(contents)
    else:
        for key in [k for k in own if k not in contents]:
            own.discard(key) if type(own) is set else own.pop(key)
        own.update(contents)


_KINDS = (list, dict, set, deque, OrderedDict, defaultdict)


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
            place = _place(type(parent), node)
            behind, conv = _behind(parent, node, place), _convolution(parent, node, graph)
            if conv is not None:
                before.append(conv)
            found[node.target] = _both(found.get(node.target), behind)
    return found, before


def _both(earlier: Behind | str | None, behind: Behind | str) -> Behind | str:
    """What stands behind a norm that was called earlier, too, or why it is not fused."""
    if earlier is None or isinstance(behind, str):
        return behind
    if isinstance(earlier, str):
        return earlier
    if earlier.text != behind.text or earlier.place.code is not behind.place.code:
        return "what stands behind it is not the same in all calls"
    return Behind(behind.place, (*earlier.modules, *behind.modules), tuple(behind.text.split(" + ")))


def _convolution(parent: nn.Module, norm: fx.Node, graph: fx.Graph) -> Before | None:
    """The convolution whose result the norm takes and nobody else; None if there is none."""
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
    value, sums, summed, _ = _up_to_sum(parent, norm)  # the sum reads what is convolved, at most
    last = [norm, *value.users, *summed.users][-1]  # before it, nothing may be computed
    place = _place(type(parent), node)
    if place is None or _may_change(parent, node.args[0], node, last, sums):
        return None
    if any(_is_touched(parent, n, node, last, norm) for n in (node, norm)):
        return None
    return Before(parent, str(node.target), str(norm.target), place)


def _behind(parent: nn.Module, norm: fx.Node, place: Place | None) -> Behind | str:
    """What takes the result of one call."""
    if len(norm.args) != 1 or norm.kwargs:
        return "nothing stands behind"
    value, sums, last, modules = _up_to_sum(parent, norm)
    if len(value.users) != 1:
        return "more than one operation takes its result" if value.users else "nothing stands behind"
    if place is None:
        return f"code that is no method of {type(parent).__name__} calls it"
    texts = []
    if sums:
        if _may_change(parent, norm.args[0], norm, sums[0]):
            return "its input may be changed before the sum"
        if _is_touched(parent, norm, norm, sums[0]):
            return "its statistics or weights may be looked at before the sum"
        texts.append(SUM)
    if not texts or len(last.users) == 1:
        (node,) = last.users
        name, module = _activation(parent, node, last)
        added = [a for a in sums[0].args if a is not value] if sums else []
        touched = _is_touched(parent, norm, norm, node)
        if name is not None and touched and not texts:
            return "its statistics or weights may be looked at before the activation"
        if name is not None and not touched and not _may_change(parent, norm.args[0], norm, node, sums):
            if not any(_may_change(parent, a, sums[0], node) for a in added):
                texts.append(name)
                modules += [] if module is None else [module]
        elif name is not None and not texts:
            return "its input may be changed before the activation"
    if not texts:
        return "no activation and no sum stands behind"
    return Behind(place, tuple(modules), tuple(texts))


def _up_to_sum(parent: nn.Module, norm: fx.Node) -> tuple[fx.Node, list[fx.Node], fx.Node, list[nn.Module]]:
    """What hands on a norm's result last; the sum that takes it, if one does; what hands on that; and all modules."""
    value, modules = _handed_on(parent, norm)
    sums = [user for user in value.users if len(value.users) == 1 and _is_sum(user, value)]
    if not sums:
        return value, sums, value, modules
    last, passed = _handed_on(parent, sums[0])
    return value, sums, last, modules + passed


def _handed_on(parent: nn.Module, node: fx.Node) -> tuple[fx.Node, list[nn.Module]]:
    """The node behind those that hand a result on as it is, and their modules."""
    modules: list[nn.Module] = []
    while len(node.users) == 1:
        (user,) = node.users
        if user.op != "call_module" or user.args != (node,) or user.kwargs:
            break
        module = parent.get_submodule(str(user.target))
        if type(module) is not nn.Identity or _direct_child(parent, module) is None:
            break
        node = user
        modules.append(module)
    return node, modules


def _place(parent: type, node: fx.Node) -> Place | None:
    """The method that makes a call, if it is one of the parent's."""
    code = node.meta[_CALLER]
    name = getattr(code, "co_name", "")
    found = (owner for owner in parent.__mro__ if name and code_at(owner, name) is code)
    owner = next(found, None)
    return None if owner is None else Place(owner, name)


def _is_sum(node: fx.Node, norm: fx.Node) -> bool:
    """Whether it is norm + another tensor, in this order if in place."""
    if node.op not in ("call_function", "call_method") or node.target not in _SUMS or node.kwargs:
        return False
    if len(node.args) != 2 or not all(isinstance(a, fx.Node) for a in node.args) or node.args[0] is node.args[1]:
        return False
    return node.args[0] is norm or node.target not in _IN_PLACE_SUMS


def _may_change(parent: nn.Module, x: Any, first: fx.Node, last: fx.Node, but: Sequence[fx.Node] = ()) -> bool:
    """Whether anything between two nodes, in the order of execution, might change x."""
    node = first.next
    while node is not last and node.op != "output":
        if x in node.all_input_nodes and node not in but and not _only_reads(parent, node):
            return True
        node = node.next
    return False


def _is_touched(parent: nn.Module, call: fx.Node, first: fx.Node, last: fx.Node, but: fx.Node | None = None) -> bool:
    """Whether anything between two nodes has to do with the weights or statistics of the module that is called."""
    module = parent.get_submodule(str(call.target))
    held, statistics = {*module.parameters(), *module.buffers()}, set(module.buffers())
    touching: set[fx.Node] = set()
    between = False
    for node in call.graph.nodes:
        if node is last:
            break
        if node.op == "get_attr" and _attribute(parent, str(node.target)) in held:
            touching.add(node)
        elif node.op != "call_module" and not touching.isdisjoint(node.all_input_nodes):
            touching.add(node)  # a view, say
        if between and node is not but:
            if not touching.isdisjoint((node, *node.all_input_nodes)):
                return True
            if node.op == "call_module" and statistics:
                other = parent.get_submodule(str(node.target))
                if not statistics.isdisjoint(other.buffers()):
                    return True
        between = between or node is first
    return False


def _attribute(parent: nn.Module, path: str) -> Any:
    """What a node of the kind get_attr gets, if it is a parameter or buffer."""
    owner, _, name = path.rpartition(".")
    module = parent.get_submodule(owner)
    return module._parameters.get(name, module._buffers.get(name))


def _only_reads(parent: nn.Module, node: fx.Node) -> bool:
    """Whether it is a module of torch.nn none of which works in place, or one of fastbn's norms."""
    if node.op != "call_module":
        return False
    return all(
        type(module).__module__.startswith(("torch.nn.modules.", "fastbn.torch."))
        and not getattr(module, "inplace", False)
        for module in parent.get_submodule(str(node.target)).modules()
    )


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
