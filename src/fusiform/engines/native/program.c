// From pixels to answers: layers that Python has checked (checks.py), in memory that it has laid out (plan.py).
#include "native.h"

#include <math.h>
#include <string.h>

static const struct kernels *const kernel_sets[] = {
#if X86
    &fusiform_avx512, &fusiform_avxvnni,
#elif ARM
    &fusiform_i8mm, &fusiform_dotprod,
#endif
    &fusiform_portable};

static size_t area(const struct fusiform_layer *l) { return (size_t)l->height * l->width; }
static size_t row_of(const struct fusiform_layer *l) { return (size_t)l->width * l->step; }

static void convolve(const struct fusiform_network *n, const struct fusiform_layer *l, const uint8_t *in, size_t pixels,
                     uint8_t *out) {
    const struct kernels *kernels = kernel_sets[n->kernels];
    const struct fusiform_layer *source = &n->layer[l->source];
    const int window = l->kind == CONV, groups = window ? 9 : (source->channels + 3) / 4, width = l->step;
    struct gemm g = {in, (size_t)(window ? 3 * l->stride : source->step), pixels, groups,
                     window ? n->window : n->nearby, 4, l->weights, l->biases, l->scales, out, (size_t)width,
                     requant_of(l)};
    for (int c = 0, each; c < width; c += each) {
        while ((each = g.vectors * kernels->bytes / 4) > width - c) g.vectors /= 2;
        kernels->gemm(&g);
        g.out += each, g.weights += each * groups * 4, g.biases += each, g.scales += each;
    }
}

// The first convolution reads rows of the padded picture as they lie: three times nine numbers.
static void first(const struct fusiform_network *n, const struct fusiform_layer *l, const uint8_t *pixels) {
    const struct fusiform_layer *in = n->layer;
    const size_t row = 3 * (size_t)in->width, step = (size_t)n->picture_step;
    memset(n->picture, in->zero, step * (in->height + 2));
    for (int y = 0; y < in->height; y++)
        memcpy(n->picture + (y + l->before) * step + 3 * l->before, pixels + y * row, row);
    for (int y = 0; y < l->height; y++)
        convolve(n, l, n->picture + y * l->stride * step, (size_t)l->width, l->map + y * row_of(l));
}

// Expand, depthwise, project and add, in tiles of rows: what is between them stays in the cache.
static void block(const struct fusiform_network *n, const struct fusiform_layer *l) {
    const struct fusiform_layer *in = &n->layer[l->source], *expand = l->expand ? &n->layer[l->expand] : NULL;
    const struct fusiform_layer *project = l->project ? &n->layer[l->project] : NULL;
    const struct fusiform_layer *add = l->add ? &n->layer[l->add] : NULL, *end = add ? add : project ? project : l;
    const struct fusiform_layer *source = expand ? &n->layer[expand->source] : in;
    const size_t row = row_of(in), out_row = row_of(l);
    const int pair = l->stride == 1 ? 2 : 1;
    const uint8_t *expanded = expand ? n->expanded : in->map;
    struct depthwise d = {{0}, n->pads, (size_t)in->step, in->step, in->width, l->width, l->before, l->weights,
                          l->biases, l->scales, {0}, requant_of(l)};
    memset(n->pads, in->zero, row);
    int first = 0, done = 0;  // the expanded rows that there are
    for (int y0 = 0; y0 < l->height; y0 += l->rows) {
        const int y1 = y0 + l->rows < l->height ? y0 + l->rows : l->height;
        int low = y0 * l->stride - l->before, high = (y1 - 1) * l->stride - l->before + 3;
        low = low < 0 ? 0 : low, high = high > in->height ? in->height : high;
        if (expand) {
            if (low < done) memmove(n->expanded, n->expanded + (low - first) * row, (done - low) * row);
            else done = low;
            first = low;
            convolve(n, expand, source->map + done * row_of(source), (size_t)(high - done) * source->width,
                     n->expanded + (done - first) * row);
            done = high;
        }
        uint8_t *made = end->map + y0 * row_of(end), *target = project ? n->between : made;
        for (int y = y0; y < y1; y += pair) {
            for (int r = 0; r < 4; r++) {
                const int from = y * l->stride - l->before + r;
                d.rows[r] = from < 0 || from >= in->height ? n->pads : expanded + (from - first) * row;
            }
            d.out[0] = target + (y - y0) * out_row;
            d.out[1] = y + 1 < y1 ? d.out[0] + out_row : n->spare;
            kernel_sets[n->kernels]->depthwise(&d, l->stride);
        }
        const size_t pixels = (size_t)(y1 - y0) * l->width;
        if (project) convolve(n, project, n->between, pixels, made);
        if (!add) continue;
        const uint8_t *left = add->source == l->project ? made : n->layer[add->source].map + y0 * row_of(end);
        const uint8_t *right = add->other == l->project ? made : n->layer[add->other].map + y0 * row_of(end);
        kernel_sets[n->kernels]->add(add, left, right, made, pixels * end->step);
    }
}

