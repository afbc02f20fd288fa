"""Kernels in Triton for NVIDIA GPUs: draws of noise, and the layers of MobileFaceNet fused by what they share.

A step of the transform moves far more bytes than it computes with: by itself every convolution, bias and activation
reads a map from the device's memory and writes one. Here a depthwise convolution, its activation, the 1x1 convolution
behind it and the means of its output over windows are one kernel, and so is most of their derivative. Maps are bfloat16
in the layout (N, H, W, C), sums are float32. Of what stood before an activation the derivative needs the sign alone: a
bit a number (``signs``). What a kernel computes of an image depends on no other image.

:mod:`pmtlib.networks.fused` puts them together and has the shapes; without Triton, or on another device, nothing here
is used.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Triton reads the source of these functions: their arguments have no types, and names in capitals are constants.
# mypy: ignore-errors


@triton.jit
def _drawn(seeds, draws, scale, quarter, BLOCK: tl.constexpr):
    """Numbers of four quarters of a row by its seed (Philox), where its draw begins; where they are, and which are."""
    row = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    begin = tl.load(draws + row).to(tl.int32) * quarter
    a, b, c, d = tl.randn4x(tl.load(seeds + row), begin + place)
    return a * scale, b * scale, c * scale, d * scale, row.to(tl.int64) * 4 * quarter + place, place < quarter


@triton.jit
def normal_rows(seeds, draws, out, scale, quarter, BLOCK: tl.constexpr):
    """Normal numbers (N, 4 * quarter) of a standard deviation."""
    a, b, c, d, at, ok = _drawn(seeds, draws, scale, quarter, BLOCK)
    tl.store(out + at, a, mask=ok)
    tl.store(out + at + quarter, b, mask=ok)
    tl.store(out + at + 2 * quarter, c, mask=ok)
    tl.store(out + at + 3 * quarter, d, mask=ok)


@triton.jit
def _plus(given, made, at, noise, ok):
    """Some numbers with noise."""
    tl.store(made + at, tl.load(given + at, mask=ok, other=0.0) + noise, mask=ok)


@triton.jit
def noised_rows(seeds, draws, first, second, first_out, second_out, scale, quarter, BLOCK: tl.constexpr):
    """Two rows (N, 4 * quarter) each, and the normal numbers of :func:`normal_rows`, the same for both, added."""
    a, b, c, d, at, ok = _drawn(seeds, draws, scale, quarter, BLOCK)
    _plus(first, first_out, at, a, ok)
    _plus(second, second_out, at, a, ok)
    _plus(first, first_out, at + quarter, b, ok)
    _plus(second, second_out, at + quarter, b, ok)
    _plus(first, first_out, at + 2 * quarter, c, ok)
    _plus(second, second_out, at + 2 * quarter, c, ok)
    _plus(first, first_out, at + 3 * quarter, d, ok)
    _plus(second, second_out, at + 3 * quarter, d, ok)


@triton.jit
def _activated(found, slope):
    """A PReLU of numbers (BLOCK, C), by slopes (C,) below 0."""
    return found + tl.minimum(found, 0.0) * (slope - 1)[None, :]


@triton.jit
def _keep(signs, found, place, ok, begin, BLOCK: tl.constexpr, PART: tl.constexpr, CHANNELS: tl.constexpr):
    """Store which numbers (BLOCK, PART) are positive, of maps (places, CHANNELS), from channel ``begin`` on.

    A byte has eight channels, the first of them as its lowest bit.
    """
    bits = tl.reshape((found > 0).to(tl.int32), (BLOCK, PART // 8, 8))
    packed = tl.sum(bits << tl.arange(0, 8)[None, None, :], 2).to(tl.uint8)
    eighth = begin // 8 + tl.arange(0, PART // 8)
    tl.store(signs + place[:, None] * (CHANNELS // 8) + eighth[None, :], packed, mask=ok)


@triton.jit
def _passed(found, signs, slope, place, ok, begin, BLOCK: tl.constexpr, PART: tl.constexpr, CHANNELS: tl.constexpr):
    """Derivatives (BLOCK, PART) through an activation, by the signs that :func:`_keep` has stored and its slopes."""
    eighth = begin // 8 + tl.arange(0, PART // 8)
    packed = tl.load(signs + place[:, None] * (CHANNELS // 8) + eighth[None, :], mask=ok, other=0)
    bits = (packed.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    slopes = tl.load(slope + begin + tl.arange(0, PART))[None, :]
    return tl.where(tl.reshape(bits, (BLOCK, PART)) != 0, found, found * slopes)


@triton.jit
def _places(BLOCK: tl.constexpr):
    """Of the places of a program's ``BLOCK`` windows of 2x2: their windows, and rows and columns within these.

    In this order one thread, or one and its neighbour, has a window's four of what a product of matrices makes.
    """
    number = tl.arange(0, 4 * BLOCK)
    window = tl.program_id(0) * BLOCK + number // 16 * 4 + number // 2 % 4
    return window, number // 8 % 2, number % 2


@triton.jit
def _side_by_side(a, b, c, d, BLOCK: tl.constexpr, CHANNELS: tl.constexpr):
    """Numbers (BLOCK, CHANNELS) of the four places of windows, as (4 BLOCK, CHANNELS) in the order of `_places`."""
    four = tl.join(tl.join(a, b), tl.join(c, d))
    four = tl.reshape(four, (BLOCK // 4, 4, CHANNELS, 2, 2))
    return tl.reshape(tl.permute(four, (0, 4, 1, 3, 2)), (4 * BLOCK, CHANNELS))


@triton.jit
def _compared(
    mean, means, goals, sums, parts, n, window, windows, to, GOAL: tl.constexpr, OUT: tl.constexpr
):  # fmt: skip
    """Store means (BLOCK, OUT) over windows, or their differences from a goal, and a part of the sum of squares."""
    own = n * windows * OUT
    at = window[:, None] * OUT + to[None, :]
    ok = (window < windows)[:, None]
    if GOAL:
        mean -= tl.load(goals + own + at, mask=ok, other=0.0)
    tl.store(means + own + at, mean, mask=ok)
    squares = tl.where(ok, mean * mean, 0.0)
    tl.store(sums + n * parts + tl.program_id(0), tl.sum(tl.sum(squares, 1), 0))


@triton.jit
def _stem_at(
    image, scale, shift, weight, bias, slope, out, signs, y, x, height, width, columns, left, rows_out, columns_out,
    top_pad, left_pad, KEEP: tl.constexpr, BLOCK: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """The first convolution at some places (BLOCK,) of an image, activated and stored; in float32."""
    tap = tl.arange(0, 32)
    within = tap % 9
    down, across = within // 3 - top_pad, within % 3 - left_pad
    row, column = (y * 2)[:, None] + down[None, :], (x * 2)[:, None] + across[None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < columns) & (tap < 27)[None, :]
    from_ = (y * 2 * width + x * 2 + left)[:, None] + (tap // 9 * height * width + down * width + across)[None, :]
    values = tl.load(image + from_, mask=inside, other=0.0)
    values = tl.where(inside, values * tl.load(scale + tap)[None, :] + tl.load(shift + tap)[None, :], 0.0)
    to = tl.arange(0, OUT)
    found = tl.dot(values.to(weight.dtype), weight) + tl.load(bias + to)[None, :]
    ok = ((y < rows_out) & (x < columns_out))[:, None]
    place = y * columns_out + x
    if KEEP:
        _keep(signs, found, place, ok, 0, BLOCK, OUT, OUT)
    made = _activated(found, tl.load(slope + to))
    tl.store(out + place[:, None] * OUT + to[None, :], made.to(out.dtype.element_ty), mask=ok)
    return made


@triton.jit
def stem(
    image, scale, shift, weight, bias, slope, out, signs, means, goals, sums, parts, height, width, columns, left,
    rows_out, columns_out, top_pad, left_pad, KEEP: tl.constexpr, MEANS: tl.constexpr, GOAL: tl.constexpr,
    BLOCK: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """The first convolution, 3x3 with stride 2, of images (N, 3, H, W) in float32, normalised before, activated.

    A program has ``BLOCK`` windows of 2x2 of its map, one place of each after the other: so one thread has all four.
    """
    n = tl.program_id(1).to(tl.int64)
    window = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    across = (columns_out + 1) // 2
    y, x = window // across * 2, window % across * 2
    to = tl.arange(0, OUT)
    image += n * 3 * height * width
    out += n * rows_out * columns_out * OUT
    signs += n * rows_out * columns_out * (OUT // 8)
    matrix = tl.load(weight + tl.arange(0, 32)[:, None] * OUT + to[None, :])
    total = tl.zeros((BLOCK, OUT), tl.float32)
    for place in tl.static_range(4):
        total += _stem_at(
            image, scale, shift, matrix, bias, slope, out, signs, y + place // 2, x + place % 2, height, width,
            columns, left, rows_out, columns_out, top_pad, left_pad, KEEP, BLOCK, OUT,
        )  # fmt: skip
    if MEANS:
        _compared(total * 0.25, means, goals, sums, parts, n, window, rows_out * columns_out // 4, to, GOAL, OUT)


@triton.jit
def stem_backward(
    gathered, spread, scale, out, height, width, columns, left, rows_out, columns_out, top_pad, left_pad, across,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The derivative of :func:`stem` by the image, from that by what each place of its map took from it, (N, P, 32).

    Four pixels of three channels have what they gave from four places: a sum, for which ``spread`` (4, 32, 16) is the
    matrices. There are ``across`` such squares side by side; the first begins where the padding does.
    """
    n = tl.program_id(1).to(tl.int64)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j, i = number // across, number % across
    tap, to = tl.arange(0, 32), tl.arange(0, 16)
    gathered += n * rows_out * columns_out * 32
    total = tl.zeros((BLOCK, 16), tl.float32)
    for place in tl.static_range(4):
        row, column = j - place // 2, i - place % 2
        ok = (row >= 0) & (row < rows_out) & (column >= 0) & (column < columns_out)
        at = (row * columns_out + column)[:, None] * 32 + tap[None, :]
        values = tl.load(gathered + at, mask=ok[:, None], other=0.0)
        total = tl.dot(values, tl.load(spread + place * 512 + tap[:, None] * 16 + to[None, :]), total)
    channel = to // 4
    total = total * tl.load(scale + channel * 9, mask=channel < 3, other=0.0)[None, :]
    y = (2 * j - top_pad)[:, None] + (to % 4 // 2)[None, :]
    x = (2 * i - left_pad)[:, None] + (to % 2)[None, :]
    ok = (y >= 0) & (y < height) & (x >= 0) & (x < columns) & (channel < 3)[None, :]
    to_ = out + n * 3 * height * width + channel[None, :] * height * width + y * width + x + left
    tl.store(to_, total, mask=ok)


@triton.jit
def pointwise(
    x, weight, bias, slope, out, signs, places, KEEP: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
    IN: tl.constexpr, OUT: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """A 1x1 convolution of maps (places, IN) to (places, OUT), with its bias and activation, of some blocks."""
    from_ = tl.arange(0, IN)
    to = tl.program_id(1) * PART + tl.arange(0, PART)
    matrix = tl.load(weight + from_[:, None] * OUT + to[None, :])
    added = tl.load(bias + to)[None, :]
    slopes = tl.load(slope + to)
    for block in tl.range(0, BLOCKS, num_stages=1):
        place = (tl.program_id(0).to(tl.int64) * BLOCKS + block) * BLOCK + tl.arange(0, BLOCK)
        ok = (place < places)[:, None]
        values = tl.load(x + place[:, None] * IN + from_[None, :], mask=ok, other=0.0)
        found = tl.dot(values, matrix) + added
        if KEEP:
            _keep(signs, found, place, ok, tl.program_id(1) * PART, BLOCK, PART, OUT)
        found = _activated(found, slopes)
        tl.store(out + place[:, None] * OUT + to[None, :], found.to(out.dtype.element_ty), mask=ok)


@triton.jit
def depthwise_pointwise(
    x, depthwise, depthwise_bias, slope, weight, bias, residual, signs, out, rows, columns, rows_out, columns_out,
    top_pad, left_pad, RESIDUAL: tl.constexpr, KEEP: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr,
    IN: tl.constexpr, OUT: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """A 3x3 depthwise convolution, its activation, and a linear 1x1 convolution: (N, H, W, IN) to (N, H', W', OUT).

    With ``RESIDUAL`` a map is added at the end.
    """
    n = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = place < rows_out * columns_out
    y, x_ = place // columns_out, place % columns_out
    to = tl.arange(0, OUT)
    total = tl.zeros((BLOCK, OUT), tl.float32)
    # An image's own maps begin far behind the first's; within them 32 bits suffice.
    x += n * rows * columns * IN
    signs += n * rows_out * columns_out * (IN // 8)
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
                tap = tl.load(depthwise + (3 * down + across) * IN + channel)
                found += values.to(tl.float32) * tap.to(tl.float32)[None, :]
        found += tl.load(depthwise_bias + channel)[None, :]
        if KEEP:
            _keep(signs, found, place, ok[:, None], begin, BLOCK, PART, IN)
        found = _activated(found, tl.load(slope + channel))
        total = tl.dot(found.to(weight.dtype.element_ty), tl.load(weight + channel[:, None] * OUT + to[None, :]), total)
    total += tl.load(bias + to)[None, :]
    at = place[:, None] * OUT + to[None, :]
    if RESIDUAL:
        total += tl.load(residual + at, mask=ok[:, None], other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=ok[:, None])


@triton.jit
def _read(at, ok):
    """Numbers in float32; zeros where there are none."""
    return tl.load(at, mask=ok[:, None], other=0.0).to(tl.float32)


@triton.jit
def _taps(depthwise, channel, IN: tl.constexpr):
    """The nine taps (IN,) of a 3x3 depthwise convolution, row by row."""
    taps = depthwise + channel
    a, b, c = tl.load(taps), tl.load(taps + IN), tl.load(taps + 2 * IN)
    d, e, f = tl.load(taps + 3 * IN), tl.load(taps + 4 * IN), tl.load(taps + 5 * IN)
    g, h, i = tl.load(taps + 6 * IN), tl.load(taps + 7 * IN), tl.load(taps + 8 * IN)
    return a, b, c, d, e, f, g, h, i


@triton.jit
def _taken(total, first, second, third, tap, next_tap, last_tap):
    """A sum with what one row of a 3x3 depthwise convolution gives."""
    total += first * tap.to(tl.float32)[None, :]
    total += second * next_tap.to(tl.float32)[None, :]
    return total + third * last_tap.to(tl.float32)[None, :]


@triton.jit
def _convolved(
    x, y, column, rows, columns, channel, depthwise, once, STRIDE: tl.constexpr, BLOCK: tl.constexpr,
    IN: tl.constexpr,
):  # fmt: skip
    """The 3x3 depthwise convolution at the four places of windows of 2x2, from what is around these, each read once.

    ``y`` and ``column`` are where the first of the four begins to read.
    """
    a = tl.zeros((BLOCK, IN), tl.float32)
    b, c, d = a, a, a
    # In a loop the sums keep the layout in which numbers are read, which is the better one. There is one round, which
    # nothing here may know: what does not depend on it would be computed before.
    for shift in tl.range(0, once, num_stages=1):
        t0, t1, t2, t3, t4, t5, t6, t7, t8 = _taps(depthwise + shift * IN, channel, IN)
        for down in tl.static_range(3 + STRIDE):
            row = y + shift + down
            at = x + (row * columns + column)[:, None] * IN + channel[None, :]
            ok = (row >= 0) & (row < rows)
            first = _read(at, ok & (column >= 0) & (column < columns))
            second = _read(at + IN, ok & (column + 1 < columns))
            third = _read(at + 2 * IN, ok & (column + 2 < columns))
            fourth = _read(at + 3 * IN, ok & (column + 3 < columns))
            if STRIDE == 1:
                from_b, mid_b, last_b = second, third, fourth
            else:
                from_b, mid_b, last_b = third, fourth, _read(at + 4 * IN, ok & (column + 4 < columns))
            if down == 0:
                a = _taken(a, first, second, third, t0, t1, t2)
                b = _taken(b, from_b, mid_b, last_b, t0, t1, t2)
            if down == 1:
                a = _taken(a, first, second, third, t3, t4, t5)
                b = _taken(b, from_b, mid_b, last_b, t3, t4, t5)
            if down == 2:
                a = _taken(a, first, second, third, t6, t7, t8)
                b = _taken(b, from_b, mid_b, last_b, t6, t7, t8)
            if down == STRIDE:
                c = _taken(c, first, second, third, t0, t1, t2)
                d = _taken(d, from_b, mid_b, last_b, t0, t1, t2)
            if down == STRIDE + 1:
                c = _taken(c, first, second, third, t3, t4, t5)
                d = _taken(d, from_b, mid_b, last_b, t3, t4, t5)
            if down == STRIDE + 2:
                c = _taken(c, first, second, third, t6, t7, t8)
                d = _taken(d, from_b, mid_b, last_b, t6, t7, t8)
    return _side_by_side(a, b, c, d, BLOCK, IN)


@triton.jit(do_not_specialize=["once"])
def depthwise_pointwise_windows(
    x, depthwise, depthwise_bias, slope, weight, bias, residual, signs, out, means, goals, sums, parts, rows, columns,
    rows_out, columns_out, top_pad, left_pad, once, RESIDUAL: tl.constexpr, KEEP: tl.constexpr, STORE: tl.constexpr,
    MEANS: tl.constexpr, GOAL: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr, IN: tl.constexpr,
    OUT: tl.constexpr,
):  # fmt: skip
    """:func:`depthwise_pointwise` for ``BLOCK`` windows of 2x2 of the output, whose places share what they read.

    Means are of maps that fall into such windows; the map itself is there with ``STORE``.
    """
    n = tl.program_id(1).to(tl.int64)
    across = (columns_out + 1) // 2
    channel = tl.arange(0, IN)
    to = tl.arange(0, OUT)
    x += n * rows * columns * IN
    signs += n * rows_out * columns_out * (IN // 8)
    out += n * rows_out * columns_out * OUT
    residual += n * rows_out * columns_out * OUT
    window = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    found = _convolved(
        x, window // across * (2 * STRIDE) - top_pad, window % across * (2 * STRIDE) - left_pad, rows, columns, channel,
        depthwise, once, STRIDE, BLOCK, IN,
    )  # fmt: skip
    window, odd_row, odd_column = _places(BLOCK)
    y, column = window // across * 2 + odd_row, window % across * 2 + odd_column
    ok = ((y < rows_out) & (column < columns_out))[:, None]
    place = y * columns_out + column
    found += tl.load(depthwise_bias + channel)[None, :]
    if KEEP:
        _keep(signs, found, place, ok, 0, 4 * BLOCK, IN, IN)
    found = _activated(found, tl.load(slope + channel))
    total = tl.dot(found.to(weight.dtype.element_ty), tl.load(weight + channel[:, None] * OUT + to[None, :]))
    total += tl.load(bias + to)[None, :]
    at = place[:, None] * OUT + to[None, :]
    if RESIDUAL:
        total += tl.load(residual + at, mask=ok, other=0.0).to(tl.float32)
    if STORE:
        tl.store(out + at, total.to(out.dtype.element_ty), mask=ok)
    if MEANS:
        four = tl.reshape(total, (BLOCK // 4, 2, 4, 2, OUT))
        mean = tl.reshape(tl.sum(tl.sum(four, 3), 1), (BLOCK, OUT)) * 0.25
        window = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        _compared(mean, means, goals, sums, parts, n, window, rows_out * columns_out // 4, to, GOAL, OUT)


@triton.jit
def _pooled(pooled, factor, y, x, ok, to, rows_pooled, columns_pooled, OUT: tl.constexpr, WINDOW: tl.constexpr):
    """What the means over windows give back to the places (BLOCK) of a map, in its channels ``to``."""
    inside = ok & (y // WINDOW < rows_pooled) & (x // WINDOW < columns_pooled)
    from_ = (y // WINDOW * columns_pooled + x // WINDOW) * OUT
    spread = tl.load(pooled + from_[:, None] + to[None, :], mask=inside[:, None], other=0.0)
    return spread * (factor / (WINDOW * WINDOW))


@triton.jit
def pointwise_backward(
    gradient, pooled, factors, weight, signs, slope, out, rows_out, columns_out, rows_pooled, columns_pooled,
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
    signs += n * rows_out * columns_out * (IN // 8)
    out += n * rows_out * columns_out * IN
    if GRADIENT:
        at = place[:, None] * OUT + to[None, :]
        above += tl.load(gradient + at, mask=ok[:, None], other=0.0).to(tl.float32)
    if POOLED:
        y, x = place // columns_out, place % columns_out
        above += _pooled(pooled, tl.load(factors + n), y, x, ok, to, rows_pooled, columns_pooled, OUT, WINDOW)
    channel = tl.program_id(2) * PART + tl.arange(0, PART)
    given = tl.load(weight + to[:, None] * IN + channel[None, :])
    found = tl.dot(above.to(weight.dtype.element_ty), given)
    at = place[:, None] * IN + channel[None, :]
    found = _passed(found, signs, slope, place, ok[:, None], tl.program_id(2) * PART, BLOCK, PART, IN)
    tl.store(out + at, found.to(out.dtype.element_ty), mask=ok[:, None])


@triton.jit(do_not_specialize=["once"])
def depthwise_backward_windows(
    gradient, flipped, signs, slope_in, pooled_in, weight, residual, pooled, factors, out, rows, columns, once,
    POOLED_IN: tl.constexpr, RESIDUAL: tl.constexpr, POOLED: tl.constexpr, BLOCK: tl.constexpr, IN: tl.constexpr,
    OUT: tl.constexpr,
):  # fmt: skip
    """:func:`depthwise_backward` with stride 1, for ``BLOCK`` windows of 2x2; ``flipped`` are its taps, last first.

    The means are those over such windows, which give the same to all four places.
    """
    n = tl.program_id(1).to(tl.int64)
    across = (columns + 1) // 2
    channel = tl.arange(0, IN)
    to = tl.arange(0, OUT)
    pooled_rows, pooled_columns = rows // 2, columns // 2
    gradient += n * rows * columns * IN
    signs += n * rows * columns * (IN // 8)
    pooled_in += n * pooled_rows * pooled_columns * IN
    residual += n * rows * columns * OUT
    pooled += n * pooled_rows * pooled_columns * OUT
    out += n * rows * columns * OUT
    factor = tl.load(factors + n) / 4
    window = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    found = _convolved(
        gradient, window // across * 2 - 1, window % across * 2 - 1, rows, columns, channel, flipped, once, 1, BLOCK, IN
    )
    window, odd_row, odd_column = _places(BLOCK)
    down, beside = window // across, window % across
    whole = ((down < pooled_rows) & (beside < pooled_columns))[:, None]
    at_window = (down * pooled_columns + beside)[:, None]
    y, column = down * 2 + odd_row, beside * 2 + odd_column
    ok = ((y < rows) & (column < columns))[:, None]
    place = y * columns + column
    if POOLED_IN:
        found += tl.load(pooled_in + at_window * IN + channel[None, :], mask=whole, other=0.0) * factor
    found = _passed(found, signs, slope_in, place, ok, 0, 4 * BLOCK, IN, IN)
    total = tl.dot(found.to(weight.dtype.element_ty), tl.load(weight + channel[:, None] * OUT + to[None, :]))
    at = place[:, None] * OUT + to[None, :]
    if RESIDUAL:
        total += tl.load(residual + at, mask=ok, other=0.0).to(tl.float32)
    if POOLED:
        total += tl.load(pooled + at_window * OUT + to[None, :], mask=whole, other=0.0) * factor
    tl.store(out + at, total.to(out.dtype.element_ty), mask=ok)


@triton.jit
def depthwise_backward(
    gradient, depthwise, signs, slope_in, pooled_in, weight, residual, pooled, factors, out, rows, columns,
    rows_out, columns_out, top_pad, left_pad, rows_pooled_in, columns_pooled_in, rows_pooled, columns_pooled,
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
    # Programs of the four kinds stand side by side: they read the same.
    number = tl.program_id(0) // (STRIDE * STRIDE) * BLOCK + tl.arange(0, BLOCK)
    if STRIDE == 1:
        y, x_ = number // columns, number % columns
        first_row, first_column, most_rows, most_columns = 0, 0, 3, 3
    else:
        kind = tl.program_id(0) % 4
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
    signs += n * rows * columns * (IN // 8)
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
                    found += values.to(tl.float32) * tap.to(tl.float32)[None, :]
            else:
                for across_ in range(most_columns):
                    tap_column = first_column + across_ * STRIDE
                    column = (x_ + left_pad - tap_column) // STRIDE
                    inside = within & (x_ + left_pad >= tap_column) & (column < columns_out)
                    from_ = (row * columns_out + column) * IN
                    values = tl.load(gradient + from_[:, None] + channel[None, :], mask=inside[:, None], other=0.0)
                    tap = tl.load(depthwise + (3 * tap_row + tap_column) * IN + channel)
                    found += values.to(tl.float32) * tap.to(tl.float32)[None, :]
        if POOLED_IN:
            found += _pooled(
                pooled_in, tl.load(factors + n), y, x_, ok, channel, rows_pooled_in, columns_pooled_in, IN, WINDOW
            )
        found = _passed(found, signs, slope_in, place, ok[:, None], begin, BLOCK, PART, IN)
        given = tl.load(weight + channel[:, None] * OUT + to[None, :])
        total = tl.dot(found.to(weight.dtype.element_ty), given, total)
    at = place[:, None] * OUT + to[None, :]
    if RESIDUAL:
        total += tl.load(residual + at, mask=ok[:, None], other=0.0).to(tl.float32)
    if POOLED:
        total += _pooled(pooled, tl.load(factors + n), y, x_, ok, to, rows_pooled, columns_pooled, OUT, WINDOW)
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
def _tap(plane, smoothing, tap, y, x, ok, height, width, RADIUS: tl.constexpr):
    """What a tap of a square kernel gives to places (BLOCK,) of a plane; of what is not finite nothing."""
    row, column = y + tap // (2 * RADIUS + 1) - RADIUS, x + tap % (2 * RADIUS + 1) - RADIUS
    inside = ok & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    value = tl.load(plane + row * width + column, mask=inside, other=0.0)
    # Of an image that is no longer moved there may be anything.
    return tl.where(tl.abs(value) < float("inf"), value, 0.0) * tl.load(smoothing + tap)


@triton.jit
def descend(current, gradient, factor, smoothing, height, width, RADIUS: tl.constexpr, BLOCK: tl.constexpr):
    """Planes (N * 3, H, W), in place: current - factor * (gradient, smoothed by a square kernel), within [0, 1]."""
    plane = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = place < height * width
    y, x = place // width, place % width
    begin = plane * height * width
    total = tl.zeros((BLOCK,), tl.float32)
    # Written out, the hundreds of taps of a large kernel take minutes to build.
    if RADIUS <= 2:
        for tap in tl.static_range((2 * RADIUS + 1) * (2 * RADIUS + 1)):
            total += _tap(gradient + begin, smoothing, tap, y, x, ok, height, width, RADIUS)
    else:
        for tap in tl.range(0, (2 * RADIUS + 1) * (2 * RADIUS + 1)):
            total += _tap(gradient + begin, smoothing, tap, y, x, ok, height, width, RADIUS)
    moved = tl.load(current + begin + place, mask=ok, other=0.0) - tl.load(factor + plane // 3) * total
    tl.store(current + begin + place, tl.minimum(tl.maximum(moved, 0.0), 1.0), mask=ok)
