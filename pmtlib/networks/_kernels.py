"""Kernels in Triton for NVIDIA GPUs: draws of noise, and the layers of MobileFaceNet fused by what they share.

A step of the transform moves far more bytes than it computes with: by itself every convolution, bias and activation
reads a map from the device's memory and writes one. Here a depthwise convolution, its activation, the 1x1 convolution
behind it and the means of its output over windows are one kernel, and so is most of their derivative. Maps are bfloat16
in the layout (N, H, W, C), sums are float32. Of what stood before an activation the derivative needs the sign alone: a
byte a number (``signs``). What a kernel computes of an image depends on no other image.

:mod:`pmtlib.networks.fused` puts them together and has the shapes; without Triton, or on another device, nothing here
is used.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Triton reads the source of these functions: their arguments have no types, and names in capitals are constants.
# mypy: ignore-errors


@triton.jit
def normal_rows(seeds, draws, out, scale, quarter, BLOCK: tl.constexpr):
    """Normal numbers (N, 4 * quarter) of a standard deviation: Philox by a row's seed, where its draw begins."""
    row = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seed = tl.load(seeds + row)
    begin = tl.load(draws + row).to(tl.int32) * quarter
    first, second, third, fourth = tl.randn4x(seed, begin + place)
    ok = place < quarter
    base = out + row.to(tl.int64) * 4 * quarter + place
    tl.store(base, first * scale, mask=ok)
    tl.store(base + quarter, second * scale, mask=ok)
    tl.store(base + 2 * quarter, third * scale, mask=ok)
    tl.store(base + 3 * quarter, fourth * scale, mask=ok)


@triton.jit
def _place(number, columns, FOLDED: tl.constexpr):
    """Rows and columns of a map's places by their number: row by row, or folded, window by window of 2x2."""
    if FOLDED:
        window, within = number // 4, number % 4
        across = columns // 2
        return window // across * 2 + within // 2, window % across * 2 + within % 2
    return number // columns, number % columns


