"""The processors that a library can be made for."""

import re
import subprocess
import sys
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from fastbn._export.errors import ExportError


class Target(NamedTuple):
    """What LLVM is told about a processor, and the name by which users ask for it."""

    name: str
    triple: str
    cpu: str
    features: str = ""
    abi: str = ""
    bits: int = 64

    @property
    def most(self) -> int:
        """Bytes of memory that one array can have."""
        return (1 << (self.bits - 1)) - 1

    @property
    def is_wasm(self) -> bool:
        return self.triple.startswith("wasm")

    def machine(self) -> Any:
        """What makes LLVM's modules into objects."""
        _initialize()
        target, more = llvm.Target.from_triple(self.triple), {"abiname": self.abi} if self.abi else {}
        return target.create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, reloc="pic", codemodel="default", **more
        )


def parsed(text: str, target: Target, machine: Any) -> Any:
    """LLVM's module of a text, made for the target whatever the text says."""
    module = llvm.parse_assembly(re.sub(r"^target (triple|datalayout) = .*$", "", text, flags=re.M))
    module.triple, module.data_layout = target.triple, str(machine.target_data)
    return module


TARGETS = {
    "x86-64-v3": Target("x86-64-v3", "x86_64-unknown-linux-gnu", "x86-64-v3"),
    "aarch64": Target("aarch64", "aarch64-unknown-linux-gnu", "generic"),
    "riscv64": Target("riscv64", "riscv64-unknown-linux-gnu", "generic-rv64", "+m,+a,+f,+d,+c", abi="lp64d"),
    "wasm32": Target("wasm32", "wasm32-unknown-unknown", "generic", "+simd128,+bulk-memory", bits=32),
}
NAMES = (*TARGETS, "host")
_ARM_OF_32_BITS = re.compile(r"(arm|thumb)(v[4-7]\w*|32|hf|el)?(-.*)?", re.I)


def find(name: str, cpu: str | None = None) -> Target:
    """A target by its name, for one of its processors if it is named."""
    if _ARM_OF_32_BITS.fullmatch(name):
        why = "its NEON takes subnormal numbers as zero, so results would have other bits"
        raise ExportError(f"--target is {name!r}, 32-bit Arm, for which there is none: {why}; 64-bit Arm is aarch64")
    if name not in NAMES:
        raise ExportError(f"--target is {name!r}; expected one of {', '.join(NAMES)}")
    target = _host() if name == "host" else TARGETS[name]
    if cpu is None:
        return target
    known = processors(target.triple)
    if cpu not in known:
        raise ExportError(f"--cpu is {cpu!r}, which LLVM does not know for {name}; it knows {', '.join(known)}")
    # What a processor has is LLVM's to say, but the ABI that objects are linked by stays.
    target = target._replace(cpu=cpu, features=target.features if name in ("riscv64", "wasm32") else "")
    if (told := _refused(target)) is not None:
        raise ExportError(f"--cpu is {cpu!r}, for which LLVM cannot compile on {name}: {told}")
    return target


_START = """
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
"""
_HELP = _START + "llvm.Target.from_triple({0!r}).create_target_machine(cpu='help')"
_TRIAL = (
    _START
    + """
made = llvm.Target.from_triple({0!r}).create_target_machine(cpu={1!r}, features={2!r}, reloc="pic", **{3!r})
module = llvm.parse_assembly("define void @f() {{ ret void }}")
module.triple, module.data_layout = {0!r}, str(made.target_data)
made.emit_object(module)
"""
)


def _in_another_process(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def _refused(target: Target) -> str | None:
    """What LLVM says against a processor, such as one of 32 bits: it ends the process then."""
    abi = {"abiname": target.abi} if target.abi else {}
    done = _in_another_process(_TRIAL.format(target.triple, target.cpu, target.features, abi))
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return next((line for line in lines if "LLVM ERROR" in line), lines[-1] if lines else "it said nothing")


def _host() -> Target:
    _initialize()
    triple = llvm.get_process_triple()
    if not sys.platform.startswith("linux") or sys.maxsize < 1 << 32:
        raise ExportError(f"--target host is for 64-bit Linux, this is {triple}; name one of {', '.join(TARGETS)}")
    abi = "lp64d" if triple.startswith("riscv64") else ""
    return Target("host", triple, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten(), abi)


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@cache
def processors(triple: str) -> tuple[str, ...]:
    """Those that LLVM knows for a triple: it lists them on standard error alone, and once in a process."""
    lines = _in_another_process(_HELP.format(triple)).stderr.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("Available CPUs")), len(lines))
    found = []
    for line in lines[first + 1 :]:
        if line.startswith("Available features"):
            break
        if " - " in line:
            found.append(line.split(" - ")[0].strip())
    return tuple(sorted(set(found)))
