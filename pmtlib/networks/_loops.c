/* An image through the first units of a network, and back, in one call each, on one thread.
 *
 * Maps are float32 in the layout (H, W, C), so that the innermost loop runs over channels and is made of the
 * processor's vectors. What reads and writes a map is one loop nest: an activation with the means of what comes of it,
 * a convolution with the activation behind it, and each of their derivatives. Of what stood before an activation the
 * derivative needs the sign alone: a byte a number ("signs", 1 above 0). Matrices are arranged once, for all images.
 *
 * pmtlib/networks/image_wise.py writes the programs that forward and backward go through, a row of FIELDS a layer, and
 * builds this file, with the names of the fields (enum) and of the kinds of layers before it.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* What a compiler is told of the loop that follows: to write out its few rounds, that none reads what another wrote. */
#ifdef __clang__
#define UNROLLED _Pragma("clang loop unroll(full)")
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define UNROLLED _Pragma("GCC unroll 8")
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

typedef float *restrict out_t;
typedef const float *restrict in_t;
/* As many numbers as the processor computes with at once, wherever they lie; and a place of a picture. */
#if defined(__AVX512F__)
enum { WIDE = 16 };
#elif defined(__AVX__)
enum { WIDE = 8 };
#else
enum { WIDE = 4 };
#endif
/* Matrices lie in panels of so many columns, so many rows are multiplied by one at once, and so many by all of them
 * before the next ones; of a place so many channels are looked at together. */
enum { PANEL = 2 * WIDE, TALL = 6, MANY = 8 * TALL, SOME = 32 };
int panel_columns(void) { return PANEL; }
typedef float wide_t __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef float place_t __attribute__((vector_size(16), aligned(4), may_alias));

