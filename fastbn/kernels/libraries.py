"""What Numba keeps of the functions that it compiles, made small.

Numba makes a library of each: the function with a copy of all that it calls, optimized, made into native code, and held
as LLVM's objects for whoever may call it.  But a kernel is made of a hundred functions that nothing else calls, and a
parallel one of three that call them all.  So these are `Part`s here, which hold their own code only, as it was written;
a `Whole` joins all that it needs, once; and what either holds beside native code is bitcode.

The class underneath is private to Numba.  Where it has changed, `new` makes nothing, and Numba does as ever.
"""

import zlib

from llvmlite import binding

try:
    from numba.core.codegen import JITCodeLibrary
except ImportError:
    JITCodeLibrary = object

_KIND = "fastbn"  # of library, as what is kept on disk tells Numba
_OF_LIBRARIES = (
    *("_final_module", "_linking_libraries", "_object_getbuffer_hook", "_get_module_for_linking"),
    *("_raise_if_finalized", "_ensure_finalized", "_finalize_final_module"),
    *("_finalize_dynamic_globals", "_verify_declare_only_symbols"),
)


def _packed(module):
    return zlib.compress(module.as_bitcode(), 1)


def _unpacked(bitcode):
    return binding.parse_bitcode(zlib.decompress(bitcode))


class _Library(JITCodeLibrary):
    _bitcode = None

    def kept(self):
        """The library's own module, of which a caller takes what it needs."""
        module = _unpacked(self._bitcode)
        for function in module.functions:
            if not function.is_declaration and function.linkage == binding.Linkage.external:
                function.linkage = "linkonce_odr"
        return module

    def _leave_environments(self):
        """Have nothing of the module but the variables for Numba's environments, which it sets in any case."""
        before = self._final_module
        shell = binding.parse_assembly("\n".join(f'@"{v}" = common global i64 0' for v in _environments(before)))
        shell.triple, shell.data_layout = before.triple, before.data_layout
        self._final_module = shell

    def get_function(self, name):
        return self.kept().get_function(name)

    def get_llvm_str(self):
        return str(self.kept())

    def get_asm_str(self):
        return self._codegen._tm.emit_assembly(self.kept())


class Part(_Library):
    """A function that only compiled code calls."""

    def finalize(self):
        self._raise_if_finalized()
        self._bitcode = _packed(self._final_module)
        self._leave_environments()
        self._finalize_final_module()

    def _get_module_for_linking(self):
        """With all that it calls, for a library of Numba's own."""
        self._ensure_finalized()
        module = self.kept()
        _join(module, self._linking_libraries)
        return module


class Whole(_Library):
    """A function that Python calls, with all that it calls itself."""

    _native = None  # until it is on disk

    def finalize(self):
        if hasattr(self, "_reload_init"):  # Numba 0.61 has none
            self._reload_init.update(*(called._reload_init for called in _callers_first(self._linking_libraries)))
        _join(self._final_module, self._linking_libraries)
        self._linking_libraries = []
        super().finalize()

    def _finalize_final_module(self):
        module = self._final_module
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._bitcode = _packed(module)  # before what makes native code of the module changes it
        self._native = self._codegen._tm.emit_object(module)
        self._names = [f.name for f in module.functions if not f.is_declaration and f.linkage.name == "external"]
        self._leave_environments()
        self._load()

    def _load(self):
        self._object_caching_enabled, self._compiled_object = True, self._native
        super()._finalize_final_module()
        self._codegen._engine._defined_symbols.update(self._names)

    def _get_module_for_linking(self):
        self._ensure_finalized()
        return self.kept()

    def serialize_using_object_code(self):
        self._ensure_finalized()
        return self.name, _KIND, (self._native, self._bitcode, self._names, _packed(self._final_module))

    @classmethod
    def revived(cls, codegen, state):
        name, _, (native, bitcode, names, shell) = state
        library = cls(codegen, name)
        library._native, library._bitcode, library._names = native, bitcode, names
        library._final_module = _unpacked(shell)
        library._load()
        library._native = None
        return library


def _environments(module):
    return [v.name for v in module.global_variables if "NumbaEnv" in v.name]


def _callers_first(libraries):
    """These, and all that their parts call, each once.  What is linked before its caller, LLVM leaves out."""
    seen, last_first = set(), []

    def visit(library):
        if library in seen:
            return
        seen.add(library)
        for called in reversed(library._linking_libraries if isinstance(library, Part) else ()):
            visit(called)
        last_first.append(library)

    for library in reversed(libraries):
        visit(library)
    return last_first[::-1]


def _join(module, libraries):
    for library in _callers_first(libraries):
        ours = isinstance(library, _Library)
        module.link_in(library.kept() if ours else library._get_module_for_linking().clone())


class _Codegen:
    """Numba's, with libraries of another kind."""

    def __init__(self, codegen, kind):
        self._codegen, self._kind = codegen, kind

    def create_library(self, name, **options):
        return new(self._kind, self._codegen, name) or self._codegen.create_library(name, **options)

    def unserialize_library(self, state):
        return self._kind.revived(self._codegen, state)

    def __getattr__(self, name):
        return getattr(self._codegen, name)


def new(kind, codegen, name):
    """A library; None where Numba's inside has changed."""
    try:
        library = kind(codegen, name)
        for needed in _OF_LIBRARIES:
            getattr(library, needed)
        _ = codegen._tm.emit_object, codegen._engine._defined_symbols.update
    except Exception:  # of whatever kind
        return None
    return library


def in_parts(context):
    """Have all that is compiled in this context, beside the function it is for, be parts of that."""
    if hasattr(context, "_internal_codegen"):
        context._internal_codegen = _Codegen(context.codegen(), Part)


def reviving(context, state):
    """The context in which a library is revived from what was kept on disk of it."""
    if state[1] != _KIND:
        return context
    return context.subtarget(_internal_codegen=_Codegen(context.codegen(), Whole))


def let_go(library):
    """Keep no longer what only the disk needs."""
    if isinstance(library, Whole):
        library._native = None
