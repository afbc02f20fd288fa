"""Loops in Numba for processors: an image through the first units of a network, and back, in one call.

Maps are float32 in the layout (H, W, C), so that the innermost loop runs over channels and is made of the processor's
vectors. What reads and writes a map is one loop nest: a convolution with its activation, an activation with the means
of what comes of it, and each of their derivatives. Of what stood before an activation the derivative needs the sign
alone: a byte a number (``signs``, 1 above 0). Products of matrices are those of the BLAS that comes with SciPy. No loop
here starts threads, and Python's lock is let go for an image's whole way.

:mod:`pmtlib.networks.image_wise` writes the programs that :func:`forward` and :func:`backward` go through, a row a
layer; without Numba nothing here is used.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

# Numba finds the types of these functions by itself, and compiles one for each kind of argument.
# mypy: ignore-errors

POINTWISE, DEPTHWISE, PICTURE = range(3)
"""Kinds of layers: a 1x1 convolution, a depthwise one of 3x3, and any that sees a picture of few channels."""
FIELDS = (
    "kind", "height", "width", "channels", "rows", "columns", "outputs", "stride", "top", "left", "kernel", "length",
    "weight", "transposed", "bias", "slopes", "signs", "first", "last", "residual", "means",
)  # fmt: skip
"""Of a row of a program: sizes of what a layer gets and makes; its stride, zeros above and before, and windows (rows of
so many numbers); where in the weights its matrix, its transposed matrix, its bias and its slopes begin; where in the
signs its own do; whether it begins or ends a unit; whether that adds its input; and where in the means those of the
unit begin, or -1."""
(
    _KIND, _HEIGHT, _WIDTH, _CHANNELS, _ROWS, _COLUMNS, _OUTPUTS, _STRIDE, _TOP, _LEFT, _KERNEL, _LENGTH, _WEIGHT,
    _TRANSPOSED, _BIAS, _SLOPES, _SIGNS, _FIRST, _LAST, _RESIDUAL, _MEANS,
) = range(len(FIELDS))  # fmt: skip


def _kept_on_disk() -> bool:
    """Whether what is compiled can be kept for the next process: some folder can be written to."""
    try:
        numba.njit(cache=True)(_kept_on_disk)
    except RuntimeError:
        return False
    return True


_OPTIONS: Any = {"nogil": True, "cache": _kept_on_disk(), "error_model": "numpy"}
_loop: Any = numba.njit(fastmath={"contract", "nsz"}, **_OPTIONS)
_sum: Any = numba.njit(fastmath={"contract", "nsz", "reassoc"}, **_OPTIONS)


@_loop
def patches(picture, padded, out, stride, top, left):
    """What a convolution sees of a picture of few channels at each of its places.

    Args:
        picture: (C, H, W).
        padded: room for the picture with zeros around, (H + zeros, W + zeros, C).
        out: where it is put, (H', W', k, l * C): the rows of each place's window.
        stride: of both axes.
        top: zeros above the picture.
        left: zeros before its rows.
    """
    channels, height, width = picture.shape
    padded[:] = 0
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                padded[y + top, x + left, c] = picture[c, y, x]
    lines = padded.reshape(padded.shape[0], -1)
    rows, columns, kernel, length = out.shape
    for r in range(rows):
        for u in range(kernel):
            line = lines[r * stride + u]
            for k in range(columns):
                begin = k * stride * channels
                if length == 9:
                    # The usual window, of three columns of three channels, without a loop.
                    for n in range(9):
                        out[r, k, u, n] = line[begin + n]
                else:
                    for n in range(length):
                        out[r, k, u, n] = line[begin + n]


@_loop
def patches_backward(gradient, padded, out, stride, top, left):
    """The derivative by the picture, (C, H, W), of that by its :func:`patches`."""
    channels, height, width = out.shape
    padded[:] = 0
    lines = padded.reshape(padded.shape[0], -1)
    rows, columns, kernel, length = gradient.shape
    for r in range(rows):
        for u in range(kernel):
            line = lines[r * stride + u]
            for k in range(columns):
                begin = k * stride * channels
                if length == 9:
                    for n in range(9):
                        line[begin + n] += gradient[r, k, u, n]
                else:
                    for n in range(length):
                        line[begin + n] += gradient[r, k, u, n]
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                out[c, y, x] = padded[y + top, x + left, c]


@_loop
def activate(values, begin, end, bias, slopes, signs):
    """Some rows of a map (H * W, C), in place: a bias is added, and what is below 0 multiplied by a channel's slope."""
    channels = values.shape[1]
    for p in range(begin, end):
        for c in range(channels):
            v = values[p, c] + bias[c]
            signs[p, c] = v > 0
            values[p, c] = v if v > 0 else slopes[c] * v


