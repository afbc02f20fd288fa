/* An image through the first units of a network, and back, in one call each, on one thread.
 *
 * Maps are float32 in the layout (H, W, C), so that the innermost loop runs over channels and is made of the
 * processor's vectors. What reads and writes a map is one loop nest: an activation with the means of what comes of it,
 * a convolution with the activation behind it, and each of their derivatives. Of what stood before an activation the
 * derivative needs the sign alone: a byte a number ("signs", 1 above 0). Products of matrices are those of the BLAS
 * whose sgemm is given.
 *
 * pmtlib/networks/image_wise.py writes the programs that forward and backward go through, a row of FIELDS a layer, and
 * builds this file, with the names of the fields (enum) and of the kinds of layers before it.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef float *restrict out_t;
typedef const float *restrict in_t;
typedef void (*sgemm_t)(char *, char *, int *, int *, int *, float *, float *, int *, float *, int *, float *, float *,
                        int *);

typedef struct {
    const int64_t *program; /* (layers, FIELD_COUNT) */
    int64_t layers;
    const float *weights; /* all layers' matrices, biases and slopes, one after the other */
    sgemm_t sgemm;
    float *rooms; /* room for three maps, each of `room` numbers */
    int64_t room;
    float *seen;   /* room for what the first convolution sees, (H', W', k, l * C) */
    float *padded; /* room for the picture with zeros around, (padded_rows, padded_columns, C) */
    int64_t padded_rows, padded_columns;
    uint8_t *signs;
    int64_t window; /* side of the windows of means */
} Work;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* made (rows, outputs) = given (rows, inputs) times matrix (inputs, outputs), or its transposed (outputs, inputs). */
static void product(sgemm_t sgemm, const float *given, const float *matrix, float *made, int rows, int inputs,
                    int outputs, int transposed) {
    /* By columns, as BLAS sees it, everything is transposed. */
    float one = 1, none = 0;
    int lines = transposed ? inputs : outputs;
    sgemm(transposed ? "T" : "N", "N", &outputs, &rows, &inputs, &one, (float *)matrix, &lines, (float *)given, &inputs,
          &none, made, &outputs);
}

/* What a convolution sees of a picture (C, H, W) of few channels at each of its places: rows of each one's window. */
static void patches(in_t picture, int64_t channels, int64_t height, int64_t width, const Work *work, const int64_t *line) {
    float *restrict padded = work->padded;
    int64_t across = work->padded_columns * channels, length = line[LENGTH];
    memset(padded, 0, sizeof(float) * work->padded_rows * across);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x++)
                padded[(y + line[TOP]) * across + (x + line[LEFT]) * channels + c] = picture[(c * height + y) * width + x];
    float *restrict to = work->seen;
    for (int64_t r = 0; r < line[ROWS]; r++)
        for (int64_t k = 0; k < line[COLUMNS]; k++)
            for (int64_t u = 0; u < line[KERNEL]; u++) {
                in_t from = padded + (r * line[STRIDE] + u) * across + k * line[STRIDE] * channels;
                if (length == 9) /* the usual window: three columns of three channels */
                    for (int n = 0; n < 9; n++) to[n] = from[n];
                else
                    for (int64_t n = 0; n < length; n++) to[n] = from[n];
                to += length;
            }
}

/* The derivative by the picture, (C, H, W), of that by its patches, which stands in work->seen. */
static void patches_backward(out_t picture, int64_t channels, int64_t height, int64_t width, const Work *work,
                             const int64_t *line) {
    float *restrict padded = work->padded;
    int64_t across = work->padded_columns * channels, length = line[LENGTH];
    memset(padded, 0, sizeof(float) * work->padded_rows * across);
    in_t from = work->seen;
    for (int64_t r = 0; r < line[ROWS]; r++)
        for (int64_t k = 0; k < line[COLUMNS]; k++)
            for (int64_t u = 0; u < line[KERNEL]; u++) {
                float *to = padded + (r * line[STRIDE] + u) * across + k * line[STRIDE] * channels;
                if (length == 9)
                    for (int n = 0; n < 9; n++) to[n] += from[n];
                else
                    for (int64_t n = 0; n < length; n++) to[n] += from[n];
                from += length;
            }
    for (int64_t c = 0; c < channels; c++)
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x++)
                picture[(c * height + y) * width + x] = padded[(y + line[TOP]) * across + (x + line[LEFT]) * channels + c];
}