@triton.jit
def _store_means(means, values, begin, windows, to, OUT: tl.constexpr, BLOCK: tl.constexpr):
    """Means over the windows of 2x2 of folded values (BLOCK, OUT)."""
    four = tl.reshape(values, (BLOCK // 4, 4, OUT))
    window = begin // 4 + tl.arange(0, BLOCK // 4)
    tl.store(means + window[:, None] * OUT + to[None, :], tl.sum(four, 1) * 0.25, mask=(window < windows)[:, None])


@triton.jit
def stem(
    image, scale, shift, weight, bias, slope, out, signs, means, height, width, columns, left, rows_out, columns_out,
    top_pad, left_pad, KEEP: tl.constexpr, MEANS: tl.constexpr, FOLDED: tl.constexpr, BLOCK: tl.constexpr,
    OUT: tl.constexpr,
):  # fmt: skip
    """The first convolution, 3x3 with stride 2, of images (N, 3, H, W) in float32, normalised before, activated."""
    n = tl.program_id(1).to(tl.int64)
    begin = tl.program_id(0) * BLOCK
    number = begin + tl.arange(0, BLOCK)
    ok = number < rows_out * columns_out
    y, x = _place(number, columns_out, FOLDED)
    tap = tl.arange(0, 32)
    channel, within = tap // 9, tap % 9
    row = (y * 2 - top_pad)[:, None] + (within // 3)[None, :]
    column = (x * 2 - left_pad)[:, None] + (within % 3)[None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < columns)
    inside = inside & ok[:, None] & (tap < 27)[None, :]
    base = image + n * 3 * height * width
    values = tl.load(base + channel[None, :] * height * width + row * width + column + left, mask=inside, other=0.0)
    values = values * tl.load(scale + tap)[None, :] + tl.load(shift + tap)[None, :]
    values = tl.where(inside, values, 0.0)
    to = tl.arange(0, OUT)
    found = tl.dot(values.to(out.dtype.element_ty), tl.load(weight + tap[:, None] * OUT + to[None, :]))
    found += tl.load(bias + to)[None, :]
    own = n * rows_out * columns_out * OUT
    at = (y * columns_out + x)[:, None] * OUT + to[None, :]
    if KEEP:
        tl.store(signs + own + at, (found > 0).to(tl.int8), mask=ok[:, None])
    found = tl.where(found > 0, found, found * tl.load(slope + to)[None, :]).to(out.dtype.element_ty)
    tl.store(out + own + at, found, mask=ok[:, None])
    if MEANS:
        windows = rows_out * columns_out // 4
        _store_means(means + n * windows * OUT, found.to(tl.float32), begin, windows, to, OUT, BLOCK)


@triton.jit
def stem_backward(
    gathered, scale, out, height, width, columns, left, rows_out, columns_out, top_pad, left_pad, BLOCK: tl.constexpr
):
    """The derivative of :func:`stem` by the image, from that by what each place of its map took from it, (N, P, 32)."""
    n = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = place < height * width
    y, x = place // width, place % width - left
    base = gathered + n * rows_out * columns_out * 32
    for channel in tl.static_range(3):
        total = tl.zeros((BLOCK,), tl.float32)
        for tap in tl.static_range(9):
            row, column = y + top_pad - tap // 3, x + left_pad - tap % 3
            inside = ok & (x >= 0) & (x < columns) & (row >= 0) & (column >= 0) & (row % 2 == 0) & (column % 2 == 0)
            inside = inside & (row // 2 < rows_out) & (column // 2 < columns_out)
            from_ = (row // 2 * columns_out + column // 2) * 32 + channel * 9 + tap
            total += tl.load(base + from_, mask=inside, other=0.0).to(tl.float32)
        total = total * tl.load(scale + channel * 9)
        tl.store(out + n * 3 * height * width + channel * height * width + place, total, mask=ok)


@triton.jit
def pointwise(
    x, weight, bias, slope, out, signs, places, KEEP: tl.constexpr, BLOCK: tl.constexpr, IN: tl.constexpr,
    OUT: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """A 1x1 convolution of maps (places, IN) to (places, OUT), with its bias and activation."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = place < places
    from_ = tl.arange(0, IN)
    to = tl.program_id(1) * PART + tl.arange(0, PART)
    values = tl.load(x + place[:, None] * IN + from_[None, :], mask=ok[:, None], other=0.0)
    found = tl.dot(values, tl.load(weight + from_[:, None] * OUT + to[None, :]))
    found += tl.load(bias + to)[None, :]
    at = place[:, None] * OUT + to[None, :]
    if KEEP:
        tl.store(signs + at, (found > 0).to(tl.int8), mask=ok[:, None])
    found = tl.where(found > 0, found, found * tl.load(slope + to)[None, :])
    tl.store(out + at, found.to(out.dtype.element_ty), mask=ok[:, None])


@triton.jit
def depthwise_pointwise(
    x, depthwise, depthwise_bias, slope, weight, bias, residual, signs, out, means, rows, columns, rows_out,
    columns_out, top_pad, left_pad, RESIDUAL: tl.constexpr, KEEP: tl.constexpr, MEANS: tl.constexpr,
    FOLDED: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
    PART: tl.constexpr,
):  # fmt: skip
    """A 3x3 depthwise convolution, its activation, and a linear 1x1 convolution: (N, H, W, IN) to (N, H', W', OUT).

    With ``RESIDUAL`` a map is added at the end.
    """
    n = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK
    number = first + tl.arange(0, BLOCK)
    ok = number < rows_out * columns_out
    y, x_ = _place(number, columns_out, FOLDED)
    place = y * columns_out + x_
    to = tl.arange(0, OUT)
    total = tl.zeros((BLOCK, OUT), tl.float32)
    # An image's own maps begin far behind the first's; within them 32 bits suffice.
    x += n * rows * columns * IN
    signs += n * rows_out * columns_out * IN
    out += n * rows_out * columns_out * OUT
    residual += n * rows_out * columns_out * OUT
    for begin in range(0, IN, PART):
        channel = begin + tl.arange(0, PART)
        found = tl.zeros((BLOCK, PART), tl.float32)
        for down in range(3):
            row = y * STRIDE + down - top_pad
            within = ok & (row >= 0) & (row < rows)
            for across in tl.static_range(3):
                column = x_ * STRIDE + across - left_pad
                inside = within & (column >= 0) & (column < columns)
                from_ = (row * columns + column) * IN
                values = tl.load(x + from_[:, None] + channel[None, :], mask=inside[:, None], other=0.0)
                found += values.to(tl.float32) * tl.load(depthwise + (3 * down + across) * IN + channel)[None, :]
        found += tl.load(depthwise_bias + channel)[None, :]
        if KEEP:
            tl.store(signs + place[:, None] * IN + channel[None, :], (found > 0).to(tl.int8), mask=ok[:, None])
        found = tl.where(found > 0, found, found * tl.load(slope + channel)[None, :])
        total = tl.dot(found.to(weight.dtype.element_ty), tl.load(weight + channel[:, None] * OUT + to[None, :]), total)
    total += tl.load(bias + to)[None, :]
    at = place[:, None] * OUT + to[None, :]
    if RESIDUAL:
        total += tl.load(residual + at, mask=ok[:, None], other=0.0).to(tl.float32)
    made = total.to(out.dtype.element_ty)
    tl.store(out + at, made, mask=ok[:, None])
    if MEANS:
        windows = rows_out * columns_out // 4
        _store_means(means + n * windows * OUT, made.to(tl.float32), first, windows, to, OUT, BLOCK)


@triton.jit
def _pooled(pooled, y, x, ok, to, rows_pooled, columns_pooled, OUT: tl.constexpr, WINDOW: tl.constexpr):
    """What the means over windows give back to the places (BLOCK) of a map, in its channels ``to``."""
    inside = ok & (y // WINDOW < rows_pooled) & (x // WINDOW < columns_pooled)
    from_ = (y // WINDOW * columns_pooled + x // WINDOW) * OUT
    spread = tl.load(pooled + from_[:, None] + to[None, :], mask=inside[:, None], other=0.0)
    return spread.to(tl.float32) / (WINDOW * WINDOW)


@triton.jit
def pointwise_backward(
    gradient, pooled, weight, signs, slope, out, rows_out, columns_out, rows_pooled, columns_pooled,
    GRADIENT: tl.constexpr, POOLED: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, IN: tl.constexpr,
    OUT: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """The derivative by the depthwise convolution's output, (N, H', W', IN), from that by what follows, OUT wide."""
    n = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = place < rows_out * columns_out
    to = tl.arange(0, OUT)
    above = tl.zeros((BLOCK, OUT), tl.float32)
    gradient += n * rows_out * columns_out * OUT
    pooled += n * rows_pooled * columns_pooled * OUT
    signs += n * rows_out * columns_out * IN
    out += n * rows_out * columns_out * IN
    if GRADIENT:
        at = place[:, None] * OUT + to[None, :]
        above += tl.load(gradient + at, mask=ok[:, None], other=0.0).to(tl.float32)
    if POOLED:
        y, x = place // columns_out, place % columns_out
        above += _pooled(pooled, y, x, ok, to, rows_pooled, columns_pooled, OUT, WINDOW)
    channel = tl.program_id(2) * PART + tl.arange(0, PART)
    given = tl.load(weight + to[:, None] * IN + channel[None, :])
    found = tl.dot(above.to(weight.dtype.element_ty), given)
    at = place[:, None] * IN + channel[None, :]
    positive = tl.load(signs + at, mask=ok[:, None], other=0) > 0
    found = tl.where(positive, found, found * tl.load(slope + channel)[None, :])
    tl.store(out + at, found.to(out.dtype.element_ty), mask=ok[:, None])


@triton.jit
def depthwise_backward(
    gradient, depthwise, signs, slope_in, pooled_in, weight, residual, pooled, out, rows, columns, rows_out,
    columns_out, top_pad, left_pad, rows_pooled_in, columns_pooled_in, rows_pooled, columns_pooled,
    POOLED_IN: tl.constexpr, RESIDUAL: tl.constexpr, POOLED: tl.constexpr, WINDOW: tl.constexpr,
    STRIDE: tl.constexpr, BLOCK: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """From the derivative by the depthwise convolution's output to that by the input of the 1x1 convolution before it.

    ``signs`` (N, H, W, IN) are those before the activation of that 1x1 convolution, whose weight is (IN, OUT) here.
    ``pooled_in`` comes from means of what was activated; ``residual`` and ``pooled`` are what a residual unit's output
    has for its input, OUT wide. With a stride of 2 a program has places whose rows, and whose columns, are all even or
    all odd: the same taps reach them.
    """
    n = tl.program_id(1).to(tl.int64)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if STRIDE == 1:
        y, x_ = number // columns, number % columns
        first_row, first_column, most_rows, most_columns = 0, 0, 3, 3
    else:
        kind = tl.program_id(2)
        odd_row, odd_column = kind // 2, kind % 2
        across = (columns - odd_column + 1) // 2
        y, x_ = number // across * 2 + odd_row, number % across * 2 + odd_column
        first_row, first_column = (odd_row + top_pad) % 2, (odd_column + left_pad) % 2
        most_rows, most_columns = 2 - first_row, 2 - first_column
    ok = y < rows
    place = y * columns + x_
    to = tl.arange(0, OUT)
    total = tl.zeros((BLOCK, OUT), tl.float32)
    gradient += n * rows_out * columns_out * IN
    signs += n * rows * columns * IN
    pooled_in += n * rows_pooled_in * columns_pooled_in * IN
    residual += n * rows * columns * OUT
    pooled += n * rows_pooled * columns_pooled * OUT
    out += n * rows * columns * OUT
    for begin in range(0, IN, PART):
        channel = begin + tl.arange(0, PART)
        found = tl.zeros((BLOCK, PART), tl.float32)
        for down in range(most_rows):
            tap_row = first_row + down * STRIDE
            row = (y + top_pad - tap_row) // STRIDE
            within = ok & (y + top_pad >= tap_row) & (row < rows_out)
            if STRIDE == 1:
                for across_ in tl.static_range(3):
                    column = x_ + left_pad - across_
                    inside = within & (column >= 0) & (column < columns_out)
                    from_ = (row * columns_out + column) * IN
                    values = tl.load(gradient + from_[:, None] + channel[None, :], mask=inside[:, None], other=0.0)
                    tap = tl.load(depthwise + (3 * tap_row + across_) * IN + channel)
                    found += values.to(tl.float32) * tap[None, :]
            else:
                for across_ in range(most_columns):
                    tap_column = first_column + across_ * STRIDE
                    column = (x_ + left_pad - tap_column) // STRIDE
                    inside = within & (x_ + left_pad >= tap_column) & (column < columns_out)
                    from_ = (row * columns_out + column) * IN
                    values = tl.load(gradient + from_[:, None] + channel[None, :], mask=inside[:, None], other=0.0)
                    tap = tl.load(depthwise + (3 * tap_row + tap_column) * IN + channel)
                    found += values.to(tl.float32) * tap[None, :]
        if POOLED_IN:
            found += _pooled(pooled_in, y, x_, ok, channel, rows_pooled_in, columns_pooled_in, IN, WINDOW)
        positive = tl.load(signs + place[:, None] * IN + channel[None, :], mask=ok[:, None], other=0) > 0
        found = tl.where(positive, found, found * tl.load(slope_in + channel)[None, :])
        given = tl.load(weight + channel[:, None] * OUT + to[None, :])
        total = tl.dot(found.to(weight.dtype.element_ty), given, total)
    at = place[:, None] * OUT + to[None, :]
    if RESIDUAL:
        total += tl.load(residual + at, mask=ok[:, None], other=0.0).to(tl.float32)
    if POOLED:
        total += _pooled(pooled, y, x_, ok, to, rows_pooled, columns_pooled, OUT, WINDOW)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=ok[:, None])


@triton.jit
def window_means(
    x, out, rows, columns, rows_out, columns_out, WINDOW: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr
):
    """Means over windows that do not overlap, (N, H', W', CHANNELS) in float32."""
    n = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = place < rows_out * columns_out
    y, x_ = place // columns_out, place % columns_out
    channel = tl.arange(0, CHANNELS)
    total = tl.zeros((BLOCK, CHANNELS), tl.float32)
    x += n * rows * columns * CHANNELS
    out += n * rows_out * columns_out * CHANNELS
    for tap in range(WINDOW * WINDOW):
        from_ = ((y * WINDOW + tap // WINDOW) * columns + x_ * WINDOW + tap % WINDOW) * CHANNELS
        total += tl.load(x + from_[:, None] + channel[None, :], mask=ok[:, None], other=0.0).to(tl.float32)
    at = place[:, None] * CHANNELS + channel[None, :]
    tl.store(out + at, total / (WINDOW * WINDOW), mask=ok[:, None])


@triton.jit
def row_sums(own, goal, out, length, blocks, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Parts (N, blocks) of sums over rows (N, length): of ``distance`` squared, of ``square``, or of ``size``."""
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = place < length
    values = tl.load(own + row * length + place, mask=ok, other=0.0)
    if KIND == "distance":
        values -= tl.load(goal + row * length + place, mask=ok, other=0.0)
    values = tl.abs(values) if KIND == "size" else values * values
    tl.store(out + row * blocks + tl.program_id(0), tl.sum(values, 0))


@triton.jit
def scaled_difference(own, goal, scale, out, length, BLOCK: tl.constexpr):
    """(own - goal) times a number a row, (N, length)."""
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = place < length
    difference = tl.load(own + row * length + place, mask=ok, other=0.0)
    difference -= tl.load(goal + row * length + place, mask=ok, other=0.0)
    tl.store(out + row * length + place, difference * tl.load(scale + row), mask=ok)


@triton.jit
def descend(current, gradient, factor, smoothing, out, height, width, RADIUS: tl.constexpr, BLOCK: tl.constexpr):
    """Planes (N * 3, H, W): current - factor * (gradient, smoothed by a (2 RADIUS + 1)^2 kernel), within [0, 1]."""
    plane = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = place < height * width
    y, x = place // width, place % width
    begin = plane * height * width
    total = tl.zeros((BLOCK,), tl.float32)
    side: tl.constexpr = 2 * RADIUS + 1
    for tap in tl.static_range(side * side):
        row, column = y + tap // side - RADIUS, x + tap % side - RADIUS
        inside = ok & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        value = tl.load(gradient + begin + row * width + column, mask=inside, other=0.0)
        # Of an image that is no longer moved there may be anything.
        value = tl.where(tl.abs(value) < float("inf"), value, 0.0)
        total += value * tl.load(smoothing + tap)
    moved = tl.load(current + begin + place, mask=ok, other=0.0) - tl.load(factor + plane // 3) * total
    tl.store(out + begin + place, tl.minimum(tl.maximum(moved, 0.0), 1.0), mask=ok)