// Pixel by pixel, in sixteens: what is copied too much, the next piece or pixel writes over.
static void gather(const struct fusiform_network *n, const struct fusiform_layer *l) {
    for (size_t x = 0; x < area(l); x++) {
        uint8_t *to = l->map + x * l->step;
        for (const struct fusiform_piece *p = &n->piece[l->first_piece], *end = p + l->pieces; p < end; p++) {
            const uint8_t *from = n->layer[p->source].map + x * n->layer[p->source].step;
            for (int c = p->first; c < p->end; c += 16) memcpy(to + (c - p->first), from + c, 16);
            to += p->end - p->first;
        }
    }
}

static void maxpool(const struct fusiform_network *n, const struct fusiform_layer *l) {
    const struct kernels *kernels = kernel_sets[n->kernels];
    const struct fusiform_layer *in = &n->layer[l->source];
    const size_t row = row_of(in), step = (size_t)in->step;
    uint8_t *tall = n->expanded, *to = l->map;  // the maxima of three rows, with a pixel of padding on both sides
    memset(tall, in->zero, row + 2 * step);
    memset(n->pads, in->zero, row);
    for (int y = 0; y < l->height; y++) {
        const uint8_t *rows[3];
        for (int r = 0, from = y * 2 - l->before; r < 3; r++, from++)
            rows[r] = from < 0 || from >= in->height ? n->pads : in->map + from * row;
        kernels->maximum(rows[0], rows[1], rows[2], tall + step, row);
        const uint8_t *a = tall + (1 - l->before) * step;
        for (int x = 0; x < l->width; x++, a += 2 * step, to += step)
            kernels->maximum(a, a + step, a + 2 * step, to, step);
    }
}