@_loop
def window_means(values, width, r, means, window):
    """Means of a map (H * W, C) over the r-th row of windows of w x w, (H // w * W // w, C)."""
    channels = values.shape[1]
    share = np.float32(1.0) / np.float32(window * window)
    across = width // window
    for k in range(across):
        m = r * across + k
        p = r * window * width + k * window
        if window == 2:
            q = p + width
            for c in range(channels):
                total = values[p, c] + values[p + 1, c] + values[q, c] + values[q + 1, c]
                means[m, c] = total * share
        else:
            for c in range(channels):
                means[m, c] = 0
            for a in range(window):
                for b in range(window):
                    for c in range(channels):
                        means[m, c] += values[p + a * width + b, c]
            for c in range(channels):
                means[m, c] *= share


@_loop
def activate_backward(gradient, height, width, follows, means, given, window, slopes, signs, ends):
    """The derivative by a layer's convolution of that by its output and by the means of that, in place.

    Args:
        gradient: by the output from what follows, (H * W, C).
        height: H.
        width: W.
        follows: whether anything does; else ``gradient`` holds nothing yet.
        means: the derivative by the means over windows, (H // w * W // w, C).
        given: whether there is one.
        window: w.
        slopes: of the activation below 0, (C,).
        signs: what :func:`activate` put there, (H * W, C).
        ends: whether the activation is to be gone through.
    """
    channels = gradient.shape[1]
    share = np.float32(1.0) / np.float32(window * window)
    down, across = height // window, width // window
    for y in range(height):
        for x in range(width):
            p = y * width + x
            r, k = y // window, x // window
            if given and r < down and k < across:
                m = r * across + k
                if follows:
                    for c in range(channels):
                        gradient[p, c] += means[m, c] * share
                else:
                    for c in range(channels):
                        gradient[p, c] = means[m, c] * share
            elif not follows:
                for c in range(channels):
                    gradient[p, c] = 0
            if ends:
                for c in range(channels):
                    v = gradient[p, c]
                    gradient[p, c] = v if signs[p, c] else slopes[c] * v


@_loop
def depthwise(values, taps, bias, slopes, signs, out, stride, top, left):
    """A depthwise convolution of 3x3 with its activation.

    Args:
        values: a map (H, W, C).
        taps: (9, C), row by row.
        bias: (C,).
        slopes: of the activation below 0, (C,).
        signs: where to put the signs, (H' * W', C).
        out: where the result is put, (H', W', C).
        stride: of both axes.
        top: zeros above the map.
        left: zeros before its rows.
    """
    height, width, channels = values.shape
    rows, columns = out.shape[:2]
    flat = out.reshape(rows * columns, channels)
    for r in range(rows):
        a = r * stride - top
        for k in range(columns):
            b = k * stride - left
            if a >= 0 and a + 2 < height and b >= 0 and b + 2 < width:
                for c in range(channels):
                    v = values[a, b, c] * taps[0, c]
                    v += values[a, b + 1, c] * taps[1, c]
                    v += values[a, b + 2, c] * taps[2, c]
                    v += values[a + 1, b, c] * taps[3, c]
                    v += values[a + 1, b + 1, c] * taps[4, c]
                    v += values[a + 1, b + 2, c] * taps[5, c]
                    v += values[a + 2, b, c] * taps[6, c]
                    v += values[a + 2, b + 1, c] * taps[7, c]
                    v += values[a + 2, b + 2, c] * taps[8, c]
                    out[r, k, c] = v
            else:
                for c in range(channels):
                    out[r, k, c] = 0
                for u in range(max(-a, 0), min(height - a, 3)):
                    for v in range(max(-b, 0), min(width - b, 3)):
                        for c in range(channels):
                            out[r, k, c] += values[a + u, b + v, c] * taps[3 * u + v, c]
        activate(flat, r * columns, (r + 1) * columns, bias, slopes, signs)


