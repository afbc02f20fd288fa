"""Shallow models on a processor, one image at a time, for the transform in float32.

torch goes through a model layer by layer for a batch at once: each layer reads a map of all images from memory and
writes one, and what the derivative needs is kept meanwhile. Here a thread takes an image through all units, and back,
before it takes the next. The maps of one image stay in the processor's cache, the derivative keeps a byte a number of
what stood before each activation, and threads wait for nothing but the end.

The loops are in C (``pmtlib/networks/_loops.c``). They are built for the processor at hand when they are first needed,
in a second or two, and kept in the cache; without a C compiler torch does it all, and a warning says so. Frozen weights
alone are served, and arranged once for how they are gone through: there is no derivative by them. Plain convolutions of
3x3 are found from products of tiles, in 16 multiplications for 36 (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016). What comes of an image depends neither on the others of its batch nor on the number of
threads.

Served are units of 1x1 convolutions and of depthwise and plain ones of 3x3, and maxima over windows, behind one
convolution of the picture: MobileFaceNet with parametric ReLUs, SFace, and dlib's ResNet-29 up to the first block that
halves its map, with the warp to its chip.

For models with channels last :meth:`pmtlib.shallow.ShallowModel.fused` gives it where it can be had. The plain path is
its reference in the tests, and is taken everywhere else.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import importlib.resources
import math
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pmtlib import cache as caches
from pmtlib.errors import SlowWarning
from pmtlib.images import write_atomic
from pmtlib.networks import sface
from pmtlib.networks.base import FaceNetwork
from pmtlib.networks.dlib_resnet import DIVISOR, DlibResNet29, ResidualBlock
from pmtlib.networks.frozen import FEW
from pmtlib.networks.fused import FusedUnits, Means, slopes_of
from pmtlib.networks.mobilefacenet import Bottleneck, ConvLayer, MobileFaceNet, tf_same_zeros

Numbers = NDArray[np.float32]
Signs = NDArray[np.uint8]
Kind = Literal["pointwise", "depthwise", "picture", "dense", "pool"]
KINDS: tuple[Kind, ...] = ("pointwise", "depthwise", "picture", "dense", "pool")
FIELDS = (
    "kind", "height", "width", "channels", "rows", "columns", "outputs", "stride", "top", "left", "kernel", "length",
    "weight", "flipped", "bias", "slopes", "signs", "first", "last", "residual", "means",
)  # fmt: skip
"""Of a row of a program: the place of a layer's kind in :data:`KINDS`; sizes of what it gets and makes; its stride,
zeros above and before, and windows (rows of so many numbers); where in the weights its matrix or taps, what takes their
place in the derivative, its bias and its slopes begin; where in the signs its own do; whether it begins or ends a unit;
whether that adds its input; and where in the means those of the unit begin, or -1."""
_FLAGS = ("-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
_PROCESSOR: tuple[list[str], ...] = (["-march=native", "-mprefer-vector-width=512"], ["-march=native"], [])
"""What makes the most of the processor, as far as a compiler knows it. Of vectors of 512 bits it may use a half
otherwise, to keep the clock high, which the products of matrices bring down anyway."""
_TILED = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
_NUMBERS: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""What the loops read and write, whatever torch's defaults are."""
_SUMS: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
_LONGEST = 120
"""Seconds that a compiler may take."""


