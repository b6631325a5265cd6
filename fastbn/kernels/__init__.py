"""The compiled half: `simd` (vectors), `loops` (over one run), `runs` and `columns` (the families), `plans`, `jit`."""
