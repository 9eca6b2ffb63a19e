// From layers, which are checked here, to packed weights and buffers, and from pixels to answers.
#include "native.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum { FINE, NO_MEMORY, BAD_SHAPE, BAD_WEIGHTS, BAD_NUMBERS, BAD_CALL };
enum { MOST_SIDE = 4096, MOST_CHANNELS = 8192, MOST_BYTES = 1 << 28, MOST_LAYERS = 4096,
       MOST_MEMORY = 1 << 30 };
enum { TILE_BYTES = 128 << 10 };  // of expanded rows: they stay in the cache until the projection has read them

struct tensor {
    int height, width, channels, step;  // step: bytes from a pixel to the next
    int zero, uses;                     // zero of uint8
    uint8_t *data;                      // NULL of what never leaves the cache
};

struct packed {
    int count, groups;
    struct panel *panels;
    int8_t *weight;
    int32_t *bias, *distances;
    float *scale, *offset;
    struct add add;
};

struct network {
    const struct kernels *kernels;
    int layers, picture_step;
    struct fusiform_layer *layer;
    struct fusiform_piece *piece;
    struct tensor *tensor;
    struct packed *packed;
    uint8_t *picture, *expanded, *between, *spare, *pads, *quantized;
    float *means;
    size_t bytes;
    void **memory;  // all that was allotted: each begins with the address of the one before
};

// Zeroed, aligned to 64 bytes, with some behind that vectors may read; NULL where there is none.
static void *allot(struct network *n, size_t bytes) {
    void **memory = (n->bytes += bytes) > MOST_MEMORY ? NULL : calloc(1, bytes + SLACK + 64 + sizeof(void *));
    if (!memory) return NULL;
    *memory = n->memory, n->memory = memory;
    return (void *)(((uintptr_t)(memory + 1) + 63) / 64 * 64);
}

EXPORT void fusiform_native_free(struct network *n) {
    for (void **memory = n ? n->memory : NULL, *before; memory; memory = before) before = *memory, free(memory);
    free(n);
}

static int padded(int channels) { return (channels + GRANULE - 1) / GRANULE * GRANULE; }
static size_t area(const struct tensor *t) { return (size_t)t->height * t->width; }
static size_t row_of(const struct tensor *t) { return (size_t)t->width * t->step; }

static struct requant requant_of(const struct fusiform_layer *l) {
    const int plain = l->zero == -128 && l->low == -128 && l->high == 127;
    return (struct requant){l->zero + 128, l->low + 128, l->high + 128, plain};
}

// ---- Checks: afterwards every layer reads what is there, and every sum fits its type. ----

static int positive(float value) { return value > 0 && isfinite(value); }

// The tensor that a layer reads, NULL where it may not.
static struct tensor *reads(struct network *n, int i, int source) {
    if (source < 0 || source >= i || n->layer[source].kind == CLASSIFIER) return NULL;
    n->tensor[source].uses++;
    return &n->tensor[source];
}

// Weights of `inputs` a channel; those of a channel begin `far` from the next one's and are `near` to each other.
static int check_weights(const struct network *n, const struct fusiform_layer *l, int inputs, int far, int near) {
    if (!l->weight || !l->bias || !l->scales || l->weight_size != (int64_t)l->channels * inputs ||
        l->bias_size != l->channels || l->scales_size != l->channels)
        return BAD_WEIGHTS;
    for (int c = 0; c < l->channels && l->kind != CLASSIFIER; c++) {
        int32_t size = 0;
        for (int k = 0; k < inputs; k++) size += abs(l->weight[(size_t)c * far + (size_t)k * near]);
        const double most = fabs((double)((const int32_t *)l->bias)[c]) + 255.0 * size;
        const float scale = n->layer[l->source].scale * l->scales[c] / l->scale;
        if (!positive(l->scales[c]) || !positive(scale) || scale >= 256 || most * scale >= 2e9 || most >= 2e9)
            return BAD_NUMBERS;
    }
    return FINE;
}

