"""Writes the small files in `data/` with the real packages, so that the tests can do without them.

Run it in an environment that has torch and safetensors, and once more in one that has paddlepaddle::

    python tests/weights/make_reader_goldens.py

Every tensor is told by formula (see :func:`values`), so that the tests need no second copy of the numbers. Made with torch
2.13.0, safetensors 0.8.0 and paddlepaddle 3.3.1.
"""

import argparse
import importlib.util
from collections import OrderedDict
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
SHAPES = {"conv.weight": (4, 2, 1, 1), "bn.weight": (4,), "bn.bias": (4,), "bn.running_mean": (4,), "bn.running_var": (4,)}


def values(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor at a place in the file: number + i/8, exact in bfloat16 too."""
    return (number + np.arange(np.prod(shape)) / 8).reshape(shape).astype(np.float32)


def make_torch() -> None:
    import torch
    from safetensors.torch import save_file
    from torch.optim.swa_utils import AveragedModel

    def model(first: int) -> torch.nn.Module:
        made = torch.nn.Sequential(OrderedDict(conv=torch.nn.Conv2d(2, 4, 1, bias=False), bn=torch.nn.BatchNorm2d(4)))
        state = made.state_dict()
        for number, (name, shape) in enumerate(SHAPES.items(), start=first):
            state[name].copy_(torch.from_numpy(values(number, shape)))
        state["bn.num_batches_tracked"].fill_(7)
        return made

    net, averaged = model(0), model(10)
    state = net.state_dict()
    torch.save(state, DATA / "zip.pth")
    torch.save(state, DATA / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(state, DATA / "protocol4.pth", pickle_protocol=4)
    torch.save(torch.nn.DataParallel(net).state_dict(), DATA / "data_parallel.pth")
    torch.save(torch.compile(net).state_dict(), DATA / "compiled.pth")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()},
                   DATA / f"{str(dtype).removeprefix('torch.')}.pth")
    torch.save(dict(net.named_parameters()), DATA / "parameters.pth")

    optimizer = torch.optim.SGD(net.parameters(), 0.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    net.eval()(torch.zeros(1, 2, 1, 1)).sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(lr=0.1, device=torch.device("cpu"), folder=Path("x"), dtype=torch.float32)
    torch.save({"epoch": 3, "arch": "tiny", "state_dict": state, "state_dict_ema": averaged.state_dict(), "args": arguments,
                "optimizer": optimizer.state_dict(), "version": 2, "metric": np.float64(61.5)}, DATA / "checkpoint_timm.pth")
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict(), "epoch": 3,
                "args": arguments, "model_ema": AveragedModel(averaged).state_dict()}, DATA / "checkpoint_torchvision.pth")

    base = torch.arange(12.0)
    views = {"middle": base[2:8].view(2, 3), "transposed": base.view(3, 4).t(), "every_second": base[::2], "scalar": base[5],
             "empty": torch.zeros(0, 3)}
    torch.save(views, DATA / "views.pth")
    torch.save(views, DATA / "views_legacy.pth", _use_new_zipfile_serialization=False)

    torch.save(net, DATA / "whole_model.pth")
    torch.save({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, DATA / "quantized.pth")
    torch.save({"w": torch.ones(1).expand(5)}, DATA / "expanded.pth")
    torch.save({"w": torch.ones(2, dtype=torch.complex64)}, DATA / "complex.pth")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, DATA / "float32.safetensors")
    save_file({name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
              DATA / "bfloat16.safetensors")


def make_paddle() -> None:
    import paddle
    from paddle.framework.io_utils import _pack_loaded_dict

    paddle.set_device("cpu")
    net = paddle.nn.Sequential(("conv", paddle.nn.Conv2D(2, 4, 1, bias_attr=False)), ("bn", paddle.nn.BatchNorm2D(4)))
    state = net.state_dict()
    for number, (ours, theirs) in enumerate(zip(SHAPES, ("conv.weight", "bn.weight", "bn.bias", "bn._mean", "bn._variance"),
                                                strict=True)):
        state[theirs].set_value(values(number, SHAPES[ours]))
    for protocol in (2, 4):
        paddle.save(state, str(DATA / f"protocol{protocol}.pdparams"), protocol=protocol)
    paddle.save({name: tensor.astype("bfloat16") for name, tensor in state.items()}, str(DATA / "bfloat16.pdparams"))
    paddle.save({"epoch": 3, "model": state}, str(DATA / "nested.pdparams"))
    # What protocol 2 makes of tensors above 1 GiB, made small.
    weight = values(0, SHAPES["conv.weight"]).ravel()
    sliced = {"conv.weight@@.0": weight[:5], "conv.weight@@.1": weight[5:], "bn.bias": values(2, (4,)),
              "UnpackBigParamInfor@@": {"conv.weight": {"OriginShape": (4, 2, 1, 1),
                                                        "slices": ["conv.weight@@.0", "conv.weight@@.1"]}}}
    assert _pack_loaded_dict(dict(sliced))["conv.weight"].shape == (4, 2, 1, 1)
    paddle.save(sliced, str(DATA / "sliced.pdparams"), protocol=2)
    assert paddle.load(str(DATA / "sliced.pdparams"), return_numpy=True)["conv.weight"].shape == (4, 2, 1, 1)


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    if importlib.util.find_spec("torch"):
        make_torch()
    if importlib.util.find_spec("paddle"):
        make_paddle()
