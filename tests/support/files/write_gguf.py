"""Writes GGUF files with the package gguf; the outputs are of the formula, for the package computes nothing.

Run with gguf and numpy: python write_gguf.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
weights = {name: rng.uniform(0.5, 2, 32).astype(np.float32) for name in ("a", "b")}
shift = rng.normal(size=32).astype(np.float32)
x = rng.normal(1, 2, (3, 32)).astype(np.float32)

writer = GGUFWriter(folder / "gguf_rms.gguf", "llama")
writer.add_layer_norm_rms_eps(1e-5)
writer.add_token_list(["a", "b", "c"])
writer.add_tensor("blk.0.attn_norm.weight", weights["a"])
writer.add_tensor("output_norm.weight", weights["b"].astype(np.float16))
writer.add_tensor("blk.0.attn_q.weight", rng.normal(size=(2, 32)).astype(np.float32))
writer.add_tensor("blk.0.attn_k.weight", np.zeros((2, 34), np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

writer = GGUFWriter(folder / "gguf_layer.gguf", "gpt2")
writer.add_layer_norm_eps(1e-6)
writer.add_tensor("blk.0.attn_norm.weight", weights["a"])
writer.add_tensor("blk.0.attn_norm.bias", shift)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

wide = x.astype(np.float64)
rms = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5)
layer = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
outputs = {
    "attn": rms * weights["a"],
    "output": rms * weights["b"].astype(np.float16),
    "layer": layer * weights["a"] + shift,
}
np.savez_compressed(folder / "gguf.outputs.npz", x=x, **{name: y.astype(np.float32) for name, y in outputs.items()})