typedef struct {
    const int64_t *program; /* (layers, FIELD_COUNT) */
    int64_t layers;
    const float *weights; /* all layers' matrices, biases and slopes, one after the other */
    float *rooms;         /* room for three maps, each of `room` numbers */
    int64_t room;
    float *padded; /* room for the picture with zeros around, (padded_rows, padded_columns, C) */
    int64_t padded_rows, padded_columns;
    float *row;   /* room for a row of places of what a convolution sees, or of its tiles */
    float *photo; /* room for a photograph of which the picture is a sample, (photo_rows + 1, photo_columns + 1, 4) */
    int64_t photo_rows, photo_columns, photo_left; /* its sides, and the first of its columns where it is no sample */
    const int32_t *corners; /* for each place of the picture that of its first of four neighbours; NULL for no sample */
    const float *fractions; /* and how far it is from there, down and across */
    const float *scale;     /* what colours are multiplied by, (4,), and what is added then, (4,); or NULL */
    uint8_t *signs;
    int64_t window; /* side of the windows of means */
} Work;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* The least multiple of PANEL that is no less. */
static inline int64_t filled(int64_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

/* `rows` rows of a product of matrices, PANEL columns of each: made (rows, PANEL), `stride` apart. All sums are in
 * registers. A row of what is given is `parts` times `length` numbers, `skip` apart. */
static inline __attribute__((always_inline)) void block(const int rows, in_t given, int64_t step, int64_t parts,
                                                        int64_t length, int64_t skip, in_t panel, out_t made,
                                                        int64_t stride) {
    wide_t sums[TALL][2];
    UNROLLED
    for (int i = 0; i < rows; i++) sums[i][0] = sums[i][1] = (wide_t){0};
    for (int64_t part = 0; part < parts; part++)
        for (int64_t k = 0; k < length; k++, panel += PANEL) {
            in_t from = given + part * skip + k;
            wide_t first = *(const wide_t *)panel, second = *(const wide_t *)(panel + WIDE);
            UNROLLED
            for (int i = 0; i < rows; i++) sums[i][0] += from[i * step] * first, sums[i][1] += from[i * step] * second;
        }
    UNROLLED
    for (int i = 0; i < rows; i++) {
        *(wide_t *)(made + i * stride) = sums[i][0];
        *(wide_t *)(made + i * stride + WIDE) = sums[i][1];
    }
}

static inline __attribute__((always_inline)) void blocks(const int rows, in_t given, int64_t step, int64_t parts,
                                                         int64_t length, int64_t skip, in_t panel, out_t made,
                                                         int64_t stride, int64_t columns) {
    if (columns >= PANEL) {
        block(rows, given, step, parts, length, skip, panel, made, stride);
        return;
    }
    float whole[TALL * PANEL];
    block(rows, given, step, parts, length, skip, panel, whole, PANEL);
    for (int i = 0; i < rows; i++) memcpy(made + i * stride, whole + i * PANEL, sizeof(float) * columns);
}

/* What is done to places of a map as soon as they are made: their activation or, without a bias, its derivative. */
typedef struct {
    const float *bias, *slopes;
    uint8_t *signs;
} After;

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

static void finish(out_t values, int64_t begin, int64_t places, int64_t channels, const After *after) {
    if (!after) return;
    uint8_t *signs = after->signs + begin * channels;
    if (after->bias)
        activate(values + begin * channels, places, channels, after->bias, after->slopes, signs);
    else
        activate_backward(values + begin * channels, places, channels, after->slopes, signs);
}

/* made (count, outputs) = given times a matrix (parts * length, outputs), where a row of what is given begins `step`
 * behind the one before, and is `parts` times `length` numbers, `skip` apart. The matrix is in panels: its first PANEL
 * columns (parts * length, PANEL), then the next ones, the last filled up with zeros. Some rows go through all panels
 * and what comes after, and stay in the nearest cache meanwhile, before the next ones do. */
static void product(in_t given, int64_t step, int64_t parts, int64_t length, int64_t skip, in_t matrix, int64_t outputs,
                    out_t made, int64_t count, const After *after) {
    for (int64_t begin = 0; begin < count; begin += MANY) {
        int64_t end = least(count, begin + MANY);
        in_t panel = matrix;
        for (int64_t n = 0; n < outputs; n += PANEL, panel += parts * length * PANEL) {
            int64_t m = begin, left = outputs - n;
            for (; m + TALL <= end; m += TALL)
                blocks(TALL, given + m * step, step, parts, length, skip, panel, made + m * outputs + n, outputs, left);
            for (; m + TALL / 2 <= end; m += TALL / 2)
                blocks(TALL / 2, given + m * step, step, parts, length, skip, panel, made + m * outputs + n, outputs, left);
            for (; m < end; m++)
                blocks(1, given + m * step, step, parts, length, skip, panel, made + m * outputs + n, outputs, left);
        }
        finish(made, begin, end - begin, outputs, after);
    }
}

/* Planes (C, H, W), rows of which are `columns` apart and planes `plane`, to places, `step` numbers a place and `across`
 * a row; times scale[c] and plus scale[4 + c], where there is a scale. */
static void to_places(in_t planes, int64_t plane, int64_t columns, int64_t channels, int64_t height, int64_t width,
                      const float *scale, out_t places, int64_t across, int64_t step) {
    for (int64_t c = 0; c < channels; c++) {
        float times = scale ? scale[c] : 1, plus = scale ? scale[4 + c] : 0;
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x++)
                places[y * across + x * step + c] = planes[c * plane + y * columns + x] * times + plus;
    }
}

/* The other way round, without what is added. */
static void to_planes(in_t places, int64_t across, int64_t step, out_t planes, int64_t plane, int64_t columns,
                      int64_t channels, int64_t height, int64_t width, const float *scale) {
    for (int64_t c = 0; c < channels; c++) {
        float times = scale ? scale[c] : 1;
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x++)
                planes[c * plane + y * columns + x] = places[y * across + x * step + c] * times;
    }
}

/* A picture of few channels into work->padded: columns of a photograph (C, H, W), or sampled at work->corners, bilinear.
 */
