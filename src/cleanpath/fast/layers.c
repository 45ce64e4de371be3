/* Norm, ReLU and convolution in one go, in fp32: of a training step, forward and backward, and of a test.

   Every signal is a matrix of pixels by channels (torch's channels_last). What stands between a norm and its
   convolution lives in a few kilobytes per thread: it is computed where it is needed, and again on the way back.

   A convolution is three lists for a block of images. Forward and backward, pixels are in classes that meet the same
   taps of the window, so that nothing is computed of the padding:

       { classes, { taps, pixels, { tap, how far its input is from the first }[taps], first inputs[], outputs[] } ... }

   For the weights there are pairs for each tap, in bands that stay in the cache while all taps pass over them:

       { segments, { tap, start, count } * segments, inputs[], outputs[] }
*/

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, TALL = 12 };
#elif defined(__AVX__)
enum { LANES = 8, TALL = 6 };
#else
enum { LANES = 4, TALL = 6 };
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));

/* Of a chunk whose sums are made in single precision, and stay in the first cache for the second look at them. */
enum { CHUNK = 4096 };

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int64_t images, block, in_pixels, out_pixels, in_channels, out_channels, taps;
    int64_t norm, relu, threads, scratch;
} shape;

int lanes(void) { return LANES; }

#ifdef _OPENMP
int threaded(void) { return 1; }
#else
int threaded(void) { return 0; }
#endif

/* ---- the products: tiles of ROWS by COLS vectors that stay in registers ---- */

/* For ROWS pixels that meet the same taps: out = sum over these of in * w; what lies between a pixel's inputs is the
   same for all of them. A tap's weights are `depth` rows of COLS vectors. */
INLINE void product_tile(int ROWS, int COLS, const float *in, float *out, const float *w, const int32_t *taps,
                         int32_t count, const int32_t *from, const int32_t *to, int64_t depth, int64_t width) {
    vec sum[TALL][2];
    const float *row[TALL];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
        row[r] = in + from[r] * depth;
#pragma GCC unroll 2
        for (int c = 0; c < COLS; c++) sum[r][c] = (vec){0};
    }
    for (int32_t t = 0; t < count; t++) {
        const float *of = w + taps[2 * t] * depth * COLS * LANES;
        const int64_t start = taps[2 * t + 1] * depth;
        for (int64_t k = start; k < start + depth; k++, of += COLS * LANES) {
            const vec b[2] = {*(const vec *)of, *(const vec *)(of + (COLS - 1) * LANES)};
#pragma GCC unroll 12
            for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
                for (int c = 0; c < COLS; c++) sum[r][c] += row[r][k] * b[c];
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int c = 0; c < COLS; c++) *(vec *)(out + to[r] * width + c * LANES) = sum[r][c];
}

INLINE void product_columns(int COLS, const float *in, float *out, const float *w, const int32_t *list, int64_t depth,
                            int64_t width) {
    const int32_t classes = *list++;
    for (int32_t which = 0; which < classes; which++) {
        const int32_t count = list[0], pixels = list[1], *taps = list + 2;
        const int32_t *from = taps + 2 * count, *to = from + pixels;
        int32_t i = 0;
        for (; i + TALL <= pixels; i += TALL)
            product_tile(TALL, COLS, in, out, w, taps, count, from + i, to + i, depth, width);
        for (; i + 4 <= pixels; i += 4) product_tile(4, COLS, in, out, w, taps, count, from + i, to + i, depth, width);
        for (; i < pixels; i++) product_tile(1, COLS, in, out, w, taps, count, from + i, to + i, depth, width);
        list = to + pixels;
    }
}

/* All pixels of a block; `w` is panels of one or two vectors of columns. */
static void product(const float *in, float *out, const float *w, const int32_t *list, int64_t taps, int64_t depth,
                    int64_t width) {
    int64_t c = 0;
    for (; c + 2 * LANES <= width; c += 2 * LANES)
        product_columns(2, in, out + c, w + c * taps * depth, list, depth, width);
    for (; c < width; c += LANES) product_columns(1, in, out + c, w + c * taps * depth, list, depth, width);
}

/* The panels: w is out_channels by taps by in_channels; columns are the first of these forward, the last backward. */
static void pack(const float *w, float *panels, int64_t taps, int64_t ci, int64_t co, int forward) {
    const int64_t width = forward ? co : ci, depth = forward ? ci : co;
    for (int64_t c = 0; c < width;) {
        const int64_t wide = c + 2 * LANES <= width ? 2 * LANES : LANES;
        for (int64_t t = 0; t < taps; t++)
            for (int64_t k = 0; k < depth; k++, panels += wide)
                for (int64_t lane = 0; lane < wide; lane++)
                    panels[lane] = forward ? w[((c + lane) * taps + t) * ci + k] : w[(k * taps + t) * ci + c + lane];
        c += wide;
    }
}