/* Places of a map, in place: a bias is added, and what is below 0 multiplied by a channel's slope. */
static void activate(out_t values, int64_t places, int64_t channels, in_t bias, in_t slopes, uint8_t *restrict signs) {
    for (int64_t p = 0; p < places; p++, values += channels, signs += channels)
        for (int64_t c = 0; c < channels; c++) {
            float v = values[c] + bias[c];
            signs[c] = v > 0;
            values[c] = v > 0 ? v : slopes[c] * v;
        }
}

static void activate_backward(out_t gradient, int64_t places, int64_t channels, in_t slopes,
                              const uint8_t *restrict signs) {
    for (int64_t p = 0; p < places; p++, gradient += channels, signs += channels)
        for (int64_t c = 0; c < channels; c++) gradient[c] *= signs[c] ? 1.0f : slopes[c];
}

/* Means of a map over one row of windows of w x w that begins at values. */
static void window_means(in_t values, int64_t width, int64_t channels, out_t means, int64_t window) {
    float share = 1.0f / (window * window);
    for (int64_t k = 0; k < width / window; k++, means += channels) {
        in_t p = values + k * window * channels;
        if (window == 2) {
            in_t q = p + width * channels;
            for (int64_t c = 0; c < channels; c++)
                means[c] = (p[c] + p[channels + c] + q[c] + q[channels + c]) * share;
            continue;
        }
        for (int64_t c = 0; c < channels; c++) means[c] = 0;
        for (int64_t a = 0; a < window; a++)
            for (int64_t b = 0; b < window; b++)
                for (int64_t c = 0; c < channels; c++) means[c] += p[(a * width + b) * channels + c];
        for (int64_t c = 0; c < channels; c++) means[c] *= share;
    }
}

/* To the derivative by a map (H, W, C) that by its means is added; where nothing follows, it is that alone. */
static void means_backward(out_t gradient, int64_t height, int64_t width, int64_t channels, int follows, in_t means,
                           int64_t window) {
    float share = 1.0f / (window * window);
    int64_t down = means ? height / window : 0, across = width / window;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++, gradient += channels) {
            int64_t r = y / window, k = x / window;
            if (r < down && k < across) {
                in_t m = means + (r * across + k) * channels;
                if (follows)
                    for (int64_t c = 0; c < channels; c++) gradient[c] += m[c] * share;
                else
                    for (int64_t c = 0; c < channels; c++) gradient[c] = m[c] * share;
            } else if (!follows)
                for (int64_t c = 0; c < channels; c++) gradient[c] = 0;
        }
}

/* Four neighbours in a row of a depthwise convolution of 3x3 without a stride; `across` numbers are a row of the map. */
static void four(in_t x, int64_t across, int64_t channels, in_t taps, out_t out) {
    int64_t n = channels;
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; c++) {
        float p = 0, q = 0, s = 0, t = 0;
        for (int u = 0; u < 3; u++) {
            in_t row = x + u * across + c, tap = taps + 3 * u * n + c;
            float a = tap[0], b = tap[n], d = tap[2 * n];
            float r1 = row[n], r2 = row[2 * n], r3 = row[3 * n], r4 = row[4 * n];
            p += row[0] * a + r1 * b + r2 * d;
            q += r1 * a + r2 * b + r3 * d;
            s += r2 * a + r3 * b + r4 * d;
            t += r3 * a + r4 * b + row[5 * n] * d;
        }
        out[c] = p, out[n + c] = q, out[2 * n + c] = s, out[3 * n + c] = t;
    }
}