static void pad(in_t photograph, int64_t channels, int64_t height, int64_t width, const Work *work, const int64_t *line) {
    int64_t across = work->padded_columns * channels;
    out_t padded = work->padded;
    memset(padded, 0, sizeof(float) * work->padded_rows * across);
    padded += line[TOP] * across + line[LEFT] * channels;
    int64_t rows = work->photo_rows, columns = work->photo_columns, row = 4 * (columns + 1);
    if (!work->corners) {
        to_places(photograph + work->photo_left, rows * columns, columns, channels, height, width, work->scale, padded,
                  across, channels);
        return;
    }
    float *photo = work->photo;
    memset(photo, 0, sizeof(float) * (rows + 1) * row);
    to_places(photograph, rows * columns, columns, channels, rows, columns, NULL, photo, row, 4);
    place_t scale = *(const place_t *)work->scale, shift = *(const place_t *)(work->scale + 4);
    for (int64_t y = 0, n = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++, n++) {
            in_t from = photo + 4 * work->corners[n];
            float down = work->fractions[2 * n], right = work->fractions[2 * n + 1];
            place_t a = *(const place_t *)from, b = *(const place_t *)(from + 4);
            place_t c = *(const place_t *)(from + row), d = *(const place_t *)(from + row + 4);
            place_t upper = a + right * (b - a), lower = c + right * (d - c);
            place_t made = scale * (upper + down * (lower - upper)) + shift;
            for (int64_t i = 0; i < channels; i++) padded[y * across + x * channels + i] = made[i];
        }
}

/* The derivative by the photograph, (C, H, W), of what stands in work->padded. */
static void pad_backward(out_t photograph, int64_t channels, int64_t height, int64_t width, const Work *work,
                         const int64_t *line) {
    int64_t across = work->padded_columns * channels;
    in_t padded = work->padded + line[TOP] * across + line[LEFT] * channels;
    int64_t rows = work->photo_rows, columns = work->photo_columns, row = 4 * (columns + 1);
    if (!work->corners) {
        if (width < columns) memset(photograph, 0, sizeof(float) * channels * rows * columns);
        to_planes(padded, across, channels, photograph + work->photo_left, rows * columns, columns, channels, height,
                  width, work->scale);
        return;
    }
    float *photo = work->photo;
    memset(photo, 0, sizeof(float) * (rows + 1) * row);
    place_t scale = *(const place_t *)work->scale;
    for (int64_t y = 0, n = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++, n++) {
            /* Of fewer channels than four the last is the next place's, and nobody's in the photograph. */
            place_t given = scale * *(const place_t *)(padded + y * across + x * channels);
            float down = work->fractions[2 * n], right = work->fractions[2 * n + 1];
            place_t lower = down * given, upper = given - lower;
            float *to = photo + 4 * work->corners[n];
            *(place_t *)to += upper - right * upper;
            *(place_t *)(to + 4) += right * upper;
            *(place_t *)(to + row) += lower - right * lower;
            *(place_t *)(to + row + 4) += right * lower;
        }
    to_planes(photo, row, 4, photograph, rows * columns, columns, channels, rows, columns, NULL);
}

/* A convolution of the padded picture, with its activation. */
static void picture_forward(const Work *work, in_t weight, out_t made, const int64_t *line, const After *after) {
    int64_t across = work->padded_columns * line[CHANNELS], columns = line[COLUMNS], outputs = line[OUTPUTS];
    for (int64_t r = 0; r < line[ROWS]; r++) {
        product(work->padded + r * line[STRIDE] * across, line[STRIDE] * line[CHANNELS], line[KERNEL], line[LENGTH], across,
                weight, outputs, made + r * columns * outputs, columns, NULL);
        finish(made, r * columns, columns, outputs, after);
    }
}

