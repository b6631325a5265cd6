"""Writes files of torch and of its ONNX exporters, with what torch and ONNX Runtime compute from them.

Run with torch 2.13.0, onnx 1.23.2, onnxscript, onnxruntime: python write_torch.py FOLDER
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

warnings.simplefilter("ignore")
folder = Path(sys.argv[1])
torch.manual_seed(0)


def shaken(module):
    """Statistics and weights that are not those of the start."""
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.dtype.is_floating_point and value.dim() == 1:
                value.normal_(0.5, 1)
            elif name.endswith("num_batches_tracked"):
                value.fill_(17)
    return module.eval()


def outputs_of(module, x):
    """What every norm of a model takes and gives."""
    seen = {}
    for name, part in module.named_modules():
        if "Norm" in type(part).__name__:
            part.register_forward_hook(
                lambda _, inputs, y, name=name: seen.update({f"{name}.x": inputs[0], f"{name}.y": y})
            )
    y = module(x)
    return {name: value.detach().float().numpy() for name, value in (seen | {"x": x, "y": y}).items()}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.group = nn.GroupNorm(4, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.layer = nn.LayerNorm(6)
        self.rms = nn.RMSNorm(6)
        self.down = nn.Conv2d(8, 4, 1, groups=2)
        self.bn2 = nn.BatchNorm2d(4, eps=1e-3)
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
        self.bn3 = nn.BatchNorm2d(6, affine=False)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = self.rms(self.layer(self.instance(self.group(x))))
        return self.bn3(self.up(torch.relu(self.bn2(self.down(x)))))


class Exported(Net):
    """The exporter of opset 11 and 17 knows no RMS norm; before is foldable, for it pads nothing."""

    def __init__(self, rms=False):
        super().__init__()
        self.with_rms = rms
        self.before = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.head = nn.Linear(6, 5)
        self.bn4 = nn.BatchNorm1d(5)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(self.before(x))))
        x = self.layer(self.instance(self.group(x)))
        x = self.rms(x) if self.with_rms else x
        x = self.bn3(self.up(torch.relu(self.bn2(self.down(x)))))
        return self.bn4(self.head(x.mean((2, 3))))


x = torch.randn(2, 3, 6, 6)
net = shaken(Net())
net.layer, net.rms = shaken(nn.LayerNorm(6)), shaken(nn.RMSNorm(6))
np.savez_compressed(folder / "torch.outputs.npz", **outputs_of(net, x))
state = net.state_dict()
torch.save(state, folder / "torch.pt")
torch.save(state, folder / "torch_legacy.pt", _use_new_zipfile_serialization=False)
wrapped = {f"module.{name}": value for name, value in state.items()}
torch.save(
    {"epoch": 3, "state_dict": wrapped, "optimizer": {"lr": 0.1, "state": {0: {"exp_avg": torch.ones(3)}}}},
    folder / "torch_checkpoint.pth",
)

# shared storages, strides, dtypes
base = torch.arange(24.0)
strided = {
    "bn.weight": base[1:9:2],
    "bn.bias": base[8:12],
    "bn.running_mean": base.view(4, 6)[:, 2],
    "bn.running_var": base[4:8] + 1,
    "turned": base.view(4, 6).T,
    "shared": base.view(4, 6),
    "expanded": torch.ones(1).expand(5),
    "bfloat16": torch.linspace(-3, 3, 7).bfloat16(),
    "float8": torch.linspace(-3, 3, 7).to(torch.float8_e4m3fn),
    "half": torch.linspace(-3, 3, 7).half(),
    "bool": torch.tensor([True, False]),
    "parameter": nn.Parameter(torch.ones(2)),
}
for name, legacy in (("torch_strided.pt", False), ("torch_strided_legacy.pt", True)):
    kept = {k: v for k, v in strided.items() if not (legacy and k == "float8")}
    torch.save(kept, folder / name, _use_new_zipfile_serialization=not legacy)
values = {k: (v.detach().float() if k in ("bfloat16", "float8") else v.detach()).numpy() for k, v in strided.items()}
np.savez_compressed(folder / "torch_strided.outputs.npz", **values)


def run(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def export(name, rms, **options):
    torch.manual_seed(1)
    model = shaken(Exported(rms))
    x = torch.randn(2, 3, 8, 8)
    seen = outputs_of(model, x)
    path = folder / f"{name}.onnx"
    torch.onnx.export(model, (x,), path, **options)
    made = onnx.load(path)
    for node in made.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for info in [*made.graph.value_info, *made.graph.input, *made.graph.output]:
        info.doc_string = ""
        del info.metadata_props[:]
    onnx.save(made, path)
    seen["y"] = run(path, x.numpy())
    np.savez_compressed(folder / f"{name}.outputs.npz", **seen)


for name, rms, options in (
    ("onnx_11", False, {"opset_version": 11, "dynamo": False}),
    ("onnx_17", False, {"opset_version": 17, "dynamo": False}),
    ("onnx_18", True, {"opset_version": 18, "dynamo": True, "external_data": False}),
    ("onnx_21", True, {"opset_version": 21, "dynamo": True, "external_data": False}),
    ("onnx_23", True, {"opset_version": 23, "dynamo": True, "external_data": False}),
):
    try:
        export(name, rms, **options)
    except Exception as error:
        print(name, "not written:", type(error).__name__, str(error)[:300])
