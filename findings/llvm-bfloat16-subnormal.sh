#!/usr/bin/env bash
# llvmlite 0.50.0, any machine.  float32 to bfloat16 by LLVM's fptrunc, of 2**-127, which bfloat16 holds: LLVM itself says 0x0040 where
# the value is a constant, and compiles the same for AMD's Zen 4 and Intel's Sapphire Rapids to vcvtneps2bf16, which takes subnormal
# numbers for 0 and does not ask the processor's settings.  One would expect a value not to hang on when it is computed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install llvmlite==0.50.0
expect 'constant 0x0040; x86-64-v4 __truncsfbf2, znver4 vcvtneps2bf16, sapphirerapids vcvtneps2bf16' <<'PY'
import re

import llvmlite.binding as llvm

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
code = """
define bfloat @convert(float %x) {
  %y = fptrunc float %x to bfloat
  ret bfloat %y
}
define i16 @constant() {
  %y = fptrunc float 0x3800000000000000 to bfloat
  %bits = bitcast bfloat %y to i16
  ret i16 %bits
}
"""
told, constants = [], set()
for cpu in ("x86-64-v4", "znver4", "sapphirerapids"):
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(cpu=cpu, opt=3)
    text = target.emit_assembly(llvm.parse_assembly(code))
    convert, constant = text.split("constant:")
    told.append(f"{cpu} {re.search('__truncsfbf2|vcvtneps2bf16', convert)[0]}")
    constants.add(int(re.search(r"movw\s+\$(\d+)", constant)[1]))
print(f"constant {', '.join(f'0x{c:04x}' for c in constants)}; {', '.join(told)}")
PY