class _Work(ctypes.Structure):
    """``Work`` of the loops."""

    _fields_: ClassVar[Any] = [
        ("program", ctypes.c_void_p),
        ("layers", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("rooms", ctypes.c_void_p),
        ("room", ctypes.c_int64),
        ("padded", ctypes.c_void_p),
        ("padded_rows", ctypes.c_int64),
        ("padded_columns", ctypes.c_int64),
        ("row", ctypes.c_void_p),
        ("photo", ctypes.c_void_p),
        ("photo_rows", ctypes.c_int64),
        ("photo_columns", ctypes.c_int64),
        ("photo_left", ctypes.c_int64),
        ("corners", ctypes.c_void_p),
        ("fractions", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("signs", ctypes.c_void_p),
        ("window", ctypes.c_int64),
    ]


@dataclass(frozen=True)
class Loops:
    """The loops as they were built, and how many columns of a matrix they take at once."""

    library: ctypes.CDLL
    panel: int

    def panels(self, matrices: Numbers) -> Numbers:
        """Matrices (..., K, N) as the loops go through them: (..., N / panel, K, panel), filled up with zeros."""
        columns = matrices.shape[-1]
        wide = np.pad(matrices, [(0, 0)] * (matrices.ndim - 1) + [(0, -columns % self.panel)])
        return wide.reshape(*matrices.shape[:-1], -1, self.panel).swapaxes(-3, -2)


@cache
def loops() -> Loops | None:
    """The loops, built where they are not yet; None where they cannot be, with a warning."""
    compiler = _compiler()
    if compiler is None:
        warnings.warn(
            "the transform is slower than it could be: there is no C compiler here to build its loops. Remedy: install "
            "one such as gcc, or name one in CC",
            SlowWarning,
            stacklevel=2,
        )
        return None
    try:
        library = ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        reason = (said.strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"the transform is slower than it could be: {shlex.join(compiler)} cannot build its loops "
            f"({reason[:200]}). Remedy: name another C compiler in CC, or in PMT_CACHE a folder for libraries",
            SlowWarning,
            stacklevel=2,
        )
        return None
    library.square_sum.restype = library.difference.restype = library.size_sum.restype = ctypes.c_double
    return Loops(library, int(library.panel_columns()))


def _compiler() -> list[str] | None:
    """The words that start a C compiler: those of ``CC``, else the first that is there; None without one."""
    for words in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        try:
            command = shlex.split(words)
        except ValueError:
            # A quotation that does not end.
            continue
        if command and shutil.which(command[0]):
            return command
    return None


def _built(compiler: Sequence[str]) -> Path:
    """The library for this processor, from the cache where it is there.

    Where the cache cannot be written to, it lies in a folder of its own until the process ends, and a warning says so.

    Raises:
        OSError: the compiler does not start, or there is nowhere to put what it makes.
        subprocess.SubprocessError: it fails, or takes too long.
    """
    names = [*FIELDS, "field_count"]
    kinds = f"enum {{ {', '.join(kind.upper() for kind in KINDS)} }};\n"
    source = f'enum {{ {", ".join(name.upper() for name in names)} }};\n{kinds}#line 1 "_loops.c"\n'
    source += importlib.resources.files("pmtlib.networks").joinpath("_loops.c").read_text(encoding="utf-8")
    flags = [*_FLAGS, *(flag for some in _PROCESSOR for flag in some)]
    key = hashlib.sha256("\n".join([source, *compiler, *flags, platform.machine(), _processor()]).encode())
    folder = caches.folder("loops")
    made = folder / f"{key.hexdigest()[:32]}.so"
    # Unlike pathlib's, it raises nothing where the cache may not be looked into.
    if os.path.isfile(made):  # noqa: PTH113
        return made
    with tempfile.TemporaryDirectory() as place:
        file, library = Path(place) / "loops.c", Path(place) / "loops.so"
        file.write_text(source, encoding="utf-8")
        for extra in _PROCESSOR:
            command = [*compiler, *_FLAGS, *extra, str(file), "-o", str(library)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST, check=not extra)
            if done.returncode == 0:
                break
        content = library.read_bytes()
    try:
        write_atomic(made, content)
    except OSError as error:
        warnings.warn(
            f"the transform's loops are built anew by each process: {folder} cannot be written to "
            f"({error.strerror}). Remedy: name in PMT_CACHE a folder that can",
            SlowWarning,
            stacklevel=3,
        )
        own = Path(tempfile.mkdtemp(prefix="pmtlib-loops-"))
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        made = own / made.name
        made.write_bytes(content)
    return made


def _processor() -> str:
    """What tells a processor from one with other instructions, where homes are shared."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.processor()} {_brand()}"
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())


def _brand() -> str:
    """What macOS calls the processor: M1 and M4 are both ``arm``, and do not have the same instructions."""
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@dataclass(frozen=True)
class _Layer:
    """A convolution and its activation, or a maximum over windows.

    Attributes:
        kind: which.
        weight: (9, C) of a depthwise convolution, (16, I, O) of a dense one, else (k * l * I, O).
        flipped: what takes its place in the derivative: a depthwise convolution's taps from the last to the first, a
            dense one's matrices (16, O, I), a picture's matrix (O, k * l * I); else nothing.
        bias: (O,).
        slopes: of the activation below 0, (O,); 1 where there is none.
        kernel: rows and columns.
        stride: of both axes.
        padding: zeros above and below, and before and behind rows.
        tf_same: in place of that, as many as TensorFlow puts.
    """

    kind: Kind
    weight: Numbers
    flipped: Numbers
    bias: Numbers
    slopes: Numbers
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    tf_same: bool

    def zeros(self, axis: int, size: int) -> tuple[int, int]:
        """Zeros before and behind an axis of a size."""
        if not self.tf_same:
            return self.padding[axis], self.padding[axis]
        return tf_same_zeros(size, self.kernel[axis], self.stride)

    def made(self, axis: int, size: int) -> int:
        """What an axis of a size becomes."""
        return (size + sum(self.zeros(axis, size)) - self.kernel[axis]) // self.stride + 1


@dataclass(frozen=True)
class _Unit:
    """Layers, and whether their input is added before the last activation."""

    layers: tuple[_Layer, ...]
    residual: bool = False


def _layer(conv: nn.Conv2d, activation: nn.Module, *, tf_same: bool = False) -> _Layer | None:
    """A convolution as a layer, or None where it is of another kind."""
    weight, outputs, stride = conv.weight.detach(), conv.out_channels, conv.stride[0]
    slopes = slopes_of(activation, outputs, weight)
    plain = conv.dilation == (1, 1) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    if slopes is None or not plain or conv.stride != (stride, stride) or weight.dtype != torch.float32:
        return None
    padding, kernel = (int(conv.padding[0]), int(conv.padding[1])), (conv.kernel_size[0], conv.kernel_size[1])
    kind: Kind
    flipped = weight[:0]
    if conv.groups == conv.in_channels == outputs > 1 and kernel == (3, 3):
        kind, matrix = "depthwise", weight.flatten(1).T
        flipped = matrix.flip(0)
    elif conv.groups == 1 and kernel == (1, 1) and stride == 1 and padding == (0, 0):
        kind, matrix = "pointwise", weight.flatten(1).T
        flipped = weight.flatten(1)
    elif conv.groups == 1 and conv.in_channels <= FEW:
        kind, matrix = "picture", weight.permute(2, 3, 1, 0).reshape(-1, outputs)
        flipped = matrix.T
    elif conv.groups == 1 and kernel == (3, 3) and stride == 1 and padding == (1, 1) and not tf_same:
        kind, matrix = "dense", _tiled(weight)
        flipped = _tiled(weight.flip(2, 3).transpose(0, 1))
    else:
        return None
    bias = np.zeros(outputs, np.float32) if conv.bias is None else conv.bias.detach().numpy()
    numbers, other = matrix.contiguous().numpy(), flipped.contiguous().numpy()
    return _Layer(kind, numbers, other, bias, slopes.numpy(), kernel, stride, padding, tf_same)


def _tiled(weight: Tensor) -> Tensor:
    """Weights (O, I, 3, 3) as matrices (16, I, O) for tiles of 4 x 4: :math:`G g G^T` of the loops' ``dense``."""
    made = torch.einsum("ak,oikl,bl->abio", _TILED, weight.double(), _TILED)
    return made.flatten(0, 1).to(weight.dtype)


def _pool(module: nn.MaxPool2d) -> _Layer | None:
    """A maximum over windows as a layer, or None where it is of another kind."""
    side, stride = module.kernel_size, module.stride
    plain = (module.padding, module.dilation, module.ceil_mode, module.return_indices) == (0, 1, False, False)
    if not plain or not isinstance(side, int) or not isinstance(stride, int) or side > 15:
        return None
    none = np.zeros(0, np.float32)
    return _Layer("pool", none, none, none, none, (side, side), stride, (0, 0), tf_same=False)


def _flat(module: nn.Module) -> list[nn.Module]:
    """A sequence's parts, those of sequences in it in their place."""
    if not isinstance(module, nn.Sequential):
        return [module]
    return [part for child in module for part in _flat(child)]


def _chain(parts: Sequence[nn.Module]) -> list[_Layer] | None:
    """Layers that follow one another, or None where one is of another kind."""
    made: list[_Layer | None] = []
    left = deque(parts)
    while left:
        part = left.popleft()
        if isinstance(part, ConvLayer):
            made.append(_layer(part.conv, part.activation, tf_same=part.tf_same))
        elif isinstance(part, nn.Conv2d):
            follows = bool(left) and not isinstance(left[0], (ConvLayer, nn.Conv2d, nn.MaxPool2d))
            made.append(_layer(part, left.popleft() if follows else nn.Identity()))
        elif isinstance(part, nn.MaxPool2d):
            made.append(_pool(part))
        else:
            return None
    found = [layer for layer in made if layer is not None]
    return found if len(found) == len(made) else None


def _unit(module: nn.Module) -> _Unit | None:
    """A unit of a network, or None where it is of another kind."""
    if isinstance(module, Bottleneck):
        layers = _chain([module.expand, module.depthwise, module.project])
        return None if layers is None else _Unit(tuple(layers), module.residual)
    if isinstance(module, ResidualBlock):
        relu = nn.ReLU()
        layers = _chain([module.conv1, relu, module.conv2, relu])
        # One that halves the map has a shortcut of another size.
        alike = module.conv1.in_channels == module.conv2.out_channels and not module.halves
        return _Unit(tuple(layers), True) if layers and alike else None
    layers = _chain(_flat(module))
    return _Unit(tuple(layers)) if layers else None


def fuse(network: FaceNetwork, cut: int) -> ImageWise | None:
    """The first ``cut`` units of a frozen network, or None where they are of a kind that is not served."""
    units = [_unit(unit) for unit in list(network.units)[:cut]]
    found = [unit for unit in units if unit is not None]
    kinds = [layer.kind for unit in found for layer in unit.layers]
    served = len(found) == len(units) and kinds[:1] == ["picture"] and "picture" not in kinds[1:]
    # A residual of the picture itself, or behind an activation that stands in a loop of its own, is nobody's.
    served &= all(unit.layers[-1].kind in ("pointwise", "dense") for unit in found if unit.residual)
    built = loops() if served else None
    return None if built is None else ImageWise(network, found, built)


@dataclass(frozen=True)
class _Program:
    """What the loops go through for pictures of one size, and the room that they need.

    Attributes:
        lines: (layers, fields).
        sizes: rows, columns and channels of all units' outputs.
        parts: numbers of the means of each unit that is asked for.
        room: numbers of the largest map.
        padded: sides of the picture with its zeros, and its channels.
        row: numbers of the longest row of places of what a convolution sees, or of its tiles.
        reading: how the picture is read from a photograph.
        signs: how many there are of an image.
    """

    lines: NDArray[np.int64]
    sizes: list[tuple[int, int, int]]
    parts: list[int]
    room: int
    padded: tuple[int, int, int]
    row: int
    reading: _Reading
    signs: int


@dataclass(frozen=True)
class _Reading:
    """Where a picture lies in photographs of one size.

    Attributes:
        rows: of a photograph.
        columns: of it.
        left: the first of them that is the picture's, where it is no sample.
        scale: (8,), by which up to four colours are multiplied, and what is added then; None for neither.
        corners: for each place of a picture that is a sample, the first of its four neighbours, counted in rows of one
            more column; else None.
        fractions: how far it is from there, down and across.
    """

    rows: int
    columns: int
    left: int = 0
    scale: Numbers | None = None
    corners: NDArray[np.int32] | None = None
    fractions: Numbers | None = None

    @property
    def room(self) -> int:
        """Numbers of a photograph of four colours with one more row and column, where samples are taken of one."""
        return 0 if self.corners is None else 4 * (self.rows + 1) * (self.columns + 1)

    def fields(self) -> tuple[int | None, ...]:
        """As ``Work`` of the loops has them."""
        arrays = (self.corners, self.fractions, self.scale)
        addresses = [None if one is None else one.ctypes.data for one in arrays]
        return self.rows, self.columns, self.left, *addresses


@dataclass(frozen=True)
class _Preparation:
    """A network's way of preparing images, where that is an affine function of colours, of some columns or of samples.

    Attributes:
        scale: as of a reading.
        seen: columns of the photograph, half open.
        grid: (H, W, 2), where the places of the picture lie, in ``grid_sample``'s coordinates (corners aligned).
    """

    scale: Numbers
    seen: tuple[int, int] | None = None
    grid: Numbers | None = None

    @classmethod
    def of(cls, network: FaceNetwork) -> _Preparation | None:
        """That of a network, or None where it prepares images in another way."""
        times, plus = np.zeros(4), np.zeros(4)
        seen = grid = None
        # One of its own would not be asked.
        prepare = type(network).prepare
        if isinstance(network, DlibResNet29) and prepare is DlibResNet29.prepare:
            times[:], plus[:3] = 255 / DIVISOR, -network.mean.flatten().double().numpy() / DIVISOR
            grid = network.grid.numpy()
        elif isinstance(network, MobileFaceNet) and prepare is MobileFaceNet.prepare:
            std = np.array(network.variant.std)
            times[:3], plus[:3] = 1 / std, -np.array(network.variant.mean) / std
            seen = network.columns
        elif isinstance(network, sface.SFace) and prepare is sface.SFace.prepare:
            times[:3], plus[:3] = 255 / sface.DIVISOR, -sface.MEAN / sface.DIVISOR
        else:
            return None
        return cls(np.concatenate([times, plus]).astype(np.float32), seen, grid)

    def size(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of pictures of photographs of a size."""
        if self.grid is not None:
            return self.grid.shape[0], self.grid.shape[1]
        left, right = self._seen(columns)
        return rows, right - left

    def reading(self, rows: int, columns: int) -> _Reading:
        """Where pictures lie in photographs of a size; what is beyond their border, on it."""
        if self.grid is None:
            return _Reading(rows, columns, self._seen(columns)[0], self.scale)
        # In float32, as torch has it: noise is so steep that places which are rounded otherwise make another picture.
        sides = np.array([columns - 1, rows - 1], np.float32)
        places = np.clip((self.grid + 1) * (sides / 2), 0, sides).reshape(-1, 2)[:, ::-1]
        whole = np.floor(places)
        corners = (whole @ [columns + 1, 1]).astype(np.int32)
        return _Reading(rows, columns, 0, self.scale, corners, np.ascontiguousarray(places - whole))

    def _seen(self, columns: int) -> tuple[int, int]:
        left, right, _ = slice(*(self.seen or (0, columns))).indices(columns)
        return left, right


class _Room:
    """Where a thread computes: no memory is taken for an image."""

    def __init__(self, model: ImageWise, program: _Program, window: int) -> None:
        self.maps = np.empty((3, program.room), np.float32)
        # Places are read as four numbers, also the last.
        self.padded = np.empty(math.prod(program.padded) + 4, np.float32)
        self.row = np.empty(program.row, np.float32)
        self.photo = np.empty(program.reading.room, np.float32)
        self.signs = np.empty(program.signs, np.uint8)
        self.means = np.empty(sum(program.parts), np.float32)
        # What the addresses below belong to. (The model itself holds rooms.)
        self.kept = program, model.weights
        self.library = model.built.library
        rows, columns, _ = program.padded
        self.work = _Work(
            program.lines.ctypes.data, len(program.lines), model.weights.ctypes.data,
            self.maps.ctypes.data, program.room, self.padded.ctypes.data, rows, columns, self.row.ctypes.data,
            self.photo.ctypes.data, *program.reading.fields(),
            self.signs.ctypes.data, window,
        )  # fmt: skip

    def forward(self, picture: Tensor, means: Numbers, signs: Signs | None = None) -> None:
        """One picture (C, H, W) to its means, and the signs before its activations."""
        self.work.signs = (self.signs if signs is None else signs).ctypes.data
        self.library.forward(
            ctypes.byref(self.work), ctypes.c_void_p(picture.data_ptr()), ctypes.c_void_p(means.ctypes.data)
        )

    def backward(self, means: Numbers, out: Tensor, signs: Signs | None = None) -> None:
        """From the derivative by its means to that by the picture, (C, H, W), which is put into ``out``."""
        self.work.signs = (self.signs if signs is None else signs).ctypes.data
        self.library.backward(
            ctypes.byref(self.work), ctypes.c_void_p(means.ctypes.data), ctypes.c_void_p(out.data_ptr())
        )

    def square_sum(self, values: Numbers) -> float:
        """The sum of the squares of numbers, in float64."""
        return float(self.library.square_sum(ctypes.c_void_p(values.ctypes.data), ctypes.c_int64(values.size)))

    def difference(self, own: Numbers, goal: Numbers) -> float:
        """Numbers less others, in place, and the sum of the squares of what is left, in float64."""
        found = self.library.difference(
            ctypes.c_void_p(own.ctypes.data), ctypes.c_void_p(goal.ctypes.data), ctypes.c_int64(own.size)
        )
        return float(found)


class ImageWise(FusedUnits):
    """The first units of a frozen network, taken an image at a time. Made by :func:`fuse`."""

    def __init__(self, network: FaceNetwork, units: Sequence[_Unit], built: Loops) -> None:
        self.network = network
        self.preparation = _Preparation.of(network)
        self.chain = list(units)
        self.units = len(units)
        self.built = built
        parts: list[Numbers] = []
        self.places: list[dict[str, int]] = []
        for layer in (layer for unit in units for layer in unit.layers):
            place = {}
            named = {"weight": layer.weight, "flipped": layer.flipped, "bias": layer.bias, "slopes": layer.slopes}
            for name, numbers in named.items():
                place[name] = sum(map(len, parts))
                matrix = name in ("weight", "flipped") and numbers.size and layer.kind != "depthwise"
                parts.append((built.panels(numbers) if matrix else numbers).ravel())
            self.places.append(place)
        self.weights: Numbers = np.concatenate(parts, dtype=np.float32)
        self._programs: dict[Any, _Program] = {}
        self._rooms: dict[tuple[int, int], deque[_Room]] = {}

    def means(self, images: Tensor, wanted: Sequence[int], window: int) -> Means:
        """As in the base class."""
        prepared = self.prepared(images)
        if prepared.requires_grad and torch.is_grad_enabled():
            program = self.program(prepared, tuple(wanted), window)
            return Means(_Means.apply(prepared, self, program, window))  # type: ignore[no-untyped-call]
        program = self.program(prepared, tuple(wanted), window, keep=False)
        pictures, made = prepared.detach(), torch.empty((len(images), sum(program.parts)), **_NUMBERS)
        squares = torch.empty(len(images), **_SUMS)

        def take(place: int, room: _Room) -> None:
            own = made[place].numpy()
            room.forward(pictures[place], own)
            squares[place] = room.square_sum(own)

        self.in_parallel(take, len(images), program, window)
        found = Means(torch.split(made, program.parts, 1))
        found.squares, found.whole = squares, made
        return found

    def compares(self, images: Tensor, wanted: Sequence[int], window: int) -> bool:
        """Always."""
        return True

    def distance(self, images: Tensor, goal: Sequence[Tensor], wanted: Sequence[int], window: int) -> Tensor:
        """As in the base class."""
        prepared = self.prepared(images)
        whole = goal.whole if isinstance(goal, Means) and goal.whole is not None else torch.cat(list(goal), 1)
        program = self.program(prepared, tuple(wanted), window)
        if whole.shape != (len(images), sum(program.parts)):
            raise ValueError(f"a goal of shape {tuple(whole.shape)} is not of these units and images")
        return _Distance.apply(prepared, self, program, whole, window)  # type: ignore[no-any-return, no-untyped-call]

    def sizes(self, images: Tensor) -> list[tuple[int, int, int]]:
        """As in the base class."""
        return self.program(self.prepared(images[:1].detach()), (), 1).sizes

    def prepared(self, images: Tensor) -> Tensor:
        """What the loops take of images: what the network prepares, or themselves where the loops do that too."""
        return (images if self.preparation is not None else self.network.prepare(images)).contiguous()

    def program(self, prepared: Tensor, wanted: tuple[int, ...], window: int, *, keep: bool = True) -> _Program:
        """What the loops go through for pictures (N, C, H, W), and the means of some units.

        Where signs are not to be kept all layers put them into the same place, which stays in a cache.
        """
        key = (*prepared.shape[1:], wanted, window, keep)
        if key not in self._programs:
            self._programs[key] = self._program(*key)
        return self._programs[key]

    def in_parallel(self, work: Callable[[int, _Room], None], count: int, program: _Program, window: int) -> None:
        """Do a piece of work for each of ``count`` images, each in a room of its own; see :func:`in_parallel`."""
        # Kept for the next time: memory that a process takes anew has to be cleared and looked up page by page.
        rooms = self._rooms.setdefault((id(program), window), deque())

        def take(place: int) -> None:
            try:
                room = rooms.pop()
            except IndexError:
                room = _Room(self, program, window)
            work(place, room)
            rooms.append(room)

        in_parallel(take, count)

    def _program(
        self, channels: int, height: int, width: int, wanted: tuple[int, ...], window: int, keep: bool
    ) -> _Program:
        lines: list[list[int]] = []
        sizes, rooms = [], []
        parts, ends = dict.fromkeys(wanted, 0), {}
        signs = row = 0
        reading = _Reading(height, width)
        if self.preparation is not None:
            reading = self.preparation.reading(height, width)
            height, width = self.preparation.size(height, width)
        padded = (height, width, channels)
        places = iter(self.places)
        for number, unit in enumerate(self.chain):
            for position, layer in enumerate(unit.layers):
                (top, below), (left, behind) = layer.zeros(0, height), layer.zeros(1, width)
                rows, columns = layer.made(0, height), layer.made(1, width)
                outputs = channels if layer.kind == "pool" else len(layer.bias)
                last = position == len(unit.layers) - 1
                line = {
                    "kind": KINDS.index(layer.kind), "height": height, "width": width, "channels": channels,
                    "rows": rows, "columns": columns, "outputs": outputs, "stride": layer.stride, "top": top,
                    "left": left,
                    "kernel": layer.kernel[0], "length": layer.kernel[1] * channels, "signs": signs if keep else 0,
                    "first": position == 0, "last": last, "residual": unit.residual, "means": -1, **next(places),
                }  # fmt: skip
                if last and number in parts:
                    ends[number] = len(lines)
                    parts[number] = rows // window * (columns // window) * outputs
                if layer.kind == "picture":
                    padded = (height + top + below, width + left + behind, channels)
                    row = max(row, columns * layer.kernel[0] * layer.kernel[1] * channels)
                else:
                    rooms.append(height * width * channels)
                if layer.kind == "dense":
                    # Sixteen of all tiles in and out, and a tile at the edge with what falls beyond it.
                    row = max(row, (16 * ((width + 1) // 2) + 16) * (channels + outputs))
                lines.append([line[field] for field in FIELDS])
                height, width, channels = rows, columns, outputs
                rooms.append(rows * columns * outputs)
                signs += rows * columns * outputs
            sizes.append((height, width, channels))
        begin = 0
        for number in wanted:
            # In the order asked for, which need not be that of the units.
            lines[ends[number]][FIELDS.index("means")] = begin
            begin += parts[number]
        return _Program(
            np.array(lines, np.int64),
            sizes,
            [parts[unit] for unit in wanted],
            max(rooms),
            padded,
            row,
            reading,
            signs if keep else max(rooms),
        )


class _Means(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prepared: Tensor, model: ImageWise, program: _Program, window: int) -> Any:
        made = torch.empty((len(prepared), sum(program.parts)), **_NUMBERS)
        signs = np.empty((len(prepared), program.signs), np.uint8)
        pictures = prepared.detach()

        def take(place: int, room: _Room) -> None:
            room.forward(pictures[place], made[place].numpy(), signs[place])

        model.in_parallel(take, len(prepared), program, window)
        ctx.signs, ctx.model, ctx.program, ctx.window, ctx.shape = signs, model, program, window, prepared.shape
        return tuple(part.contiguous() for part in torch.split(made, program.parts, 1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found, given = torch.empty(ctx.shape, **_NUMBERS), torch.cat(gradients, 1)

        def take(place: int, room: _Room) -> None:
            room.backward(given[place].numpy(), found[place], ctx.signs[place])

        ctx.model.in_parallel(take, len(found), ctx.program, ctx.window)
        return found, None, None, None


class _Distance(torch.autograd.Function):
    """The derivative is found on the way: an image's is that of its own distance, times a number that comes later."""

    @staticmethod
    def forward(ctx: Any, prepared: Tensor, model: ImageWise, program: _Program, goal: Tensor, window: int) -> Tensor:
        squares = torch.empty(len(prepared), **_SUMS)
        pictures, half = prepared.detach(), torch.empty(prepared.shape, **_NUMBERS)

        def take(place: int, room: _Room) -> None:
            room.forward(pictures[place], room.means)
            squares[place] = room.difference(room.means, goal[place].numpy())
            room.backward(room.means, half[place])

        model.in_parallel(take, len(prepared), program, window)
        ctx.half = half
        return squares

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scale = (2 * gradient).to(ctx.half.dtype).view(-1, 1, 1, 1)
        # Not by torch, whose threads stay awake for a while behind a large product, and are in the way of ours.
        with np.errstate(all="ignore"):
            return torch.from_numpy(ctx.half.numpy() * scale.numpy()), None, None, None, None


# ------------------------------------------------------------------------------------------------ the rest of a step


def noised(first: Tensor, second: Tensor, generators: Sequence[torch.Generator], scale: float) -> tuple[Tensor, Tensor]:
    """Two batches (N, ...) in float32 with normal numbers added, the same to both, each row from its own generator."""
    made = torch.empty_like(first), torch.empty_like(second)

    def take(place: int) -> None:
        noise = torch.empty_like(first[place]).normal_(generator=generators[place]).numpy()
        noise *= np.float32(scale)
        for given, found in zip((first, second), made, strict=True):
            np.add(given[place].numpy(), noise, out=found[place].numpy())

    in_parallel(take, len(first))
    return made


def row_sizes(rows: Tensor) -> Tensor:
    """Sums of absolute values of rows (N, ...), (N,) in float64; what is not finite stays so."""
    built, found = _there(), torch.empty(len(rows), **_SUMS)

    def take(place: int) -> None:
        own = rows[place]
        found[place] = built.library.size_sum(ctypes.c_void_p(own.data_ptr()), ctypes.c_int64(own.numel()))

    in_parallel(take, len(rows))
    return found


def move_(current: Tensor, gradient: Tensor, factor: Tensor, smoothing: Tensor) -> None:
    """Move images in place against their smoothed gradients: current - factor * smoothed, within [0, 1].

    Args:
        current: images (N, C, H, W), contiguous, as is what follows.
        gradient: of the same shape; finite where the factor is not 0.
        factor: (N,); images of 0 are left alone.
        smoothing: an odd square kernel (1, k, k); beyond the border there are zeros.
    """
    built, radius = _there(), smoothing.shape[-1] // 2
    kernel, factors = ctypes.c_void_p(smoothing.data_ptr()), factor.tolist()
    sizes = [ctypes.c_int64(size) for size in (radius, *current.shape[1:])]

    def take(place: int) -> None:
        if factors[place]:
            own, down = (ctypes.c_void_p(one[place].data_ptr()) for one in (current, gradient))
            built.library.descend(own, down, ctypes.c_double(factors[place]), kernel, *sizes)

    in_parallel(take, len(current))


def adapt_(
    current: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    factors: Sequence[float],
    shares: Sequence[tuple[float, float]],
    smoothing: Tensor,
) -> None:
    """Move images in place by Adam's rule, of their smoothed gradients, within [0, 1].

    Args:
        current: images (N, C, H, W), contiguous, as is what follows.
        gradient: of the same shape; finite where the factor is not 0.
        moments: of the same shape; moved in place too.
        factors: of each image; those of 0 are left alone.
        shares: what the two moments of each image are divided by, since they began at 0.
        smoothing: an odd square kernel (1, k, k); beyond the border there are zeros.
    """
    built, kernel = _there(), ctypes.c_void_p(smoothing.data_ptr())
    sizes = [ctypes.c_int64(size) for size in (smoothing.shape[-1] // 2, *current.shape[1:])]

    def take(place: int) -> None:
        if factors[place]:
            own = [ctypes.c_void_p(one[place].data_ptr()) for one in (current, gradient, *moments)]
            numbers = [ctypes.c_double(one) for one in (factors[place], *shares[place])]
            built.library.adapt(*own, *numbers, kernel, *sizes)

    in_parallel(take, len(current))


def _there() -> Loops:
    built = loops()
    assert built is not None, "only where units are taken an image at a time"
    return built


# ------------------------------------------------------------------------------------------------ threads


def in_parallel(work: Callable[[int], None], count: int) -> None:
    """Do a piece of work for each place up to ``count``, as many at once as torch has threads.

    An error in one ends all, and is raised when those under way are done.
    """
    left = deque(range(count))

    def take() -> None:
        while True:
            try:
                place = left.popleft()
            except IndexError:
                # Another thread has taken the last.
                return
            try:
                work(place)
            except BaseException:
                left.clear()
                raise

    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        take()
        return
    under_way = [_team(threads).submit(take) for _ in range(threads)]
    try:
        for one in under_way:
            one.result()
    finally:
        left.clear()
        wait(under_way)


@cache
def _team(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="pmtlib-image")


if hasattr(os, "register_at_fork"):
    # A child has none of its parent's threads.
    os.register_at_fork(after_in_child=_team.cache_clear)
