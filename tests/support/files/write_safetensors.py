"""Writes files of the package safetensors, with the values that it was given.

Run with safetensors 0.8.0, torch 2.13.0: python write_safetensors.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

folder = Path(sys.argv[1])
torch.manual_seed(0)
state = {
    "bn.weight": torch.rand(6).bfloat16(),
    "bn.bias": torch.rand(6).bfloat16(),
    "bn.running_mean": torch.randn(6),
    "bn.running_var": torch.rand(6) + 0.5,
    "bn.num_batches_tracked": torch.tensor(9),
    "half": torch.randn(3).half(),
    "flags": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "float8": torch.randn(4).to(torch.float8_e4m3fn),
    "matrix": torch.arange(6, dtype=torch.int16).view(2, 3),
}
save_file(state, folder / "package.safetensors", metadata={"format": "pt"})
values = {name: value.to(torch.float64).numpy() for name, value in state.items()}
x = torch.randn(2, 6, 3)
y = torch.nn.functional.batch_norm(
    x.double(), *(state[f"bn.{k}"].double() for k in ("running_mean", "running_var", "weight", "bias"))
)
np.savez_compressed(folder / "package.outputs.npz", **values, **{"bn.x": x.numpy(), "bn.y": y.float().numpy()})