@_loop
def _gathered(gradient, taps, out, stride, y, x, top, left):
    """The derivative of a depthwise convolution at one place, wherever it is."""
    rows, columns, channels = gradient.shape
    for c in range(channels):
        out[y, x, c] = 0
    for u in range(3):
        a = y + top - u
        if a < 0 or a % stride or a // stride >= rows:
            continue
        for v in range(3):
            b = x + left - v
            if b < 0 or b % stride or b // stride >= columns:
                continue
            for c in range(channels):
                out[y, x, c] += gradient[a // stride, b // stride, c] * taps[3 * u + v, c]


@_loop
def depthwise_backward(gradient, taps, out, stride, top, left, slopes, signs, before, slopes_in, signs_in):
    """The derivative of :func:`depthwise` by its input, or by what stood before an activation of that.

    Args:
        gradient: by the result, (H', W', C); becomes the derivative by what stood before the activation.
        taps: (9, C).
        out: where the derivative is put, (H, W, C).
        stride: of both axes.
        top: zeros above the map.
        left: zeros before its rows.
        slopes: of the activation, (C,).
        signs: what :func:`depthwise` put there, (H' * W', C).
        before: whether an activation before the convolution is to be gone through.
        slopes_in: of that one, (C,).
        signs_in: its signs, (H * W, C).
    """
    rows, columns, channels = gradient.shape
    height, width = out.shape[:2]
    reach = 2 // stride
    ready = 0
    for y in range(height):
        while ready < rows and ready * stride - top <= y:
            # A row's activation right before the row is first needed.
            for k in range(columns):
                for c in range(channels):
                    v = gradient[ready, k, c]
                    gradient[ready, k, c] = v if signs[ready * columns + k, c] else slopes[c] * v
            ready += 1
        a = (y + top) // stride
        inside = stride <= 2 and a - reach >= 0 and a < rows
        for x in range(width):
            b = (x + left) // stride
            if not (inside and b - reach >= 0 and b < columns):
                _gathered(gradient, taps, out, stride, y, x, top, left)
            elif stride == 1:
                for c in range(channels):
                    v = gradient[a, b, c] * taps[0, c]
                    v += gradient[a, b - 1, c] * taps[1, c]
                    v += gradient[a, b - 2, c] * taps[2, c]
                    v += gradient[a - 1, b, c] * taps[3, c]
                    v += gradient[a - 1, b - 1, c] * taps[4, c]
                    v += gradient[a - 1, b - 2, c] * taps[5, c]
                    v += gradient[a - 2, b, c] * taps[6, c]
                    v += gradient[a - 2, b - 1, c] * taps[7, c]
                    v += gradient[a - 2, b - 2, c] * taps[8, c]
                    out[y, x, c] = v
            # With a stride of two a place is seen through one, two or four taps.
            elif (y + top) % 2 and (x + left) % 2:
                for c in range(channels):
                    out[y, x, c] = gradient[a, b, c] * taps[4, c]
            elif (y + top) % 2:
                for c in range(channels):
                    out[y, x, c] = gradient[a, b, c] * taps[3, c] + gradient[a, b - 1, c] * taps[5, c]
            elif (x + left) % 2:
                for c in range(channels):
                    out[y, x, c] = gradient[a, b, c] * taps[1, c] + gradient[a - 1, b, c] * taps[7, c]
            else:
                for c in range(channels):
                    v = gradient[a, b, c] * taps[0, c] + gradient[a, b - 1, c] * taps[2, c]
                    v += gradient[a - 1, b, c] * taps[6, c] + gradient[a - 1, b - 1, c] * taps[8, c]
                    out[y, x, c] = v
        if before:
            for x in range(width):
                for c in range(channels):
                    v = out[y, x, c]
                    out[y, x, c] = v if signs_in[y * width + x, c] else slopes_in[c] * v


@_sum
def square_sum(values):
    """The sum of the squares of numbers (F,), in float64."""
    total = 0.0
    for f in range(len(values)):
        total += np.float64(values[f] * values[f])
    return total


@_sum
def difference(own, goal):
    """Numbers (F,) less others, in place, and the sum of the squares of what is left, in float64."""
    total = 0.0
    for f in range(len(own)):
        left = own[f] - goal[f]
        own[f] = left
        total += np.float64(left * left)
    return total


@_loop
def _next(at, unit, residual):
    """The first of three rooms that is neither the one at hand nor, where that is added later, a unit's first or last.

    Two are enough for most networks, and are more likely to stay in a cache.
    """
    for room in range(2):
        if room != at and not (residual and room == unit):
            return room
    return 2


@_loop
def forward(program, weights, picture, rooms, seen, padded, signs, means, window):
    """An image through all layers.

    Args:
        program: (layers, len(FIELDS)) in int64.
        weights: all layers' matrices, biases and slopes, one after the other.
        picture: as the network prepares it, (C, H, W).
        rooms: room for maps, (3, numbers of the largest).
        seen: room for what the first convolution sees, at least H' * W' * k * l * C numbers.
        padded: room for the picture with zeros around, (H + zeros, W + zeros, C).
        signs: where to put the signs before all activations.
        means: where to put the means over windows of units' outputs.
        window: the windows' side.

    Returns:
        Which of the rooms holds the last unit's output.
    """
    at, unit = 0, 0
    for layer in range(len(program)):
        line = program[layer]
        height, width, channels = line[_HEIGHT], line[_WIDTH], line[_CHANNELS]
        rows, columns, outputs = line[_ROWS], line[_COLUMNS], line[_OUTPUTS]
        places, count = rows * columns, rows * columns * outputs
        bias = weights[line[_BIAS] : line[_BIAS] + outputs]
        slopes = weights[line[_SLOPES] : line[_SLOPES] + outputs]
        own = signs[line[_SIGNS] : line[_SIGNS] + count].reshape(places, outputs)
        if line[_FIRST]:
            unit = at
        to = _next(at, unit, line[_RESIDUAL])
        made = rooms[to][:count].reshape(places, outputs)
        begin = line[_WEIGHT]
        if line[_KIND] == DEPTHWISE:
            given = rooms[at][: height * width * channels].reshape(height, width, channels)
            taps = weights[begin : begin + 9 * channels].reshape(9, channels)
            whole = rooms[to][:count].reshape(rows, columns, outputs)
            depthwise(given, taps, bias, slopes, own, whole, line[_STRIDE], line[_TOP], line[_LEFT])
        elif line[_KIND] == PICTURE:
            kernel, length = line[_KERNEL], line[_LENGTH]
            shown = seen[: places * kernel * length]
            found = shown.reshape(rows, columns, kernel, length)
            patches(picture, padded, found, line[_STRIDE], line[_TOP], line[_LEFT])
            matrix = weights[begin : begin + kernel * length * outputs].reshape(kernel * length, outputs)
            np.dot(shown.reshape(places, kernel * length), matrix, made)
        else:
            given = rooms[at][: height * width * channels].reshape(height * width, channels)
            np.dot(given, weights[begin : begin + channels * outputs].reshape(channels, outputs), made)
        if line[_LAST] and line[_RESIDUAL]:
            skipped = rooms[unit][:count].reshape(places, outputs)
            for p in range(places):
                for c in range(outputs):
                    made[p, c] += skipped[p, c]
        wanted = line[_LAST] and line[_MEANS] >= 0
        for r in range((rows + window - 1) // window):
            first, end = r * window * columns, min((r + 1) * window, rows) * columns
            if line[_KIND] != DEPTHWISE:
                activate(made, first, end, bias, slopes, own)
            if wanted and (r + 1) * window <= rows:
                # The rows of a window are still at hand when their means are taken.
                size = (rows // window) * (columns // window) * outputs
                room = means[line[_MEANS] : line[_MEANS] + size].reshape(-1, outputs)
                window_means(made, columns, r, room, window)
        at = to
    return at


@_loop
def backward(program, weights, rooms, seen, padded, signs, means, window, out):
    """The derivative by an image, of that by the means of units' outputs.

    Args:
        program: as :func:`forward` takes it.
        weights: likewise.
        rooms: likewise; what it left there is not looked at.
        seen: likewise.
        padded: likewise.
        signs: what it put there.
        means: the derivative by the means.
        window: the windows' side.
        out: where the derivative is put, (C, H, W).
    """
    at, unit = 0, 0
    follows = False
    for layer in range(len(program) - 1, -1, -1):
        line = program[layer]
        height, width, channels = line[_HEIGHT], line[_WIDTH], line[_CHANNELS]
        rows, columns, outputs = line[_ROWS], line[_COLUMNS], line[_OUTPUTS]
        places, count = rows * columns, rows * columns * outputs
        slopes = weights[line[_SLOPES] : line[_SLOPES] + outputs]
        own = signs[line[_SIGNS] : line[_SIGNS] + count].reshape(places, outputs)
        gradient = rooms[at][:count].reshape(places, outputs)
        if line[_LAST]:
            given = line[_MEANS] >= 0
            if not given and not follows:
                # Units behind the last whose means are asked for.
                continue
            size = (rows // window) * (columns // window) * outputs if given else 0
            begin = max(line[_MEANS], 0)
            room = means[begin : begin + size].reshape(-1, outputs)
            ends = line[_KIND] != DEPTHWISE
            activate_backward(gradient, rows, columns, follows, room, given, window, slopes, own, ends)
            follows = True
            unit = at
        elif not follows:
            continue
        to = _next(at, unit, line[_RESIDUAL])
        made = rooms[to][: height * width * channels]
        before = layer > 0 and not line[_FIRST] and program[layer - 1, _KIND] != DEPTHWISE
        inner = program[layer - 1] if before else line
        inside = height * width * channels if before else 0
        slopes_in = weights[inner[_SLOPES] : inner[_SLOPES] + channels]
        signs_in = signs[inner[_SIGNS] : inner[_SIGNS] + inside].reshape(-1, channels)
        if line[_KIND] == DEPTHWISE:
            taps = weights[line[_WEIGHT] : line[_WEIGHT] + 9 * channels].reshape(9, channels)
            depthwise_backward(
                rooms[at][:count].reshape(rows, columns, outputs), taps, made.reshape(height, width, channels),
                line[_STRIDE], line[_TOP], line[_LEFT], slopes, own, before, slopes_in, signs_in,
            )  # fmt: skip
        elif line[_KIND] == PICTURE:
            kernel, length = line[_KERNEL], line[_LENGTH]
            begin = line[_TRANSPOSED]
            matrix = weights[begin : begin + outputs * kernel * length].reshape(outputs, kernel * length)
            shown = seen[: places * kernel * length]
            np.dot(gradient, matrix, shown.reshape(places, kernel * length))
            found = shown.reshape(rows, columns, kernel, length)
            patches_backward(found, padded, out, line[_STRIDE], line[_TOP], line[_LEFT])
        else:
            begin = line[_TRANSPOSED]
            matrix = weights[begin : begin + outputs * channels].reshape(outputs, channels)
            np.dot(gradient, matrix, made.reshape(height * width, channels))
            if before:
                flat = made.reshape(height * width, channels)
                given = False
                activate_backward(flat, height, width, follows, flat, given, window, slopes_in, signs_in, before)
        if line[_FIRST] and line[_RESIDUAL]:
            skipped = rooms[unit]
            for n in range(len(made)):
                made[n] += skipped[n]
        at = to