static int check_pieces(struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    int channels = 0;
    for (int k = 0; k < l->pieces; k++) {
        const struct fusiform_piece *p = &n->piece[l->first_piece + k];
        const struct tensor *from = p->source ? reads(n, i, p->source) : NULL, *t = &n->tensor[i];
        if (!from || p->first < 0 || p->first >= p->end || p->end > from->channels || from->height != t->height ||
            from->width != t->width || n->layer[p->source].scale != l->scale || from->zero != t->zero)
            return BAD_SHAPE;
        channels += p->end - p->first;
        if (channels > l->channels) return BAD_SHAPE;
    }
    return channels == l->channels ? FINE : BAD_SHAPE;
}

static int check_layer(struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    struct tensor *t = &n->tensor[i];
    if (l->channels < 1 || l->channels > MOST_CHANNELS) return BAD_SHAPE;
    if (l->zero < -128 || l->zero > 127 || l->low < -128 || l->high > 127 || l->low > l->high ||
        (l->kind != CLASSIFIER && !positive(l->scale)))
        return BAD_NUMBERS;
    *t = (struct tensor){l->height, l->width, l->channels, padded(l->channels), l->zero + 128, 0, NULL};
    if (i == 0) {
        const int sides = l->height > 0 && l->width > 0 && l->height <= MOST_SIDE && l->width <= MOST_SIDE;
        return l->kind == INPUT && l->channels == 3 && sides ? FINE : BAD_SHAPE;
    }
    const struct tensor *in = reads(n, i, l->source), *other = l->kind == ADD ? reads(n, i, l->other) : in;
    if (!in || !other || (l->source == 0) != (l->kind == CONV) || (l->kind == CLASSIFIER) != (i == n->layers - 1))
        return BAD_SHAPE;
    t->height = in->height, t->width = in->width;
    if (l->kind == CONV || l->kind == DEPTHWISE || l->kind == MAXPOOL) {
        const int pad = l->before + l->after - 3;
        if (l->stride < 1 || l->stride > 2 || l->before < 0 || l->before > 1 || l->after < 0 || l->after > 1 ||
            in->height + pad < 0 || in->width + pad < 0 || (l->kind == DEPTHWISE && l->stride == 1 && pad != -1))
            return BAD_SHAPE;
        t->height = (in->height + pad) / l->stride + 1, t->width = (in->width + pad) / l->stride + 1;
    }
    if (area(t) > (size_t)MOST_BYTES / t->step) return BAD_SHAPE;
    const int same = in->channels == l->channels, kept = n->layer[l->source].scale == l->scale && in->zero == t->zero;
    const int alike = other->channels == l->channels && other->height == in->height && other->width == in->width;
    switch (l->kind) {
    case CONV: return check_weights(n, l, 27, 27, 1);
    case POINTWISE:
    case CLASSIFIER: return check_weights(n, l, in->channels, in->channels, 1);
    case DEPTHWISE: return same ? check_weights(n, l, 9, 1, l->channels) : BAD_SHAPE;
    case ADD: return same && alike && l->other ? FINE : BAD_SHAPE;
    case GATHER: return check_pieces(n, i);
    case MAXPOOL: return same && kept && l->stride == 2 ? FINE : BAD_SHAPE;
    default: return BAD_SHAPE;
    }
}

// ---- Packing: the order of channels in vectors follows from how they become bytes, see kernels.inc. ----

static int place_of(int channel, int vectors, int bytes) {
    return channel / 4 % vectors * bytes / 4 + channel / (4 * vectors) * 4 + channel % 4;
}

static int reserve(struct network *n, struct packed *p, int width, int inputs) {
    p->panels = allot(n, (size_t)width / GRANULE * sizeof *p->panels);
    p->weight = allot(n, (size_t)width * inputs), p->bias = allot(n, 4 * (size_t)width);
    p->scale = allot(n, 4 * (size_t)width), p->offset = allot(n, 4 * (size_t)width);
    return p->panels && p->weight && p->bias && p->scale && p->offset ? FINE : NO_MEMORY;
}