/* Its derivative by the padded picture, by the matrix (outputs, k * l * C). */
static void picture_backward(const Work *work, in_t gradient, in_t matrix, const int64_t *line) {
    int64_t across = work->padded_columns * line[CHANNELS], columns = line[COLUMNS], outputs = line[OUTPUTS];
    int64_t length = line[LENGTH], span = line[KERNEL] * length;
    float *restrict padded = work->padded;
    memset(padded, 0, sizeof(float) * work->padded_rows * across);
    for (int64_t r = 0; r < line[ROWS]; r++) {
        product(gradient + r * columns * outputs, outputs, 1, outputs, 0, matrix, span, work->row, columns, NULL);
        for (int64_t k = 0; k < columns; k++)
            for (int64_t u = 0; u < line[KERNEL]; u++) {
                float *to = padded + (r * line[STRIDE] + u) * across + k * line[STRIDE] * line[CHANNELS];
                in_t from = work->row + k * span + u * length;
                if (length == 9) /* the usual windows: three or seven columns of three channels */
                    for (int n = 0; n < 9; n++) to[n] += from[n];
                else if (length == 21)
                    for (int n = 0; n < 21; n++) to[n] += from[n];
                else
                    for (int64_t n = 0; n < length; n++) to[n] += from[n];
            }
    }
}

/* What a tile of 4x4 places of a map has to be for a convolution of 3x3 to be a product: B^T d B, (16, C), each of the
 * 16 `apart` from the next. */
static void tile(in_t from, int64_t across, int64_t channels, out_t to, int64_t apart) {
    INDEPENDENT
    for (int64_t c = 0; c < channels; c++) {
        float half[4][4];
        for (int b = 0; b < 4; b++) {
            in_t d = from + b * channels + c;
            float d0 = d[0], d1 = d[across], d2 = d[2 * across], d3 = d[3 * across];
            half[0][b] = d0 - d2, half[1][b] = d1 + d2, half[2][b] = d2 - d1, half[3][b] = d1 - d3;
        }
        for (int a = 0; a < 4; a++) {
            out_t v = to + 4 * a * apart + c;
            v[0] = half[a][0] - half[a][2], v[apart] = half[a][1] + half[a][2];
            v[2 * apart] = half[a][2] - half[a][1], v[3 * apart] = half[a][1] - half[a][3];
        }
    }
}

/* From 16 products to the 2x2 places that they are the sums of: A^T m A. */
static void untile(in_t from, int64_t apart, int64_t channels, float *const to[4]) {
    float *p = to[0], *q = to[1], *r = to[2], *s = to[3];
    INDEPENDENT
    for (int64_t c = 0; c < channels; c++) {
        float half[2][4];
        for (int b = 0; b < 4; b++) {
            in_t m = from + b * apart + c;
            float m0 = m[0], m1 = m[4 * apart], m2 = m[8 * apart], m3 = m[12 * apart];
            half[0][b] = m0 + m1 + m2, half[1][b] = m1 - m2 - m3;
        }
        p[c] = half[0][0] + half[0][1] + half[0][2], q[c] = half[0][1] - half[0][2] - half[0][3];
        r[c] = half[1][0] + half[1][1] + half[1][2], s[c] = half[1][1] - half[1][2] - half[1][3];
    }
}

/* A convolution of 3x3 of a map (H, W, C), with a zero around and without a stride, in 16 multiplications for 36: F(2x2,
 * 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), a row of tiles at a time.
 * The 16 matrices (C, outputs) are made of the weights by G g G^T. */