/* One place of the same, with or without a stride, whose window begins at row a and column b, maybe outside. */
static void one(in_t x, int64_t height, int64_t width, int64_t channels, int64_t a, int64_t b, in_t taps, out_t out) {
    int64_t n = channels, across = width * channels;
    if (a >= 0 && a + 2 < height && b >= 0 && b + 2 < width) {
        in_t row = x + a * across + b * n;
        for (int64_t c = 0; c < n; c++) {
            float v = 0;
            for (int u = 0; u < 3; u++)
                for (int w = 0; w < 3; w++) v += row[u * across + w * n + c] * taps[(3 * u + w) * n + c];
            out[c] = v;
        }
        return;
    }
    for (int64_t c = 0; c < n; c++) out[c] = 0;
    for (int64_t u = most(-a, 0); u < least(height - a, 3); u++)
        for (int64_t w = most(-b, 0); w < least(width - b, 3); w++) {
            in_t place = x + (a + u) * across + (b + w) * n, tap = taps + (3 * u + w) * n;
            for (int64_t c = 0; c < n; c++) out[c] += place[c] * tap[c];
        }
}

/* A depthwise convolution of 3x3 of a map (H, W, C), with its activation. */
static void depthwise(in_t x, in_t taps, in_t bias, in_t slopes, uint8_t *signs, float *out, const int64_t *line) {
    int64_t height = line[HEIGHT], width = line[WIDTH], n = line[CHANNELS], stride = line[STRIDE];
    int64_t columns = line[COLUMNS], left = line[LEFT], across = columns * n;
    for (int64_t r = 0; r < line[ROWS]; r++) {
        int64_t a = r * stride - line[TOP], k = 0;
        float *row = out + r * across;
        int blocks = stride == 1 && a >= 0 && a + 2 < height;
        while (k < columns) {
            int64_t b = k * stride - left;
            if (blocks && b >= 0 && b + 5 < width && k + 3 < columns) {
                four(x + (a * width + b) * n, width * n, n, taps, row + k * n);
                k += 4;
            } else {
                one(x, height, width, n, a, b, taps, row + k * n);
                k++;
            }
        }
        activate(row, columns, n, bias, slopes, signs + r * across);
    }
}

/* The derivative of a depthwise convolution with a stride at one place (y, x), wherever it is. */
static void gathered(in_t g, in_t taps, out_t out, const int64_t *line, int64_t y, int64_t x) {
    int64_t n = line[CHANNELS], stride = line[STRIDE];
    for (int64_t c = 0; c < n; c++) out[c] = 0;
    for (int u = 0; u < 3; u++) {
        int64_t a = y + line[TOP] - u;
        if (a < 0 || a % stride || a / stride >= line[ROWS]) continue;
        for (int w = 0; w < 3; w++) {
            int64_t b = x + line[LEFT] - w;
            if (b < 0 || b % stride || b / stride >= line[COLUMNS]) continue;
            in_t place = g + (a / stride * line[COLUMNS] + b / stride) * n, tap = taps + (3 * u + w) * n;
            for (int64_t c = 0; c < n; c++) out[c] += place[c] * tap[c];
        }
    }
}

/* The same with a stride of 2, at a place whose neighbours are all inside: it is seen through one, two or four taps. */
static void halved(in_t g, int64_t across, int64_t n, in_t taps, out_t out, int odd_row, int odd_column) {
    in_t up = g - across;
    if (odd_row && odd_column)
        for (int64_t c = 0; c < n; c++) out[c] = g[c] * taps[4 * n + c];
    else if (odd_row)
        for (int64_t c = 0; c < n; c++) out[c] = g[c] * taps[3 * n + c] + g[c - n] * taps[5 * n + c];
    else if (odd_column)
        for (int64_t c = 0; c < n; c++) out[c] = g[c] * taps[n + c] + up[c] * taps[7 * n + c];
    else
        for (int64_t c = 0; c < n; c++)
            out[c] = g[c] * taps[c] + g[c - n] * taps[2 * n + c] + up[c] * taps[6 * n + c] + up[c - n] * taps[8 * n + c];
}