// The bias with the input's zero point in it, and what sums are multiplied by.
static void pack_numbers(struct network *n, int i, int channel, int place, int32_t sum) {
    const struct fusiform_layer *l = &n->layer[i], *source = &n->layer[l->source];
    const uint32_t zero = (uint32_t)n->tensor[l->source].zero;
    n->packed[i].bias[place] = (int32_t)(((const uint32_t *)l->bias)[channel] - zero * (uint32_t)sum);
    n->packed[i].scale[place] = source->scale * l->scales[channel] / l->scale;
}

// Weights of rows of `length` inputs; a row of the picture lies a step from the next.
static int pack_gemm(struct network *n, int i, int rows, int length) {
    const struct fusiform_layer *l = &n->layer[i];
    struct packed *p = &n->packed[i];
    const int bytes = n->kernels->bytes, each = (length + 3) / 4;
    const int width = l->kind == CLASSIFIER ? (l->channels + bytes - 1) / bytes * bytes : padded(l->channels);
    p->groups = rows * each, p->distances = allot(n, 4 * (size_t)p->groups);
    if (!p->distances || reserve(n, p, width, 4 * p->groups)) return NO_MEMORY;
    for (int k = 0; k < p->groups; k++) p->distances[k] = k / each * n->picture_step + k % each * 4;
    for (int first = 0, channels; first < width; first += channels) {
        int vectors = 4;
        while (first + vectors * bytes / 4 > width) vectors /= 2;
        channels = vectors * bytes / 4;
        int8_t *weight = p->weight + (size_t)first * p->groups * 4;
        p->panels[p->count++] = (struct panel){vectors, first, weight, p->bias + first, p->scale + first};
        for (int c = 0; c < channels && first + c < l->channels; c++) {
            const int place = place_of(c, vectors, bytes);
            const int8_t *from = l->weight + (size_t)(first + c) * rows * length;
            int32_t sum = 0;
            for (int k = 0; k < rows * length; k++) sum += from[k];
            int8_t *to = weight + 4 * place;
            for (int r = 0; r < rows; r++)
                for (int k = 0; k < length; k++) to[((size_t)(r * each + k / 4) * channels) * 4 + k % 4] = from[r * length + k];
            if (l->kind != CLASSIFIER) pack_numbers(n, i, first + c, first + place, sum);
            else p->bias[first + place] = sum;
        }
    }
    if (l->kind == CLASSIFIER) memcpy(p->scale, l->scales, 4 * (size_t)l->channels);
    if (l->kind == CLASSIFIER) memcpy(p->offset, l->bias, 4 * (size_t)l->channels);
    return FINE;
}

static int pack_depthwise(struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    struct packed *p = &n->packed[i];
    const int bytes = n->kernels->bytes, rows = l->stride == 1 ? 2 : 1;
    if (reserve(n, p, (l->channels + bytes - 1) / bytes * bytes, 12 * rows)) return NO_MEMORY;
    for (int c = 0; c < l->channels; c++) {
        const int first = c / bytes * bytes, vectors = padded(l->channels) - first > bytes / 2 ? 4 : 2;
        const int place = place_of(c - first, vectors, bytes);
        int8_t *weight = p->weight + (size_t)first * 12 * rows + 4 * place;
        int32_t sum = 0;
        for (int k = 0; k < 9; k++) {
            const int8_t w = l->weight[(size_t)k * l->channels + c];
            sum += w;
            for (int y = 0; y < rows; y++) weight[(k % 3 * rows + y) * vectors * bytes + k / 3 + y] = w;
        }
        pack_numbers(n, i, c, first + place, sum);
    }
    return FINE;
}