static void dense(in_t x, int64_t height, int64_t width, int64_t channels, in_t matrices, int64_t outputs, float *out,
                  float *row, const After *after) {
    int64_t tiles = (width + 1) / 2, apart = tiles * channels, apart_out = tiles * outputs;
    float *seen = row, *products = seen + 16 * apart, *edge = products + 16 * apart_out, *beyond = edge + 16 * channels;
    for (int64_t y = -1; y + 1 < height; y += 2) {
        for (int64_t k = 0; k < tiles; k++) {
            int64_t b = 2 * k - 1;
            if (y >= 0 && y + 3 < height && b >= 0 && b + 3 < width) {
                tile(x + (y * width + b) * channels, width * channels, channels, seen + k * channels, apart);
                continue;
            }
            memset(edge, 0, sizeof(float) * 16 * channels);
            for (int64_t u = most(-y, 0); u < least(height - y, 4); u++) {
                int64_t first = most(-b, 0), last = least(width - b, 4);
                memcpy(edge + (4 * u + first) * channels, x + ((y + u) * width + b + first) * channels,
                       sizeof(float) * (last - first) * channels);
            }
            tile(edge, 4 * channels, channels, seen + k * channels, apart);
        }
        for (int p = 0; p < 16; p++)
            product(seen + p * apart, channels, 1, channels, 0, matrices + p * channels * filled(outputs), outputs,
                  products + p * apart_out, tiles, NULL);
        for (int64_t k = 0; k < tiles; k++) {
            float *to[4];
            for (int n = 0; n < 4; n++) {
                int64_t r = y + 1 + n / 2, c = 2 * k + n % 2;
                to[n] = r < height && c < width ? out + (r * width + c) * outputs : beyond + n * outputs;
            }
            untile(products + k * outputs, apart_out, outputs, to);
        }
        finish(out, (y + 1) * width, least(2, height - y - 1) * width, outputs, after);
    }
}

/* Of some channels of one window the greatest, the first of several, and which of the window's places it was at. */
static inline __attribute__((always_inline)) void greatest_of(in_t corner, int64_t across, int64_t apart, int64_t side,
                                                              const int64_t some, out_t out, uint8_t *restrict signs) {
    /* Which place it was as a number as wide as what stood there, for the processor's vectors. */
    float greatest[SOME], at[SOME], place = 0;
    for (int64_t c = 0; c < some; c++) greatest[c] = corner[c], at[c] = 0;
    for (int64_t a = 0; a < side; a++)
        for (int64_t b = 0; b < side; b++, place++) {
            in_t from = corner + a * across + b * apart;
            for (int64_t c = 0; c < some; c++) {
                /* What is no number is the greatest, as torch has it. */
                int more = (from[c] > greatest[c]) | (from[c] != from[c]);
                at[c] = more ? place : at[c];
                greatest[c] = more ? from[c] : greatest[c];
            }
        }
    for (int64_t c = 0; c < some; c++) out[c] = greatest[c], signs[c] = (uint8_t)at[c];
}

/* The greatest of each window of a map; "signs" are where in the window it was. */
static void pool(in_t x, out_t out, uint8_t *restrict signs, const int64_t *line) {
    int64_t n = line[CHANNELS], across = line[WIDTH] * n, stride = line[STRIDE], side = line[KERNEL];
    for (int64_t r = 0; r < line[ROWS]; r++)
        for (int64_t k = 0; k < line[COLUMNS]; k++, out += n, signs += n) {
            in_t corner = x + r * stride * across + k * stride * n;
            int64_t c = 0;
            /* A number of channels that the compiler knows stays in the processor's vectors. */
            for (; c + SOME <= n; c += SOME) greatest_of(corner + c, across, n, side, SOME, out + c, signs + c);
            if (c < n) greatest_of(corner + c, across, n, side, n - c, out + c, signs + c);
        }
}