// The mean in float, quantised for this picture alone, then the sums, and the file's own scales and biases.
static void classify(const struct fusiform_network *n, const struct fusiform_layer *l, float *answers) {
    const struct kernels *kernels = kernel_sets[n->kernels];
    const struct fusiform_layer *in = &n->layer[l->source];
    const float *offsets = l->scales + l->scale_size / 2;
    kernels->mean(in->map, area(in), (size_t)in->step, in->channels, in->zero, l->scale, n->means);
    float least = 0, most = 0;
    for (int c = 0; c < in->channels; c++) least = fminf(least, n->means[c]), most = fmaxf(most, n->means[c]);
    const float scale = least == most ? 1.0f : 255.0f / (most - least), inverse = 1.0f / scale;
    const float low = least * scale, high = most * scale;
    const float nudged = (-128.0f + low) + (127.0f + high) > 0 ? -128.0f - low : 127.0f - high;
    const int zero = (int)lrintf(fminf(fmaxf(nudged, -128.0f), 127.0f)) + 128;
    for (int c = 0; c < in->channels; c++) {
        const long value = lrintf(n->means[c] * scale) + zero;
        n->quantized[c] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
    for (int k = 0, bytes = kernels->bytes, groups = (in->channels + 3) / 4; k < l->channels; k += bytes) {
        int32_t sums[64];
        kernels->dot(n->quantized, groups, l->weights + (size_t)k * groups * 4, sums);
        for (int c = k; c < k + bytes && c < l->channels; c++) {
            const uint32_t from_zero = (uint32_t)(zero - kernels->less) * (uint32_t)l->biases[c];
            const int32_t sum = (int32_t)((uint32_t)sums[c - k] - from_zero);
            answers[c] = (float)sum * inverse * l->scales[c] + offsets[c];
        }
    }
    if (l->softmax) kernels->softmax(answers, l->channels);
}

// ---- What Python calls ----

EXPORT int fusiform_native_version(void) { return VERSION; }

// The name of an instruction set, the best first, or NULL past the last; empty where this processor lacks it.
EXPORT const char *fusiform_native_kernels(int index) {
    if (index < 0 || index >= (int)(sizeof kernel_sets / sizeof *kernel_sets)) return NULL;
    return kernel_sets[index]->usable() ? kernel_sets[index]->name : "";
}

// How long its vectors are, and what they read activations less by: what weights are packed for.
EXPORT int fusiform_native_bytes(int index) { return fusiform_native_kernels(index) ? kernel_sets[index]->bytes : 0; }
EXPORT int fusiform_native_less(int index) { return fusiform_native_kernels(index) ? kernel_sets[index]->less : 0; }

// Pictures of uint8 pixels, one after the other, to as many rows of answers; features, the means, only if asked for.
EXPORT int fusiform_native_run(const struct fusiform_network *n, const uint8_t *pixels, int64_t pixel_bytes,
                               float *answers, int64_t answer_count, float *features, int64_t feature_count,
                               int64_t pictures) {
    const struct fusiform_layer *l = n->layer, *last = &l[n->layers - 1];
    const size_t bytes = 3 * area(l), classes = (size_t)last->channels, means = (size_t)l[last->source].channels;
    if (pictures < 0 || pictures > INT32_MAX || pixel_bytes != (int64_t)bytes * pictures ||
        answer_count != (int64_t)classes * pictures || (features && feature_count != (int64_t)means * pictures))
        return 1;
    for (int64_t k = 0; k < pictures; k++, pixels += bytes, answers += classes) {
        for (l = n->layer + 1; l <= last; l++) {
            const struct fusiform_layer *in = &n->layer[l->source];
            if (l->within) continue;
            if (l->kind == DEPTHWISE) block(n, l);
            else if (l->kind == CONV) first(n, l, pixels);
            else if (l->kind == POINTWISE) convolve(n, l, in->map, area(in), l->map);
            else if (l->kind == GATHER) gather(n, l);
            else if (l->kind == MAXPOOL) maxpool(n, l);
            else if (l->kind == CLASSIFIER) classify(n, l, answers);
            else kernel_sets[n->kernels]->add(l, in->map, n->layer[l->other].map, l->map, area(l) * l->step);
        }
        if (features) memcpy(features + k * means, n->means, 4 * means);
    }
    return 0;
}

// Rows of a photograph of four bytes a pixel, each `row` long, to as many of kept pixels in `between`; and those to the
// kept rows, from the first of them on. All that is written needs room for SLACK more.
EXPORT void fusiform_native_resize(int kernels, const uint8_t *in, int64_t row, int rows, const struct taps *x,
                                   const struct taps *y, uint8_t *between, uint8_t *out) {
    const size_t step = 3 * (size_t)x->kept;
    for (int r = 0; r < rows; r++) kernel_sets[kernels]->across(in + r * row, x, between + r * step);
    for (int r = 0; r < y->kept; r++)
        kernel_sets[kernels]->down(between + (y->first[r] - y->first[0]) * step, step,
                                   y->weights + (size_t)r * y->count, y->count, out + r * step);
}
