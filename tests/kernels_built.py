"""Builds the kernels for an NVIDIA GPU as they are started, without one: run by test_fused.py, on its own.

Every kernel is built once, from the start that asks it for most; how many lines of PTX it comes to is printed.
"""

import json
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from pmtlib.networks import fused
from pmtlib.networks.mobilefacenet import SIRIUS, MobileFaceNet


class Absent:
    """What Triton asks a driver for before it builds."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def main():
    driver.set_active(Absent())
    starts = {}

    def note(name, grid, *given, **constants):
        asked = sum(value is True for value in constants.values())
        if name not in starts or asked > starts[name][0]:
            starts[name] = (asked, grid, given, constants)

    fused._launch = note
    network = MobileFaceNet(SIRIUS).eval().requires_grad_(False)
    images = torch.rand((1, 3, 112, 112), requires_grad=True)
    few = fused.fuse(network, 5)
    torch.autograd.grad(few.distance(images, few.means(images.detach(), range(5), 2), range(5), 2).sum(), images)
    many = fused.fuse(network, 9)
    torch.autograd.grad(many.means(images, range(9), 3)[8].sum(), images)
    images, some = images.detach(), torch.zeros(1, dtype=torch.int64)
    fused.normal_rows(some, some, images, 1.0)
    fused.noised(some, some, images, images, 1.0)
    fused.squared_distance(images.flatten(1).requires_grad_(True), images.flatten(1)).sum().backward()
    fused.move_(images, images, torch.ones(1), torch.ones((1, 3, 3)))
    made = {}
    for name, (_, grid, given, constants) in starts.items():
        ptx = getattr(fused.kernels(), name).warmup(*given, grid=grid, **constants).asm["ptx"]
        made[name] = {"lines": ptx.count("\n"), "entry": f".entry {name}(" in ptx}
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    main()