/* dw[co][ci] += sum over pairs of dy[o_i][co] * z[i_i][ci]; rows of dw are `stride` floats apart. */
INLINE void weight_tile(int ROWS, int COLS, const float *z, const float *dy, float *dw, const int32_t *inputs,
                        const int32_t *outputs, int64_t count, int64_t ci, int64_t co, int64_t stride) {
    vec sum[TALL][2];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int c = 0; c < COLS; c++) sum[r][c] = *(const vec *)(dw + r * stride + c * LANES);
    for (int64_t i = 0; i < count; i++) {
        const float *a = dy + outputs[i] * co, *of = z + inputs[i] * ci;
        const vec b[2] = {*(const vec *)of, *(const vec *)(of + (COLS - 1) * LANES)};
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int c = 0; c < COLS; c++) sum[r][c] += a[r] * b[c];
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int c = 0; c < COLS; c++) *(vec *)(dw + r * stride + c * LANES) = sum[r][c];
}

INLINE void weight_columns(int COLS, const float *z, const float *dy, float *dw, const int32_t *inputs,
                           const int32_t *outputs, int64_t count, int64_t ci, int64_t co, int64_t stride) {
    /* Rows come in multiples of four; a tall tile is not to leave two of them. */
    for (int64_t r = 0; r < co;) {
        if (co - r >= TALL && co - r - TALL != 2) {
            weight_tile(TALL, COLS, z, dy + r, dw + r * stride, inputs, outputs, count, ci, co, stride);
            r += TALL;
        } else {
            weight_tile(4, COLS, z, dy + r, dw + r * stride, inputs, outputs, count, ci, co, stride);
            r += 4;
        }
    }
}

static void weight_product(const float *z, const float *dy, float *dw, const int32_t *inputs, const int32_t *outputs,
                           int64_t count, int64_t ci, int64_t co, int64_t stride) {
    int64_t c = 0;
    for (; c + 2 * LANES <= ci; c += 2 * LANES)
        weight_columns(2, z + c, dy, dw + c, inputs, outputs, count, ci, co, stride);
    for (; c < ci; c += LANES) weight_columns(1, z + c, dy, dw + c, inputs, outputs, count, ci, co, stride);
}

/* ---- the norm ---- */

INLINE int64_t rows_of(int64_t channels) { return CHUNK / channels > 0 ? CHUNK / channels : 1; }

/* Mean and sum of squared distances from it, in double precision: n pixels so far. */
typedef struct {
    double mean, squares;
} moments;

/* With those of m pixels more; `share` is m / (n + m), `weight` n * m / (n + m). */
static void merge(moments *of, double mean, double squares, double share, double weight) {
    double apart = mean - of->mean;
    of->mean += apart * share;
    of->squares += squares + apart * apart * weight;
}

