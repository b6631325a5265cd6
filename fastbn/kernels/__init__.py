"""The compiled half: `simd` (vectors), `tile` (loops over one run), `runs` and `columns` (the two families), `jit`."""
