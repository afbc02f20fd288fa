"""What the kernels for GPUs compute, by Triton's interpreter on the processor: run by test_fused.py, on its own.

Triton decides when it is imported whether it interprets, so this has an interpreter of Python of its own. Its bfloat16
is not to be relied on there: networks are float32 here.
"""

import json
import os
import sys
from dataclasses import replace
from functools import partial

os.environ["TRITON_INTERPRET"] = "1"

import torch
import torch.nn.functional as F

import pmtlib.shallow
from pmtlib.networks import fused
from pmtlib.networks.mobilefacenet import CASIA, MS1M, SIRIUS, MobileFaceNet
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, Run, protect, smoothing_kernel

CPU = torch.device("cpu")


def network(variant, seed=0):
    torch.manual_seed(seed)
    made = MobileFaceNet(variant)
    for module in made.modules():
        if isinstance(module, torch.nn.PReLU):
            module.weight.data.normal_(0.2, 0.5)  # slopes of both signs
    return made.eval().requires_grad_(False)


def off(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def of_units(variant, shape, cut, wanted, window, count=1):
    """Largest relative difference of the means and of the image's derivative, to the plain network."""
    plain = network(variant)
    one = fused.fuse(plain, cut, torch.float32)
    images = torch.rand((count, 3, *shape))
    given, same = images.clone().requires_grad_(True), images.clone().requires_grad_(True)
    outputs = plain.run_units(plain.prepare(given), 0, cut)
    usual = [F.avg_pool2d(outputs[place], window).permute(0, 2, 3, 1).flatten(1) for place in wanted]
    means = one.means(same, wanted, window)
    above = [torch.randn_like(part) for part in usual]
    with torch.no_grad():
        without = one.means(images, wanted, window)
    gradients = torch.autograd.grad(usual, given, above)[0], torch.autograd.grad(means, same, above)[0]
    return {
        "means": max(off(a.detach(), b.detach()) for a, b in zip(means, usual, strict=True)),
        "without": max(off(a, b.detach()) for a, b in zip(without, usual, strict=True)),
        "gradient": off(gradients[1], gradients[0]),
    }


def distance(variant, shape, cut):
    """Squared distance from a goal, its derivative and the goal's square, relative to what torch makes of the means."""
    one = fused.fuse(network(variant), cut, torch.float32)
    images, other = torch.rand((2, 2, 3, *shape))
    given, same = images.clone().requires_grad_(True), images.clone().requires_grad_(True)
    goal = one.means(other, range(cut), 2)
    means = one.means(given, range(cut), 2)
    usual = torch.stack([(a - b).double().square().sum(1) for a, b in zip(means, goal, strict=True)]).sum(0)
    found = one.distance(same, goal, range(cut), 2)
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    gradients = [torch.autograd.grad((part * weights).sum(), x)[0] for part, x in ((usual, given), (found, same))]
    with torch.no_grad():
        without = one.distance(images, goal, range(cut), 2)
    return {
        "compares": [
            one.compares(images, range(cut), 2),
            not one.compares(images[..., :-2, :], range(cut), 2),
            not one.compares(images, range(cut), 3),
            not one.compares(images, [cut - 1], 2),
        ],
        "distance": off(found.detach(), usual.detach()),
        "without": off(without, usual.detach()),
        "gradient": off(gradients[1], gradients[0]),
        "squares": off(goal.squares, torch.stack([part.double().square().sum(1) for part in goal]).sum(0)),
    }


def rounded(variant, shape, cut):
    """The distance with maps of 16 bits, and its derivative, to those with maps of 32."""
    exact, one = (fused.fuse(network(variant), cut, dtype) for dtype in (torch.float32, torch.float16))
    images, other = torch.rand((2, 2, 3, *shape))
    goal = exact.means(other, range(cut), 2)
    found = []
    for model in (exact, one):
        given = images.clone().requires_grad_(True)
        squares = model.distance(given, goal, range(cut), 2)
        found.append((squares.detach(), torch.autograd.grad(squares.sum(), given)[0]))
    return {"distance": off(found[1][0], found[0][0]), "gradient": off(found[1][1], found[0][1])}


def refused(variant, shape, cut):
    """What is said of goals of fewer images, of other maps, and of another kind of number."""
    one, images = fused.fuse(network(variant), cut, torch.float32), torch.rand((2, 3, *shape))
    goal = one.means(images, range(cut), 2)
    said = []
    for wrong in (
        [part[:1] for part in goal],
        goal[:-1],
        [part[:, 1:] for part in goal],
        [part.half() for part in goal],
    ):
        try:
            one.distance(images, wrong, range(cut), 2)
        except ValueError as error:
            said.append(str(error))
    return said


def draws():
    seeds, like = torch.tensor([5, 2**62 + 7, 5, 9]), torch.empty(4, 3, 112, 112)
    places = torch.tensor([0, 3, 1, 0])
    made = fused.normal_rows(seeds, places, like, 2.0)
    again = fused.normal_rows(seeds.flip(0), places.flip(0), like, 2.0).flip(0)
    both = torch.rand(2, *like.shape)
    added = fused.noised(seeds, places, both[0], both[1], 2.0)
    rows = made.flatten(1) / 2
    correlations = torch.corrcoef(rows) - torch.eye(4)
    return {
        "mean": float(rows.mean()),
        "std": float(rows.std()),
        "fourth": float((rows**4).mean()),
        "correlation": float(correlations.abs().max()),
        "added": max(float((new - old - made).abs().max()) for new, old in zip(added, both, strict=True)),
        "order": torch.equal(made, again),
        "next_differs": not torch.equal(made[0], made[2]),
    }


def sums():
    own, goal = torch.randn(3, 9001, requires_grad=True), torch.randn(3, 9001)
    found, usual = fused.squared_distance(own, goal), (own - goal).double().square().sum(1)
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    gradients = [torch.autograd.grad((one * weights).sum(), own)[0] for one in (found, usual)]
    return {
        "distance": off(found.detach(), usual.detach()),
        "gradient": off(gradients[0], gradients[1]),
        "squares": off(fused.row_squares(goal), goal.double().square().sum(1)),
        "sizes": off(fused.row_sizes(goal), goal.double().abs().sum(1)),
        "infinite": bool(torch.isinf(fused.row_sizes(torch.tensor([[1.0, float("inf")]]))).all()),
    }


def moves(radius):
    side = 2 * radius + 1
    kernel = smoothing_kernel("linear", radius).float()
    current, gradient = torch.rand(2, 3, 20, 17), torch.randn(2, 3, 20, 17)
    factor = torch.tensor([0.1, 0.0])
    smooth = F.conv2d(gradient, kernel[None, None].expand(3, 1, side, side), padding=radius, groups=3)
    usual = (current - factor.view(-1, 1, 1, 1) * smooth).clamp(0, 1)
    gradient[1, 0, 0, 0] = float("nan")
    found = current.clone()
    fused.move_(found, gradient, factor, kernel[None])
    return {"moved": float((found - usual).abs().max()), "still": torch.equal(found[1], current[1])}


def both(images, shallows, config):
    """Steps by kernels against steps by torch, from the same draws, of small images; and how the kernels' run is."""
    fuse, taken, usable, gaussian = fused.fuse, ShallowModel.fused, fused.usable, Run._gaussian
    fused.fuse = partial(fuse, dtype=torch.float32)
    by_kernels = protect(images, shallows, config)
    run = Run(images.contiguous(), shallows, [1.0] * len(shallows), config, 0, [])
    fused.fuse, ShallowModel.fused, fused.usable = fuse, lambda *given: None, lambda device: False

    def drawn(self, scale):
        noise = fused.normal_rows(self.seeded, self.draws, self.original, scale)
        self.draws += 1
        return noise

    Run._gaussian = drawn
    plain = protect(images.contiguous(), shallows, config.model_copy(update={"precision": "float32"}))
    ShallowModel.fused, fused.usable, Run._gaussian = taken, usable, gaussian
    return {
        "fused": all(one is not None for one in run.fused),
        "at once": run.at_once,
        "noising": run.noising,
        "images": float((by_kernels.images - plain.images).abs().max()),
        "moved": float((plain.images - plain.images.mean()).abs().mean()),
        "trace": off(by_kernels.trace, plain.trace),
        "error": off(by_kernels.error, plain.error),
        "features": off(by_kernels.features[0], plain.features[0]),
    }


def transform():
    shallow = ShallowModel(network(replace(SIRIUS, columns=(0, 32))), 3)
    return both(torch.rand((2, 3, 32, 32)), [shallow], PMTConfig(steps=2, batch_size=2, precision="bfloat16"))


def other_distances():
    """Two models, another distance, no augmentation, and photographs with channels last."""
    shallows = [ShallowModel(network(replace(SIRIUS, columns=(0, 32)), seed), cut) for seed, cut in ((0, 2), (1, 3))]
    images = torch.rand((2, 3, 32, 32)).to(memory_format=torch.channels_last)
    config = PMTConfig(
        steps=2, batch_size=2, precision="bfloat16", distance="norm", relative=False, weights=(1.0, 0.5),
        augmentation="none",
    )  # fmt: skip
    return both(images, shallows, config)


def main():
    pmtlib.shallow.SIZE = 32
    sirius, casia = replace(SIRIUS, columns=(0, 32)), replace(CASIA, columns=(4, 28))
    counted = []
    with fused.watched(counted.append):
        whole = of_units(sirius, (32, 32), 4, range(4), 2, count=2)
    found = {
        "separable stem, all units": whole,
        "plain stem, fewer columns": of_units(casia, (32, 32), 3, range(3), 2),
        "last unit alone": of_units(sirius, (32, 32), 3, [2], 1),
        "a 1x1 convolution last": of_units(sirius, (32, 32), 18, [17], 1),
        "odd maps": of_units(replace(SIRIUS, columns=(0, 26)), (30, 26), 4, range(4), 2),
        "windows of 3": of_units(sirius, (32, 32), 2, range(2), 3),
        "wide": of_units(sirius, (32, 32), 9, [7, 8], 2),
        "some units": of_units(sirius, (32, 32), 4, [1, 2], 2),
        "distance": distance(sirius, (32, 32), 4),
        "distance, plain stem": distance(casia, (32, 32), 3),
        "draws": draws(),
        "sums": sums(),
        "rounded": rounded(sirius, (32, 32), 3),
        "refused": refused(sirius, (32, 32), 3),
        "moves": [moves(radius) for radius in (2, 4)],
        "transform": transform(),
        "other distances": other_distances(),
        "bytes": sum(counted),
        "none": [fused.fuse(network(MS1M), 3) is None, fused.fuse(network(SIRIUS), 1) is None],
        "no image": list(fused.fuse(network(sirius), 3).means(torch.empty(0, 3, 32, 32), [0, 2], 2)[1].shape),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