// XNNPACK's fixed-point addition: the larger scale gets a multiplier of 21 bits.
static int pack_add(struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    const float left = n->layer[l->source].scale / l->scale, right = n->layer[l->other].scale / l->scale;
    int exponent;
    frexpf(fmaxf(left, right), &exponent);
    if (!(fminf(left, right) >= 0x1p-10f && exponent <= 8)) return BAD_NUMBERS;
    struct add *a = &n->packed[i].add;
    a->shift = 21 - exponent, a->requant = requant_of(l);
    a->left = (int32_t)lrintf(ldexpf(left, a->shift)), a->right = (int32_t)lrintf(ldexpf(right, a->shift));
    a->bias = (1 << (a->shift - 1)) - a->left * n->tensor[l->source].zero - a->right * n->tensor[l->other].zero;
    return FINE;
}

// ---- Which layers run together ----

struct unit {
    int expand, depthwise, project, add, end;  // layers, -1 where there is none; the last of them
};

static int follows(const struct network *n, int i, int kind) {
    const struct fusiform_layer *next = &n->layer[i + 1];  // there is one: the classifier is the last
    return n->tensor[i].uses == 1 && next->kind == kind && (next->source == i || (kind == ADD && next->other == i));
}

static struct unit unit_at(const struct network *n, int i) {
    struct unit u = {-1, -1, -1, -1, i};
    if (n->layer[i].kind == POINTWISE && follows(n, i, DEPTHWISE)) u.expand = i++;
    if (n->layer[i].kind != DEPTHWISE) return u;
    u.depthwise = u.end = i;
    if (follows(n, i, POINTWISE)) u.project = u.end = ++i;
    if (u.project >= 0 && follows(n, i, ADD)) u.add = u.end = ++i;
    return u;
}

static int tile_rows(const struct network *n, const struct unit *u) {
    const int stride = n->layer[u->depthwise].stride, height = n->tensor[u->depthwise].height;
    const size_t most = TILE_BYTES / row_of(&n->tensor[n->layer[u->depthwise].source]);
    const int rows = most > 6 ? ((int)most - 2) / stride / 2 * 2 : 2;
    return rows < height ? rows : height;
}

static int allot_buffers(struct network *n) {
    size_t expanded = 0, between = 0, row = 0, widest = 0;
    for (int i = 1; i < n->layers - 1;) {
        const struct unit u = unit_at(n, i);
        const int kind = n->layer[i].kind, middle = u.depthwise >= 0 ? u.depthwise : i;
        const struct tensor *in = &n->tensor[n->layer[middle].source], *out = &n->tensor[middle];
        const size_t rows = u.depthwise >= 0 ? (size_t)tile_rows(n, &u) : 0, stride = (size_t)n->layer[middle].stride;
        const size_t here = kind == MAXPOOL ? row_of(in) + 2 * in->step : (rows * stride + 2) * row_of(in);
        if ((u.expand >= 0 || kind == MAXPOOL) && here > expanded) expanded = here;
        if (rows * row_of(out) > between) between = rows * row_of(out);
        if (row_of(in) > row) row = row_of(in);
        if (row_of(out) > row) row = row_of(out);
        if ((size_t)n->tensor[u.end].step > widest) widest = (size_t)n->tensor[u.end].step;
        if (!(n->tensor[u.end].data = allot(n, area(&n->tensor[u.end]) * n->tensor[u.end].step))) return NO_MEMORY;
        i = u.end + 1;
    }
    n->expanded = allot(n, expanded), n->between = allot(n, between), n->spare = allot(n, row), n->pads = allot(n, row);
    n->picture = allot(n, (size_t)n->picture_step * (n->tensor[0].height + 2));
    n->quantized = allot(n, widest), n->means = allot(n, 4 * widest);
    return n->expanded && n->between && n->spare && n->pads && n->picture && n->quantized && n->means ? FINE : NO_MEMORY;
}

// ---- Running ----