/* The moments of every channel over `pixels`; a chunk is read twice while it is in the cache. */
static void moments_of(const float *x, int64_t pixels, int64_t channels, moments *found) {
    const int64_t rows = rows_of(channels);
    memset(found, 0, channels * sizeof(moments));
    for (int64_t start = 0; start < pixels; start += rows) {
        int64_t n = pixels - start < rows ? pixels - start : rows, c = 0;
        const float *chunk = x + start * channels;
        const double share = (double)n / (double)(start + n), weight = (double)start * share;
        for (; c + LANES <= channels; c += LANES) {
            /* Shifted by the first pixel: a mean far from zero would cost digits, and a constant is to have none. */
            vec sum[4] = {{0}}, square[4] = {{0}}, mean = *(const vec *)(chunk + c);
            int64_t i = 0;
            for (; i + 4 <= n; i += 4)
#pragma GCC unroll 4
                for (int u = 0; u < 4; u++) sum[u] += *(const vec *)(chunk + (i + u) * channels + c) - mean;
            for (; i < n; i++) sum[0] += *(const vec *)(chunk + i * channels + c) - mean;
            mean += ((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)n;
            for (i = 0; i + 4 <= n; i += 4)
#pragma GCC unroll 4
                for (int u = 0; u < 4; u++) {
                    vec d = *(const vec *)(chunk + (i + u) * channels + c) - mean;
                    square[u] += d * d;
                }
            for (; i < n; i++) {
                vec d = *(const vec *)(chunk + i * channels + c) - mean;
                square[0] += d * d;
            }
            square[0] = (square[0] + square[1]) + (square[2] + square[3]);
            for (int lane = 0; lane < LANES; lane++)
                merge(found + c + lane, mean[lane], square[0][lane], share, weight);
        }
        for (; c < channels; c++) {
            double sum = 0, squares = 0;
            for (int64_t i = 0; i < n; i++) sum += chunk[i * channels + c];
            sum /= (double)n;
            for (int64_t i = 0; i < n; i++) squares += pow(chunk[i * channels + c] - sum, 2);
            merge(found + c, sum, squares, share, weight);
        }
    }
}

/* z = (x - mean) * factor + beta, clipped; torch's ReLU lets NaN through, and so does this. */
static void normalise(const float *x, float *z, int64_t pixels, int64_t channels, const float *mean,
                      const float *factor, const float *beta, int64_t relu) {
    const int64_t rows = rows_of(channels);
    for (int64_t start = 0; start < pixels; start += rows) {
        int64_t end = (pixels - start < rows ? pixels : start + rows) * channels, c = 0;
        for (; c + LANES <= channels; c += LANES) {
            const vec m = *(const vec *)(mean + c), f = *(const vec *)(factor + c), b = *(const vec *)(beta + c);
            const vec zero = {0};
            for (int64_t i = start * channels + c; i < end; i += channels) {
                vec found = (*(const vec *)(x + i) - m) * f + b;
                if (relu) found = (vec)((mask)found & ~(found <= zero));
                *(vec *)(z + i) = found;
            }
        }
        for (; c < channels; c++)
            for (int64_t i = start * channels + c; i < end; i += channels) {
                z[i] = (x[i] - mean[c]) * factor[c] + beta[c];
                if (relu && z[i] <= 0) z[i] = 0;
            }
    }
}

/* g = dz where z > 0, written to `g`; its sums, and those with x normalised, are added to. */
static void reduce(const float *x, const float *dz, float *g, int64_t pixels, int64_t channels, const float *mean,
                   const float *invstd, const float *factor, const float *beta, double *sums, int64_t relu) {
    const int64_t rows = rows_of(channels);
    for (int64_t start = 0; start < pixels; start += rows) {
        int64_t n = pixels - start < rows ? pixels - start : rows, c = 0, at = start * channels;
        for (; c + LANES <= channels; c += LANES) {
            const vec m = *(const vec *)(mean + c), s = *(const vec *)(invstd + c), f = *(const vec *)(factor + c);
            const vec b = *(const vec *)(beta + c), zero = {0};
            vec total = {0}, with_x = {0};
            for (int64_t i = 0; i < n; i++) {
                const int64_t here = at + i * channels + c;
                vec centred = *(const vec *)(x + here) - m, found = *(const vec *)(dz + here);
                if (relu) found = (vec)((mask)found & ~(centred * f + b <= zero));
                *(vec *)(g + here) = found;
                total += found;
                with_x += found * (centred * s);
            }
            for (int lane = 0; lane < LANES; lane++) sums[c + lane] += total[lane];
            for (int lane = 0; lane < LANES; lane++) sums[channels + c + lane] += with_x[lane];
        }
        for (; c < channels; c++)
            for (int64_t i = 0; i < n; i++) {
                const int64_t here = at + i * channels + c;
                float centred = x[here] - mean[c], found = dz[here];
                if (relu && centred * factor[c] + beta[c] <= 0) found = 0;
                g[here] = found;
                sums[c] += found;
                sums[channels + c] += (double)found * (centred * invstd[c]);
            }
    }
}

/* dx = factor * (g - flat - (x - mean) * slope), in the place of g. */
static void centre(const float *x, float *g, int64_t pixels, int64_t channels, const float *mean, const float *factor,
                   const float *flat, const float *slope) {
    const int64_t rows = rows_of(channels);
    for (int64_t start = 0; start < pixels; start += rows) {
        int64_t end = (pixels - start < rows ? pixels : start + rows) * channels, c = 0;
        for (; c + LANES <= channels; c += LANES) {
            const vec m = *(const vec *)(mean + c), f = *(const vec *)(factor + c);
            const vec b = *(const vec *)(flat + c), d = *(const vec *)(slope + c);
            for (int64_t i = start * channels + c; i < end; i += channels)
                *(vec *)(g + i) = f * (*(const vec *)(g + i) - b - (*(const vec *)(x + i) - m) * d);
        }
        for (; c < channels; c++)
            for (int64_t i = start * channels + c; i < end; i += channels)
                g[i] = factor[c] * (g[i] - flat[c] - (x[i] - mean[c]) * slope[c]);
    }
}

/* ---- what is called ---- */

static int64_t first_of(const shape *s, int64_t thread) { return s->images / s->block * thread / s->threads; }

/* A thread's blocks forward; `z` holds what is between norm and convolution. */
static void every_block(const shape *s, int64_t thread, const float *x, float *y, const float *panels,
                        const int32_t *there, const float *mean, const float *factor, const float *shift, float *z) {
    const int64_t pixels = s->block * s->in_pixels, ci = s->in_channels, co = s->out_channels;
    for (int64_t b = first_of(s, thread); b < first_of(s, thread + 1); b++) {
        const float *from = x + b * pixels * ci;
        float *to = y + b * s->block * s->out_pixels * co;
        if (s->norm) normalise(from, panels ? z : to, pixels, ci, mean, factor, shift, s->relu);
        if (panels) product(s->norm ? z : from, to, panels, there, s->taps, ci, co);
    }
}

/* Forward: y, or z where there is no convolution (`w` is null); without a norm the convolution alone. `kept` gets
   mean, 1/std, factor and shift; the scratch of every thread is `s->scratch` floats, behind the packed weights. */
void forward(const shape *s, const float *x, float *y, const float *w, const int32_t *there, const float *gamma,
             const float *beta, float *running_mean, float *running_var, int64_t *batches, float *kept, float *scratch,
             double eps, double momentum) {
    const int64_t ci = s->in_channels, co = s->out_channels, pixels = s->images * s->in_pixels;
    float *mean = kept, *invstd = kept + ci, *factor = kept + 2 * ci, *shift = kept + 3 * ci, *panels = scratch;
    if (w) pack(w, panels, s->taps, ci, co, 1);
    scratch += w ? s->taps * ci * co : 0;
#pragma omp parallel for num_threads(s->threads) schedule(static, 1) if (s->threads > 1)
    for (int64_t thread = 0; thread < s->threads * s->norm; thread++) {
        int64_t start = pixels * thread / s->threads, end = pixels * (thread + 1) / s->threads;
        moments_of(x + start * ci, end - start, ci, (moments *)(scratch + thread * s->scratch));
    }
    for (int64_t c = 0; c < ci * s->norm; c++) {
        moments all = {0, 0};
        for (int64_t thread = 0; thread < s->threads; thread++) {
            int64_t start = pixels * thread / s->threads, end = pixels * (thread + 1) / s->threads;
            const moments *part = (const moments *)(scratch + thread * s->scratch) + c;
            const double share = (double)(end - start) / (double)(end > 0 ? end : 1);
            if (end > start) merge(&all, part->mean, part->squares, share, (double)start * share);
        }
        double var = all.squares / (double)pixels;
        mean[c] = (float)all.mean;
        invstd[c] = (float)(1 / sqrt(var + eps));
        factor[c] = gamma ? gamma[c] * invstd[c] : invstd[c];
        shift[c] = beta ? beta[c] : 0;
        if (running_mean) {
            running_mean[c] = (float)(momentum * all.mean + (1 - momentum) * running_mean[c]);
            var = all.squares / (double)(pixels - 1);
            running_var[c] = (float)(momentum * var + (1 - momentum) * running_var[c]);
        }
    }
    if (batches) *batches += 1;
#pragma omp parallel for num_threads(s->threads) schedule(static, 1) if (s->threads > 1)
    for (int64_t thread = 0; thread < s->threads; thread++)
        every_block(s, thread, x, y, w ? panels : 0, there, mean, factor, shift, scratch + thread * s->scratch);
}

/* What `applied` needs of a norm whose statistics stay and of a convolution: factors (mean, factor and shift) and
   panels; each may be missing (null). */
void prepare(const shape *s, const float *w, const float *gamma, const float *beta, const float *running_mean,
             const float *running_var, float *factors, float *panels, double eps) {
    const int64_t ci = s->in_channels;
    if (w) pack(w, panels, s->taps, ci, s->out_channels, 1);
    for (int64_t c = 0; c < ci * s->norm; c++) {
        factors[c] = running_mean[c];
        factors[ci + c] = (float)(1 / sqrt(running_var[c] + eps)) * (gamma ? gamma[c] : 1);
        factors[2 * ci + c] = beta ? beta[c] : 0;
    }
}

/* In eval mode: y, or z where there is no convolution (`panels` is null). */
void applied(const shape *s, const float *x, float *y, const float *panels, const int32_t *there, const float *factors,
             float *scratch) {
    const int64_t ci = s->in_channels, co = s->out_channels;
    const float *mean = factors, *factor = factors + ci, *shift = factors + 2 * ci;
#pragma omp parallel for num_threads(s->threads) schedule(static, 1) if (s->threads > 1)
    for (int64_t thread = 0; thread < s->threads; thread++)
        every_block(s, thread, x, y, panels, there, mean, factor, shift, scratch + thread * s->scratch);
}

/* Backward: dx, and dw, dgamma and dbeta (each may be null). `dx` holds what comes through
   the ReLU at first. A thread's scratch, behind the packed weights: z and dz of a block, dw, and two sums in double
   precision per channel. */
void backward(const shape *s, const float *x, const float *dy, const float *w, const int32_t *back,
              const int32_t *pairs, const float *kept, float *dx, float *dw, float *dgamma, float *dbeta,
              float *scratch) {
    const int64_t ci = s->in_channels, co = s->out_channels, pixels = s->images * s->in_pixels;
    const int64_t block = s->block * s->in_pixels * ci, weights = w ? s->taps * ci * co : 0;
    const float *mean = kept, *invstd = kept + ci, *factor = kept + 2 * ci, *shift = kept + 3 * ci;
    const float *panels = scratch;
    if (w) pack(w, scratch, s->taps, ci, co, 0);
    scratch += weights;
#pragma omp parallel for num_threads(s->threads) schedule(static, 1) if (s->threads > 1)
    for (int64_t thread = 0; thread < s->threads; thread++) {
        double *sums = (double *)(scratch + thread * s->scratch);
        float *own = (float *)(sums + 2 * ci), *z = own + weights, *dz = z + block;
        memset(sums, 0, 2 * ci * sizeof(double));
        memset(own, 0, weights * sizeof(float));
        for (int64_t b = first_of(s, thread); b < first_of(s, thread + 1); b++) {
            const float *from = x + b * block, *of = dy + b * s->block * s->out_pixels * co;
            if (w) {
                const int32_t *segment = pairs + 1, *end = segment + 3 * pairs[0];
                const int32_t count = end[-2] + end[-1], *inputs = end, *outputs = end + count;
                if (s->norm) normalise(from, z, s->block * s->in_pixels, ci, mean, factor, shift, s->relu);
                product(of, s->norm ? dz : dx + b * block, panels, back, s->taps, co, ci);
                for (; dw && segment < end; segment += 3)
                    weight_product(s->norm ? z : from, of, own + segment[0] * ci, inputs + segment[1],
                                   outputs + segment[1], segment[2], ci, co, s->taps * ci);
            }
            if (s->norm)
                reduce(from, w ? dz : of, dx + b * block, s->block * s->in_pixels, ci, mean, invstd, factor, shift,
                       sums, s->relu);
        }
    }
    double *sums = (double *)scratch;
    float *own = (float *)(sums + 2 * ci);
    for (int64_t thread = 1; thread < s->threads; thread++) {
        const double *more = (const double *)(scratch + thread * s->scratch);
        const float *theirs = (const float *)(more + 2 * ci);
        for (int64_t c = 0; c < 2 * ci; c++) sums[c] += more[c];
        for (int64_t i = 0; i < weights; i++) own[i] += theirs[i];
    }
    if (dw) memcpy(dw, own, weights * sizeof(float));
    if (!s->norm) return;
    for (int64_t c = 0; c < ci; c++) {
        if (dbeta) dbeta[c] = (float)sums[c];
        if (dgamma) dgamma[c] = (float)sums[ci + c];
    }
    float *flat = own, *slope = own + ci;  /* of dw, which is copied */
    for (int64_t c = 0; c < ci; c++) {
        flat[c] = (float)(sums[c] / (double)pixels);
        slope[c] = (float)(sums[ci + c] / (double)pixels) * invstd[c];
    }
#pragma omp parallel for num_threads(s->threads) schedule(static, 1) if (s->threads > 1)
    for (int64_t thread = 0; thread < s->threads; thread++) {
        const int64_t start = pixels * thread / s->threads, end = pixels * (thread + 1) / s->threads;
        centre(x + start * ci, dx + start * ci, end - start, ci, mean, factor, flat, slope);
    }
}