/* The derivative by the input of depthwise, (H, W, C), of that by its result, (H', W', C), whose activation is gone
 * through on the way; with slopes_in, by what stood before an activation of the input. */
static void depthwise_backward(float *g, in_t taps, in_t flipped, float *out, in_t slopes, const uint8_t *signs,
                               in_t slopes_in, const uint8_t *signs_in, const int64_t *line) {
    int64_t height = line[HEIGHT], width = line[WIDTH], n = line[CHANNELS], stride = line[STRIDE];
    int64_t rows = line[ROWS], columns = line[COLUMNS], top = line[TOP], left = line[LEFT];
    int64_t ready = 0;
    for (int64_t y = 0; y < height; y++) {
        /* A row's activation right before the row is first needed. */
        for (; ready < rows && ready * stride - top <= y; ready++)
            activate_backward(g + ready * columns * n, columns, n, slopes, signs + ready * columns * n);
        float *row = out + y * width * n;
        /* Without a stride it is the convolution of g by the taps turned round. */
        int64_t a = y + top - 2, x = 0;
        int blocks = stride == 1 && a >= 0 && a + 2 < rows;
        while (x < width) {
            int64_t b = x + left - 2;
            if (blocks && b >= 0 && b + 5 < columns && x + 3 < width) {
                four(g + (a * columns + b) * n, columns * n, n, flipped, row + x * n);
                x += 4;
                continue;
            }
            if (stride == 1)
                one(g, rows, columns, n, a, b, flipped, row + x * n);
            else {
                int64_t r = (y + top) / stride, k = (x + left) / stride;
                if (stride == 2 && r >= 1 && r < rows && k >= 1 && k < columns)
                    halved(g + (r * columns + k) * n, columns * n, n, taps, row + x * n, (y + top) % 2, (x + left) % 2);
                else
                    gathered(g, taps, row + x * n, line, y, x);
            }
            x++;
        }
        if (slopes_in) activate_backward(row, width, n, slopes_in, signs_in + y * width * n);
    }
}

/* The first of three rooms that is neither the one at hand nor, where that is added later, a unit's first or last. Two
 * are enough for most networks, and are more likely to stay in a cache. */
static int next(int at, int unit, int64_t residual) {
    for (int room = 0; room < 2; room++)
        if (room != at && !(residual && room == unit)) return room;
    return 2;
}

/* A picture as the network prepares it, (C, H, W), through all layers. Signs and means over windows are put into
 * work->signs and means. */
void forward(const Work *work, const float *picture, float *means) {
    int at = 0, unit = 0;
    for (int64_t layer = 0; layer < work->layers; layer++) {
        const int64_t *line = work->program + layer * FIELD_COUNT;
        int64_t columns = line[COLUMNS], outputs = line[OUTPUTS], places = line[ROWS] * columns;
        const float *weight = work->weights + line[WEIGHT], *bias = work->weights + line[BIAS];
        const float *slopes = work->weights + line[SLOPES];
        uint8_t *signs = work->signs + line[SIGNS];
        if (line[FIRST]) unit = at;
        int to = next(at, unit, line[RESIDUAL]);
        const float *given = work->rooms + at * work->room;
        float *made = work->rooms + to * work->room;
        if (line[KIND] == DEPTHWISE)
            depthwise(given, weight, bias, slopes, signs, made, line);
        else if (line[KIND] == PICTURE) {
            patches(picture, line[CHANNELS], line[HEIGHT], line[WIDTH], work, line);
            product(work->sgemm, work->seen, weight, made, places, line[KERNEL] * line[LENGTH], outputs, 0);
        } else
            product(work->sgemm, given, weight, made, places, line[CHANNELS], outputs, 0);
        if (line[LAST] && line[RESIDUAL]) {
            in_t skipped = work->rooms + unit * work->room;
            out_t sum = made;
            for (int64_t n = 0; n < places * outputs; n++) sum[n] += skipped[n];
        }
        int64_t window = work->window, across = columns * outputs;
        for (int64_t r = 0; r * window < line[ROWS]; r++) {
            /* The rows of a window are still at hand when their means are taken. */
            int64_t rows = least(window, line[ROWS] - r * window), begin = r * window * across;
            if (line[KIND] != DEPTHWISE) activate(made + begin, rows * columns, outputs, bias, slopes, signs + begin);
            if (line[LAST] && line[MEANS] >= 0 && rows == window)
                window_means(made + begin, columns, outputs, means + line[MEANS] + r * (columns / window) * outputs, window);
        }
        at = to;
    }
}