static void convolve(const struct network *n, int i, const uint8_t *in, size_t in_step, size_t pixels, uint8_t *out) {
    const struct packed *p = &n->packed[i];
    struct gemm g = {in, in_step, pixels, p->groups, p->distances, out, (size_t)n->tensor[i].step,
                     requant_of(&n->layer[i])};
    for (int k = 0; k < p->count; k++) {
        g.out = out + p->panels[k].first;
        n->kernels->gemm(&g, &p->panels[k]);
    }
}

static void pointwise(const struct network *n, int i, const uint8_t *in, size_t pixels, uint8_t *out) {
    convolve(n, i, in, (size_t)n->tensor[n->layer[i].source].step, pixels, out);
}

// The first convolution reads rows of the padded picture as they lie: three times nine numbers.
static void first(const struct network *n, int i, const uint8_t *pixels) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *in = &n->tensor[0], *out = &n->tensor[i];
    const size_t row = 3 * (size_t)in->width, step = (size_t)n->picture_step;
    memset(n->picture, in->zero, step * (in->height + 2));
    for (int y = 0; y < in->height; y++)
        memcpy(n->picture + (y + l->before) * step + 3 * l->before, pixels + y * row, row);
    for (int y = 0; y < out->height; y++)
        convolve(n, i, n->picture + y * l->stride * step, 3 * (size_t)l->stride, (size_t)out->width,
                 out->data + y * row_of(out));
}

// Expand, depthwise, project and add, in tiles of rows: what is between them stays in the cache.
static void block(const struct network *n, const struct unit *u) {
    const struct fusiform_layer *l = &n->layer[u->depthwise];
    const struct tensor *in = &n->tensor[l->source], *out = &n->tensor[u->depthwise], *end = &n->tensor[u->end];
    const struct tensor *source = u->expand >= 0 ? &n->tensor[n->layer[u->expand].source] : in;
    const struct packed *p = &n->packed[u->depthwise];
    const size_t row = row_of(in), out_row = row_of(out);
    const int rows = tile_rows(n, u), pair = l->stride == 1 ? 2 : 1;
    const uint8_t *expanded = u->expand >= 0 ? n->expanded : in->data;
    struct depthwise d = {{0}, n->pads, (size_t)in->step, in->step, in->width, out->width, l->before, p->weight,
                          p->bias, p->scale, {0}, requant_of(l)};
    memset(n->pads, in->zero, row);
    int first = 0, done = 0;  // the expanded rows that there are
    for (int y0 = 0; y0 < out->height; y0 += rows) {
        const int y1 = y0 + rows < out->height ? y0 + rows : out->height;
        int low = y0 * l->stride - l->before, high = (y1 - 1) * l->stride - l->before + 3;
        low = low < 0 ? 0 : low, high = high > in->height ? in->height : high;
        if (u->expand >= 0) {
            if (low < done) memmove(n->expanded, n->expanded + (low - first) * row, (done - low) * row);
            else done = low;
            first = low;
            pointwise(n, u->expand, source->data + done * row_of(source), (size_t)(high - done) * source->width,
                      n->expanded + (done - first) * row);
            done = high;
        }
        uint8_t *target = u->project >= 0 ? n->between : end->data + y0 * out_row, *made = end->data + y0 * row_of(end);
        for (int y = y0; y < y1; y += pair) {
            for (int r = 0; r < 4; r++) {
                const int from = y * l->stride - l->before + r;
                d.rows[r] = from < 0 || from >= in->height ? n->pads : expanded + (from - first) * row;
            }
            d.out[0] = target + (y - y0) * out_row;
            d.out[1] = y + 1 < y1 ? d.out[0] + out_row : n->spare;
            (pair == 2 ? n->kernels->depthwise_1 : n->kernels->depthwise_2)(&d);
        }
        const size_t pixels = (size_t)(y1 - y0) * out->width;
        if (u->project >= 0) pointwise(n, u->project, n->between, pixels, made);
        if (u->add < 0) continue;
        const struct fusiform_layer *sum = &n->layer[u->add];
        const uint8_t *left = sum->source == u->project ? made : n->tensor[sum->source].data + y0 * row_of(end);
        const uint8_t *right = sum->other == u->project ? made : n->tensor[sum->other].data + y0 * row_of(end);
        n->kernels->add(&n->packed[u->add].add, left, right, made, pixels * end->step);
    }
}