static void pool_backward(in_t gradient, const uint8_t *restrict signs, float *out, const int64_t *line) {
    int64_t n = line[CHANNELS], across = line[WIDTH] * n, stride = line[STRIDE], side = line[KERNEL];
    memset(out, 0, sizeof(float) * line[HEIGHT] * across);
    for (int64_t r = 0; r < line[ROWS]; r++)
        for (int64_t k = 0; k < line[COLUMNS]; k++, gradient += n, signs += n) {
            float *corner = out + r * stride * across + k * stride * n;
            for (int64_t a = 0, p = 0; a < side; a++)
                for (int64_t b = 0; b < side; b++, p++) {
                    out_t to = corner + a * across + b * n;
                    for (int64_t c = 0; c < n; c++) to[c] += signs[c] == p ? gradient[c] : 0;
                }
        }
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
    INDEPENDENT
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

/* Whether a layer's activation is a loop of its own. */
static inline int activates(const int64_t *line) { return line[KIND] != DEPTHWISE && line[KIND] != POOL; }

/* A photograph, (C, H, W), of which the picture is read, through all layers. Signs and means over windows are put into
 * work->signs and means. */
void forward(const Work *work, const float *photograph, float *means) {
    int at = 0, unit = 0;
    for (int64_t layer = 0; layer < work->layers; layer++) {
        const int64_t *line = work->program + layer * FIELD_COUNT;
        int64_t columns = line[COLUMNS], outputs = line[OUTPUTS], places = line[ROWS] * columns;
        const float *weight = work->weights + line[WEIGHT], *bias = work->weights + line[BIAS];
        const float *slopes = work->weights + line[SLOPES];
        uint8_t *signs = work->signs + line[SIGNS];
        if (line[FIRST]) unit = at;
        int to = next(at, unit, line[RESIDUAL]), adds = line[LAST] && line[RESIDUAL];
        const float *given = work->rooms + at * work->room;
        float *made = work->rooms + to * work->room;
        After activation = {bias, slopes, signs}, *after = adds ? NULL : &activation;
        if (line[KIND] == DEPTHWISE)
            depthwise(given, weight, bias, slopes, signs, made, line);
        else if (line[KIND] == PICTURE) {
            pad(photograph, line[CHANNELS], line[HEIGHT], line[WIDTH], work, line);
            picture_forward(work, weight, made, line, after);
        } else if (line[KIND] == DENSE)
            dense(given, line[HEIGHT], line[WIDTH], line[CHANNELS], weight, outputs, made, work->row, after);
        else if (line[KIND] == POOL)
            pool(given, made, signs, line);
        else
            product(given, line[CHANNELS], 1, line[CHANNELS], 0, weight, outputs, made, places, after);
        if (adds) {
            in_t skipped = work->rooms + unit * work->room;
            out_t sum = made;
            for (int64_t n = 0; n < places * outputs; n++) sum[n] += skipped[n];
        }
        int64_t window = work->window, across = columns * outputs;
        for (int64_t r = 0; r * window < line[ROWS]; r++) {
            /* The rows of a window are still at hand when their means are taken. */
            int64_t rows = least(window, line[ROWS] - r * window), begin = r * window * across;
            if (adds) activate(made + begin, rows * columns, outputs, bias, slopes, signs + begin);
            if (line[LAST] && line[MEANS] >= 0 && rows == window)
                window_means(made + begin, columns, outputs, means + line[MEANS] + r * (columns / window) * outputs, window);
        }
        at = to;
    }
}

/* The derivative by a photograph, (C, H, W), of that by the means, with the signs that forward has put there. What it left
 * in the rooms is not looked at. */
void backward(const Work *work, const float *means, float *photograph) {
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
            if (activates(line)) activate_backward(gradient, places, outputs, slopes, signs);
            follows = 1;
            unit = at;
        } else if (!follows)
            continue;
        int to = next(at, unit, line[RESIDUAL]);
        float *made = work->rooms + to * work->room;
        /* A layer of the unit before this one, whose activation has no loop of its own with it. */
        const int64_t *before = line[FIRST] || !activates(line - FIELD_COUNT) ? NULL : line - FIELD_COUNT;
        const float *slopes_in = before ? work->weights + before[SLOPES] : NULL;
        uint8_t *signs_in = before ? work->signs + before[SIGNS] : NULL;
        After derivative = {NULL, slopes_in, signs_in}, *after = before ? &derivative : NULL;
        if (line[KIND] == DEPTHWISE)
            depthwise_backward(gradient, work->weights + line[WEIGHT], work->weights + line[FLIPPED], made, slopes, signs,
                               slopes_in, signs_in, line);
        else if (line[KIND] == PICTURE) {
            picture_backward(work, gradient, work->weights + line[FLIPPED], line);
            pad_backward(photograph, channels, height, width, work, line);
        } else {
            if (line[KIND] == DENSE)
                dense(gradient, height, width, outputs, work->weights + line[FLIPPED], channels, made, work->row, after);
            else if (line[KIND] == POOL) {
                pool_backward(gradient, signs, made, line);
                finish(made, 0, height * width, channels, after);
            } else
                product(gradient, outputs, 1, outputs, 0, work->weights + line[FLIPPED], channels, made, places, after);
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

/* The sum of the absolute values of numbers, in double; what is not finite stays so. */
double size_sum(const float *values, int64_t count) {
    double sums[LANES] = {0}, total = 0;
    int64_t n = 0;
    for (; n + LANES <= count; n += LANES)
        for (int i = 0; i < LANES; i++) sums[i] += (double)(values[n + i] < 0 ? -values[n + i] : values[n + i]);
    for (; n < count; n++) total += (double)(values[n] < 0 ? -values[n] : values[n]);
    for (int i = 0; i < LANES; i++) total += sums[i];
    return total;
}

enum { PART = 128 };

/* `count` numbers, at most PART, of row `y` of a plane (H, W), from column `begin` on, correlated with a kernel of
 * 2 * radius + 1 rows and columns, zeros around the plane. */
static inline void correlated(float *restrict sums, const float *restrict plane, const float *restrict kernel,
                              int64_t radius, int64_t y, int64_t begin, int64_t count, int64_t height, int64_t width) {
    int64_t side = 2 * radius + 1;
    for (int64_t x = 0; x < count; x++) sums[x] = 0;
    for (int64_t v = most(radius - y, 0); v < least(height + radius - y, side); v++)
        for (int64_t u = 0; u < side; u++) {
            int64_t shift = u - radius, first = most(-shift - begin, 0);
            int64_t last = least(width - shift - begin, count);
            in_t row = plane + (y + v - radius) * width + begin + shift;
            float tap = kernel[v * side + u];
            for (int64_t x = first; x < last; x++) sums[x] += tap * row[x];
        }
}

static inline float within(float value) { return value < 0 ? 0 : value > 1 ? 1 : value; }

/* Planes (C, H, W) less `factor` times others that are correlated with a kernel, in place and within [0, 1]. */
void descend(float *restrict planes, const float *restrict gradient, double factor, const float *kernel, int64_t radius,
             int64_t channels, int64_t height, int64_t width) {
    float share = (float)factor, sums[PART];
    for (int64_t c = 0; c < channels; c++, planes += height * width, gradient += height * width)
        for (int64_t y = 0; y < height; y++)
            for (int64_t begin = 0; begin < width; begin += PART) {
                int64_t count = least(PART, width - begin);
                correlated(sums, gradient, kernel, radius, y, begin, count, height, width);
                float *to = planes + y * width + begin;
                for (int64_t x = 0; x < count; x++) to[x] = within(to[x] - share * sums[x]);
            }
}

/* The same by Adam's rule: its moments of what is correlated, in place, each divided by a number, give the step. */
void adapt(float *restrict planes, const float *restrict gradient, float *restrict first, float *restrict second,
           double factor, double first_share, double second_share, const float *kernel, int64_t radius,
           int64_t channels, int64_t height, int64_t width) {
    float rate = (float)factor, one = (float)first_share, other = (float)second_share, sums[PART];
    for (int64_t c = 0; c < channels; c++, planes += height * width, gradient += height * width) {
        for (int64_t y = 0; y < height; y++)
            for (int64_t begin = 0; begin < width; begin += PART) {
                int64_t count = least(PART, width - begin);
                correlated(sums, gradient, kernel, radius, y, begin, count, height, width);
                float *to = planes + y * width + begin;
                for (int64_t x = 0; x < count; x++) {
                    first[x] += 0.1f * (sums[x] - first[x]);
                    second[x] += 0.001f * (sums[x] * sums[x] - second[x]);
                    to[x] = within(to[x] - rate * (first[x] / one / (sqrtf(second[x] / other) + 1e-12f)));
                }
                first += count;
                second += count;
            }
    }
}