/* The derivative by a picture, (C, H, W), of that by the means, with the signs that forward has put there. What it left
 * in the rooms is not looked at. */
void backward(const Work *work, const float *means, float *picture) {
    int at = 0, unit = 0, follows = 0;
    for (int64_t layer = work->layers - 1; layer >= 0; layer--) {
        const int64_t *line = work->program + layer * FIELD_COUNT;
        int64_t height = line[HEIGHT], width = line[WIDTH], channels = line[CHANNELS];
        int64_t outputs = line[OUTPUTS], places = line[ROWS] * line[COLUMNS];
        const float *slopes = work->weights + line[SLOPES];
        const uint8_t *signs = work->signs + line[SIGNS];
        float *gradient = work->rooms + at * work->room;
        if (line[LAST]) {
            /* Units behind the last whose means are asked for. */
            if (line[MEANS] < 0 && !follows) continue;
            const float *given = line[MEANS] < 0 ? NULL : means + line[MEANS];
            means_backward(gradient, line[ROWS], line[COLUMNS], outputs, follows, given, work->window);
            if (line[KIND] != DEPTHWISE) activate_backward(gradient, places, outputs, slopes, signs);
            follows = 1;
            unit = at;
        } else if (!follows)
            continue;
        int to = next(at, unit, line[RESIDUAL]);
        float *made = work->rooms + to * work->room;
        /* A layer of the unit before this one, whose activation has no loop of its own with it. */
        const int64_t *before = line[FIRST] || line[-FIELD_COUNT + KIND] == DEPTHWISE ? NULL : line - FIELD_COUNT;
        const float *slopes_in = before ? work->weights + before[SLOPES] : NULL;
        const uint8_t *signs_in = before ? work->signs + before[SIGNS] : NULL;
        if (line[KIND] == DEPTHWISE)
            depthwise_backward(gradient, work->weights + line[WEIGHT], work->weights + line[FLIPPED], made, slopes, signs,
                               slopes_in, signs_in, line);
        else if (line[KIND] == PICTURE) {
            product(work->sgemm, gradient, work->weights + line[WEIGHT], work->seen, places, outputs,
                    line[KERNEL] * line[LENGTH], 1);
            patches_backward(picture, channels, height, width, work, line);
        } else {
            product(work->sgemm, gradient, work->weights + line[WEIGHT], made, places, outputs, channels, 1);
            if (before) activate_backward(made, height * width, channels, slopes_in, signs_in);
        }
        if (line[FIRST] && line[RESIDUAL]) {
            in_t skipped = work->rooms + unit * work->room;
            out_t sum = made;
            for (int64_t n = 0; n < height * width * channels; n++) sum[n] += skipped[n];
        }
        at = to;
    }
}

enum { LANES = 8 };

/* The sum of the squares of numbers, in double. */
double square_sum(const float *values, int64_t count) {
    double sums[LANES] = {0}, total = 0;
    int64_t n = 0;
    for (; n + LANES <= count; n += LANES)
        for (int i = 0; i < LANES; i++) sums[i] += (double)(values[n + i] * values[n + i]);
    for (; n < count; n++) total += (double)(values[n] * values[n]);
    for (int i = 0; i < LANES; i++) total += sums[i];
    return total;
}

/* Numbers less others, in place, and the sum of the squares of what is left, in double. */
double difference(float *restrict own, const float *restrict goal, int64_t count) {
    for (int64_t n = 0; n < count; n++) own[n] -= goal[n];
    return square_sum(own, count);
}