// Pixel by pixel, in sixteens: what is copied too much, the next piece or pixel writes over.
static void gather(const struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *out = &n->tensor[i];
    for (size_t x = 0; x < area(out); x++) {
        uint8_t *to = out->data + x * out->step;
        for (const struct fusiform_piece *p = &n->piece[l->first_piece], *end = p + l->pieces; p < end; p++) {
            const uint8_t *from = n->tensor[p->source].data + x * n->tensor[p->source].step;
            for (int c = p->first; c < p->end; c += 16) memcpy(to + (c - p->first), from + c, 16);
            to += p->end - p->first;
        }
    }
}

static void maxpool(const struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *in = &n->tensor[l->source], *out = &n->tensor[i];
    const size_t row = row_of(in), step = (size_t)in->step;
    uint8_t *tall = n->expanded, *to = out->data;  // the maxima of three rows, with a pixel of padding on both sides
    memset(tall, in->zero, row + 2 * step);
    memset(n->pads, in->zero, row);
    for (int y = 0; y < out->height; y++) {
        const uint8_t *rows[3];
        for (int r = 0, from = y * 2 - l->before; r < 3; r++, from++)
            rows[r] = from < 0 || from >= in->height ? n->pads : in->data + from * row;
        n->kernels->maximum(rows[0], rows[1], rows[2], tall + step, row);
        for (const uint8_t *a = tall + (1 - l->before) * step; to < out->data + (y + 1) * row_of(out); a += 2 * step) {
            n->kernels->maximum(a, a + step, a + 2 * step, to, step);
            to += step;
        }
    }
}

// The mean in float, quantised for this picture alone, then the sums, and the file's own scales and biases.
static void classify(const struct network *n, int i, float *answers) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *in = &n->tensor[l->source];
    const struct packed *p = &n->packed[i];
    n->kernels->mean(in->data, area(in), (size_t)in->step, in->channels, in->zero, n->layer[l->source].scale, n->means);
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
    for (int k = 0, bytes = n->kernels->bytes; k < l->channels; k += bytes) {
        int32_t sums[64];
        n->kernels->dot(n->quantized, p->groups, p->panels[k / bytes].weight, sums);
        for (int c = k; c < k + bytes && c < l->channels; c++) {
            const int place = place_of(c - k, 4, bytes);
            answers[c] = (float)(sums[place] - zero * p->bias[k + place]) * inverse * p->scale[c] + p->offset[c];
        }
    }
    if (l->softmax) n->kernels->softmax(answers, l->channels);
}

// ---- What Python calls ----

static const struct kernels *const kernel_sets[] = {&fusiform_avx512, &fusiform_avxvnni, &fusiform_portable};

EXPORT int fusiform_native_version(void) { return VERSION; }

// The name of an instruction set, the best first, or NULL past the last; empty where this processor lacks it.
EXPORT const char *fusiform_native_kernels(int index) {
    if (index < 0 || index >= (int)(sizeof kernel_sets / sizeof *kernel_sets)) return NULL;
    return kernel_sets[index]->usable() ? kernel_sets[index]->name : "";
}

static int build(struct network *n, const struct fusiform_layer *layers, const struct fusiform_piece *pieces, int count) {
    const size_t many = (size_t)n->layers;
    n->layer = allot(n, many * sizeof *n->layer), n->tensor = allot(n, many * sizeof *n->tensor);
    n->packed = allot(n, many * sizeof *n->packed), n->piece = allot(n, (size_t)count * sizeof *n->piece);
    if (!n->layer || !n->tensor || !n->packed || !n->piece) return NO_MEMORY;
    memcpy(n->layer, layers, many * sizeof *layers);
    if (count) memcpy(n->piece, pieces, (size_t)count * sizeof *pieces);
    int status = FINE;
    for (int i = 0; i < n->layers && !status; i++) {
        const struct fusiform_layer *l = &n->layer[i];
        const int sound = l->first_piece >= 0 && l->pieces >= 0 && l->pieces <= count - l->first_piece;
        status = sound ? check_layer(n, i) : BAD_SHAPE;
    }
    if (status) return status;
    n->picture_step = 3 * (n->tensor[0].width + 2);
    for (int i = 1; i < n->layers && !status; i++) {
        const int kind = n->layer[i].kind, channels = n->tensor[n->layer[i].source].channels;
        if (kind == CONV) status = pack_gemm(n, i, 3, 9);
        if (kind == POINTWISE || kind == CLASSIFIER) status = pack_gemm(n, i, 1, channels);
        if (kind == DEPTHWISE) status = pack_depthwise(n, i);
        if (kind == ADD) status = pack_add(n, i);
    }
    return status ? status : allot_buffers(n);
}

EXPORT int fusiform_native_new(const struct fusiform_layer *layers, int count, const struct fusiform_piece *pieces,
                               int piece_count, int kernels, struct network **made) {
    const char *name = fusiform_native_kernels(kernels);
    *made = NULL;
    if (!layers || count < 3 || count > MOST_LAYERS || piece_count < 0 || piece_count > 16 * MOST_LAYERS ||
        (piece_count && !pieces) || !name || !*name)
        return BAD_CALL;
    struct network *n = calloc(1, sizeof *n);
    if (!n) return NO_MEMORY;
    n->layers = count, n->kernels = kernel_sets[kernels];
    const int status = build(n, layers, pieces, piece_count);
    if (status) fusiform_native_free(n);
    else *made = n;
    return status;
}

// Pictures of uint8 pixels, one after the other, to as many rows of answers; features, the means, only if asked for.
EXPORT int fusiform_native_run(struct network *n, const uint8_t *pixels, int64_t pixel_bytes, float *answers,
                               int64_t answer_count, float *features, int64_t feature_count, int64_t pictures) {
    const struct fusiform_layer *last = &n->layer[n->layers - 1];
    const size_t bytes = 3 * area(&n->tensor[0]), classes = (size_t)last->channels;
    const size_t means = (size_t)n->tensor[last->source].channels;
    if (pictures < 0 || pictures > INT32_MAX || pixel_bytes != (int64_t)bytes * pictures ||
        answer_count != (int64_t)classes * pictures || (features && feature_count != (int64_t)means * pictures))
        return BAD_CALL;
    for (int64_t k = 0; k < pictures; k++, pixels += bytes, answers += classes) {
        for (int i = 1, next; i < n->layers; i = next) {
            const struct fusiform_layer *l = &n->layer[i];
            const struct tensor *in = &n->tensor[l->source], *out = &n->tensor[i];
            const struct unit u = l->kind == CLASSIFIER ? (struct unit){-1, -1, -1, -1, i} : unit_at(n, i);
            next = u.end + 1;
            if (u.depthwise >= 0) block(n, &u);
            else if (l->kind == CONV) first(n, i, pixels);
            else if (l->kind == POINTWISE) pointwise(n, i, in->data, area(in), out->data);
            else if (l->kind == GATHER) gather(n, i);
            else if (l->kind == MAXPOOL) maxpool(n, i);
            else if (l->kind == CLASSIFIER) classify(n, i, answers);
            else n->kernels->add(&n->packed[i].add, in->data, n->tensor[l->other].data, out->data, area(out) * out->step);
        }
        if (features) memcpy(features + k * means, n->means, 4 * means);
    }
    return FINE;
}
