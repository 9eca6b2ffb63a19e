// From checked layers to packed weights and buffers, and from pixels to answers.
#include "native.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum { NO_MEMORY = 1, BAD_SHAPE, BAD_WEIGHTS, BAD_NUMBERS, BAD_CALL };
enum { MOST_SIDE = 4096, MOST_CHANNELS = 8192, MOST_BYTES = 1 << 28, MOST_LAYERS = 4096 };
enum { TILE_BYTES = 128 << 10 };  // of expanded rows: they stay in the cache until the projection has read them

struct tensor {
    int height, width, channels, step;  // step: bytes from a pixel to the next
    int zero, uses, last, buffer;       // zero of uint8; the buffer is -1 for what never leaves the cache
};

struct packed {
    struct panel *panels;
    int count, groups;
    int8_t *weight;
    int32_t *bias, *distances;
    float *scale;
};

struct network {
    const struct kernels *kernels;
    int layers, buffers, pixels_step;
    struct fusiform_layer *layer;
    struct fusiform_piece *piece;
    struct tensor *tensor;
    struct packed *packed;
    struct add *add;
    uint8_t **buffer, *picture, *expanded, *depthwise, *dummy, *pads, *quantized;
    float *sums;
};

static void *allot(size_t bytes) {
    bytes = (bytes + SLACK + 63) / 64 * 64;
#if defined(_WIN32)
    void *memory = _aligned_malloc(bytes, 64);
#else
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes)) return NULL;
#endif
    if (memory) memset(memory, 0, bytes);
    return memory;
}

static void release(void *memory) {
#if defined(_WIN32)
    _aligned_free(memory);
#else
    free(memory);
#endif
}

static int padded(int channels) { return (channels + GRANULE - 1) / GRANULE * GRANULE; }
static size_t area(const struct tensor *t) { return (size_t)t->height * t->width; }
static size_t bytes_of(const struct tensor *t) { return area(t) * t->step; }

// ---- Checks: afterwards every layer reads what is there, and every sum fits its type. ----

static int positive(float value) { return value > 0 && isfinite(value); }

static int check_sums(const struct fusiform_layer *l, const struct tensor *in, float in_scale, int per_channel,
                      int stride, int step) {
    if (l->weight_size != (int64_t)l->channels * per_channel || !l->weight || !l->bias || !l->scales) return BAD_WEIGHTS;
    if (l->bias_size != l->channels || l->scales_size != l->channels) return BAD_WEIGHTS;
    if (l->kind == CLASSIFIER) return 0;
    for (int c = 0; c < l->channels; c++) {
        double most = fabs((double)((const int32_t *)l->bias)[c]);
        for (int k = 0; k < per_channel; k++) most += 255.0 * abs(l->weight[(size_t)c * stride + (size_t)k * step]);
        const float scale = in_scale * l->scales[c] / l->scale;
        if (!positive(l->scales[c]) || !positive(scale) || scale >= 256 || most * scale >= 2e9 || most >= 2e9)
            return BAD_NUMBERS;
    }
    (void)in;
    return 0;
}

static int check_layer(struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    struct tensor *t = &n->tensor[i];
    *t = (struct tensor){.channels = l->channels, .step = padded(l->channels), .zero = l->zero + 128, .buffer = -1};
    if (l->channels < 1 || l->channels > MOST_CHANNELS) return BAD_SHAPE;
    if (l->zero < -128 || l->zero > 127 || l->low < -128 || l->high > 127 || l->low > l->high) return BAD_NUMBERS;
    if (l->kind != CLASSIFIER && !positive(l->scale)) return BAD_NUMBERS;
    if (l->kind == INPUT) {
        t->height = l->height, t->width = l->width;
        if (i || l->channels != 3 || l->height < 1 || l->width < 1 || l->height > MOST_SIDE || l->width > MOST_SIDE)
            return BAD_SHAPE;
        return 0;
    }
    if (i == 0 || l->source < 0 || l->source >= i) return BAD_SHAPE;
    struct tensor *in = &n->tensor[l->source];
    const float in_scale = n->layer[l->source].scale;
    if (n->layer[l->source].kind == CLASSIFIER || (l->source == 0) != (l->kind == CONV)) return BAD_SHAPE;
    in->uses++, in->last = i;
    t->height = in->height, t->width = in->width;
    if (l->kind == CONV || l->kind == DEPTHWISE || l->kind == MAXPOOL) {
        if (l->stride < 1 || l->stride > 2 || l->before < 0 || l->before > 1 || l->after < 0 || l->after > 1)
            return BAD_SHAPE;
        if (l->kind == DEPTHWISE && l->stride == 1 && (l->before != 1 || l->after != 1)) return BAD_SHAPE;
        const int pad = l->before + l->after - 3;
        if (in->height + pad < 0 || in->width + pad < 0) return BAD_SHAPE;
        t->height = (in->height + pad) / l->stride + 1, t->width = (in->width + pad) / l->stride + 1;
    }
    int status = 0;
    switch (l->kind) {
    case CONV: status = check_sums(l, in, in_scale, 27, 27, 1); break;
    case POINTWISE: status = check_sums(l, in, in_scale, in->channels, in->channels, 1); break;
    case DEPTHWISE:
        if (l->channels != in->channels) return BAD_SHAPE;
        status = check_sums(l, in, in_scale, 9, 1, l->channels);
        break;
    case ADD: {
        if (l->other < 1 || l->other >= i || n->layer[l->other].kind == CLASSIFIER) return BAD_SHAPE;
        struct tensor *right = &n->tensor[l->other];
        right->uses++, right->last = i;
        if (in->channels != l->channels || right->channels != l->channels || right->height != in->height ||
            right->width != in->width)
            return BAD_SHAPE;
        break;
    }
    case GATHER: {
        int channels = 0;
        for (int k = 0; k < l->pieces; k++) {
            const struct fusiform_piece *p = &n->piece[l->first_piece + k];
            if (p->source < 1 || p->source >= i || p->first < 0 || p->first >= p->end) return BAD_SHAPE;
            struct tensor *from = &n->tensor[p->source];
            const struct fusiform_layer *of = &n->layer[p->source];
            if (of->kind == CLASSIFIER || p->end > from->channels || from->height != in->height ||
                from->width != in->width || of->scale != l->scale || of->zero != l->zero)
                return BAD_SHAPE;
            from->uses++, from->last = i;
            channels += p->end - p->first;
            if (channels > l->channels) return BAD_SHAPE;
        }
        if (channels != l->channels) return BAD_SHAPE;
        break;
    }
    case MAXPOOL:
        if (l->channels != in->channels || l->stride != 2 || l->scale != in_scale || l->zero != in->zero - 128)
            return BAD_SHAPE;
        break;
    case CLASSIFIER:
        if (i != n->layers - 1) return BAD_SHAPE;
        t->height = t->width = 1;
        status = check_sums(l, in, in_scale, in->channels, 0, 0);
        break;
    default: return BAD_SHAPE;
    }
    if (area(t) > (size_t)MOST_BYTES / t->step) return BAD_SHAPE;
    return status;
}

// ---- Packing ----

static struct requant requant_of(const struct fusiform_layer *l) {
    return (struct requant){l->zero + 128, l->low + 128, l->high + 128,
                            l->zero == -128 && l->low == -128 && l->high == 127};
}

// The order of channels in vectors follows from how they are packed to bytes and interleaved: see kernels.inc.
static int lane_of(int channel, int vectors, int vector_bytes, int *vector) {
    const int quad = channel / 4 % vectors, lane = channel / (4 * vectors);
    (void)vector_bytes;
    *vector = quad;
    return 4 * lane + channel % 4;
}

static int reserve(struct packed *p, int panels, size_t weights, size_t channels) {
    p->panels = calloc((size_t)panels, sizeof *p->panels);
    p->weight = allot(weights);
    p->bias = allot(4 * channels);
    p->scale = allot(4 * channels);
    return p->panels && p->weight && p->bias && p->scale ? 0 : NO_MEMORY;
}

static int pack_gemm(struct network *n, int i, int segments, int length) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *in = &n->tensor[l->source];
    struct packed *p = &n->packed[i];
    const int bytes = n->kernels->bytes, groups = (length + 3) / 4, total = segments * groups;
    const int width = l->kind == CLASSIFIER ? (l->channels + bytes - 1) / bytes * bytes : padded(l->channels);
    p->groups = total;
    p->distances = allot(4 * (size_t)total);
    if (!p->distances || reserve(p, width / GRANULE, (size_t)width * total * 4, (size_t)width)) return NO_MEMORY;
    for (int k = 0; k < total; k++) p->distances[k] = k / groups * n->pixels_step + k % groups * 4;
    for (int first = 0; first < width;) {
        int vectors = 4;
        while (first + vectors * bytes / 4 > width) vectors /= 2;
        const int channels = vectors * bytes / 4;
        int8_t *weight = p->weight + (size_t)first * total * 4;
        p->panels[p->count++] = (struct panel){vectors, first, weight, p->bias + first, p->scale + first};
        for (int c = 0; c < channels && first + c < l->channels; c++) {
            int vector;
            const int lane = lane_of(c, vectors, bytes, &vector), place = vector * bytes / 4 + lane;
            const int8_t *from = l->weight + (size_t)(first + c) * segments * length;
            int32_t sum = 0;
            for (int k = 0; k < segments * length; k++) sum += from[k];
            for (int s = 0; s < segments; s++)
                for (int g = 0; g < groups; g++) {
                    const int left = length - 4 * g;
                    memcpy(weight + ((size_t)(s * groups + g) * channels + place) * 4, from + s * length + 4 * g,
                           left < 4 ? left : 4);
                }
            if (l->kind == CLASSIFIER) {
                p->bias[first + place] = sum;
                continue;
            }
            p->bias[first + place] =
                (int32_t)((uint32_t)((const int32_t *)l->bias)[first + c] - (uint32_t)in->zero * (uint32_t)sum);
            p->scale[first + place] = n->layer[l->source].scale * l->scales[first + c] / l->scale;
        }
        first += channels;
    }
    return 0;
}

static int pack_depthwise(struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    struct packed *p = &n->packed[i];
    const int bytes = n->kernels->bytes, rows = l->stride == 1 ? 2 : 1;
    const int width = (l->channels + bytes - 1) / bytes * bytes;
    if (reserve(p, 1, (size_t)width * 12 * rows, (size_t)width)) return NO_MEMORY;
    for (int c = 0; c < l->channels; c++) {
        const int first = c / bytes * bytes, vectors = padded(l->channels) - first > bytes / 2 ? 4 : 2;
        int vector;
        const int lane = lane_of(c - first, vectors, bytes, &vector), place = first + vector * bytes / 4 + lane;
        int32_t sum = 0;
        for (int kx = 0; kx < 3; kx++)
            for (int ky = 0; ky < 3; ky++) {
                const int8_t w = l->weight[(ky * 3 + kx) * l->channels + c];
                sum += w;
                for (int y = 0; y < rows; y++)
                    p->weight[(size_t)first * 12 * rows + ((kx * rows + y) * vectors + vector) * bytes + 4 * lane + ky + y] = w;
            }
        p->bias[place] =
            (int32_t)((uint32_t)((const int32_t *)l->bias)[c] - (uint32_t)n->tensor[l->source].zero * (uint32_t)sum);
        p->scale[place] = n->layer[l->source].scale * l->scales[c] / l->scale;
    }
    return 0;
}

// XNNPACK's fixed-point addition: the larger scale gets a multiplier of 21 bits.
static int pack_add(struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    const float left = n->layer[l->source].scale / l->scale, right = n->layer[l->other].scale / l->scale;
    const float most = left > right ? left : right, least = left > right ? right : left;
    if (!(least >= 0x1p-10f && most < 0x1p8f)) return BAD_NUMBERS;
    int exponent;
    frexpf(most, &exponent);
    struct add *a = &n->add[i];
    a->shift = 20 - (exponent - 1);
    a->left = (int32_t)lrintf(ldexpf(left, a->shift)), a->right = (int32_t)lrintf(ldexpf(right, a->shift));
    a->bias = (1 << (a->shift - 1)) - a->left * n->tensor[l->source].zero - a->right * n->tensor[l->other].zero;
    a->requant = requant_of(l);
    return 0;
}

// ---- Which layers run together, and where their tensors lie ----

static int follows(const struct network *n, int i, int kind) {
    return i + 1 < n->layers && n->layer[i + 1].kind == kind && n->layer[i + 1].source == i && n->tensor[i].uses == 1;
}

struct unit {
    int expand, depthwise, project, add, end;  // layers, -1 where there is none; the last of them
};

static struct unit unit_at(const struct network *n, int i) {
    struct unit u = {-1, -1, -1, -1, i};
    if (n->layer[i].kind == POINTWISE && follows(n, i, DEPTHWISE)) u.expand = i, u.end = ++i;
    if (n->layer[i].kind != DEPTHWISE) return u;
    u.depthwise = i;
    if (follows(n, i, POINTWISE)) u.project = u.end = ++i;
    if (u.project >= 0 && i + 1 < n->layers && n->layer[i + 1].kind == ADD && n->tensor[i].uses == 1 &&
        n->layer[i + 1].source != n->layer[i + 1].other &&
        (n->layer[i + 1].source == i || n->layer[i + 1].other == i))
        u.add = u.end = ++i;
    return u;
}

static size_t tile_rows(const struct network *n, const struct unit *u) {
    const struct fusiform_layer *l = &n->layer[u->depthwise];
    const struct tensor *in = &n->tensor[l->source];
    const size_t height = (size_t)n->tensor[u->depthwise].height, row = (size_t)in->width * in->step;
    size_t rows = TILE_BYTES / row;
    rows = rows > 4 ? (rows - 2) / l->stride / 2 * 2 : 2;
    return rows < 2 ? 2 : rows < height ? rows : height;
}

// A buffer for each tensor that is read later than at once; one that is free again and large enough is taken first.
static int place_tensors(struct network *n) {
    size_t *sizes = calloc((size_t)n->layers, sizeof *sizes);
    int *until = calloc((size_t)n->layers, sizeof *until);
    size_t expanded = 0, depthwise = 0, row = 0;
    if (!sizes || !until) return free(sizes), free(until), NO_MEMORY;
    for (int i = 1; i < n->layers - 1;) {
        const struct unit u = unit_at(n, i);
        struct tensor *t = &n->tensor[u.end];
        if (n->layer[i].kind == MAXPOOL) {
            const struct tensor *in = &n->tensor[n->layer[i].source];
            const size_t wide = ((size_t)in->width + 2) * in->step;
            if (wide > expanded) expanded = wide;
        }
        if (u.depthwise >= 0) {
            const struct tensor *in = &n->tensor[n->layer[u.depthwise].source], *out = &n->tensor[u.depthwise];
            const size_t rows = tile_rows(n, &u), stride = (size_t)n->layer[u.depthwise].stride;
            const size_t here = (rows * stride + 2) * in->width * in->step, made = rows * out->width * out->step;
            if (u.expand >= 0 && here > expanded) expanded = here;
            if (made > depthwise) depthwise = made;
            if ((size_t)out->width * out->step > row) row = (size_t)out->width * out->step;
        }
        int found = -1;
        for (int b = 0; b < n->buffers; b++)
            if (until[b] < i && (found < 0 || sizes[b] > sizes[found])) found = b;
        if (found < 0) found = n->buffers++;
        if (bytes_of(t) > sizes[found]) sizes[found] = bytes_of(t);
        until[found] = t->last, t->buffer = found;
        i = u.end + 1;
    }
    n->buffer = calloc((size_t)n->layers, sizeof *n->buffer);
    int status = n->buffer ? 0 : NO_MEMORY;
    for (int b = 0; b < n->buffers && !status; b++)
        if (!(n->buffer[b] = allot(sizes[b]))) status = NO_MEMORY;
    n->expanded = allot(expanded), n->depthwise = allot(depthwise), n->dummy = allot(row);
    free(sizes), free(until);
    return status ? status : n->expanded && n->depthwise && n->dummy ? 0 : NO_MEMORY;
}

// ---- Running ----

static void pointwise(const struct network *n, int i, const uint8_t *in, size_t pixels, uint8_t *out) {
    const struct packed *p = &n->packed[i];
    struct gemm g = {in,   (size_t)n->tensor[n->layer[i].source].step, pixels, p->groups, p->distances,
                     NULL, (size_t)n->tensor[i].step,                  requant_of(&n->layer[i])};
    for (int k = 0; k < p->count; k++) {
        g.out = out + p->panels[k].first;
        n->kernels->gemm(&g, &p->panels[k]);
    }
}

// The first convolution reads rows of the padded picture as they lie: three times nine numbers.
static void convolve(const struct network *n, int i, const uint8_t *pixels) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *in = &n->tensor[0], *out = &n->tensor[i];
    const size_t row = 3 * (size_t)in->width, step = (size_t)n->pixels_step;
    memset(n->picture, in->zero, step * (in->height + 2));
    for (int y = 0; y < in->height; y++)
        memcpy(n->picture + (y + l->before) * step + 3 * l->before, pixels + y * row, row);
    struct gemm g = {NULL, 3 * (size_t)l->stride, (size_t)out->width, n->packed[i].groups, n->packed[i].distances,
                     NULL, (size_t)out->step,     requant_of(l)};
    for (int y = 0; y < out->height; y++)
        for (int k = 0; k < n->packed[i].count; k++) {
            g.in = n->picture + y * l->stride * step;
            g.out = n->buffer[out->buffer] + (size_t)y * out->width * out->step + n->packed[i].panels[k].first;
            n->kernels->gemm(&g, &n->packed[i].panels[k]);
        }
}

// Expand, depthwise, project and add, in tiles of rows: what is between them stays in the cache.
static void block(const struct network *n, const struct unit *u) {
    const struct fusiform_layer *l = &n->layer[u->depthwise];
    const struct tensor *in = &n->tensor[l->source], *out = &n->tensor[u->depthwise], *end = &n->tensor[u->end];
    const struct packed *p = &n->packed[u->depthwise];
    const size_t row = (size_t)in->width * in->step, out_row = (size_t)out->width * out->step;
    const size_t end_row = (size_t)end->width * end->step;
    const int rows = (int)tile_rows(n, u), pair = l->stride == 1 ? 2 : 1;
    const struct tensor *source = u->expand >= 0 ? &n->tensor[n->layer[u->expand].source] : in;
    const uint8_t *given = n->buffer[source->buffer];
    uint8_t *made = n->buffer[end->buffer];
    uint8_t *pad_row = n->pads;
    memset(pad_row, in->zero, row);
    struct depthwise d = {{0}, pad_row, (size_t)in->step, in->step, in->width, out->width, l->before, p->weight,
                          p->bias, p->scale, {0}, requant_of(l)};
    int first = 0, done = 0;  // the expanded rows that there are
    for (int y0 = 0; y0 < out->height; y0 += rows) {
        const int y1 = y0 + rows < out->height ? y0 + rows : out->height;
        int low = y0 * l->stride - l->before, high = (y1 - 1) * l->stride - l->before + 3;
        low = low < 0 ? 0 : low, high = high > in->height ? in->height : high;
        const uint8_t *expanded = given;
        if (u->expand >= 0) {
            if (low < done) memmove(n->expanded, n->expanded + (low - first) * row, (done - low) * row);
            else done = low;
            first = low;
            pointwise(n, u->expand, given + (size_t)done * source->width * source->step,
                      (size_t)(high - done) * source->width, n->expanded + (done - first) * row);
            done = high, expanded = n->expanded;
        }
        uint8_t *target = u->project >= 0 ? n->depthwise : made + y0 * out_row;
        for (int y = y0; y < y1; y += pair) {
            for (int r = 0; r < 4; r++) {
                const int from = y * l->stride - l->before + r;
                d.rows[r] = from < 0 || from >= in->height ? pad_row : expanded + (from - first) * row;
            }
            d.out[0] = target + (y - y0) * out_row;
            d.out[1] = y + 1 < y1 ? d.out[0] + out_row : n->dummy;
            (pair == 2 ? n->kernels->depthwise_1 : n->kernels->depthwise_2)(&d);
        }
        if (u->project < 0) continue;
        const size_t pixels = (size_t)(y1 - y0) * out->width;
        pointwise(n, u->project, n->depthwise, pixels, made + y0 * end_row);
        if (u->add >= 0) {
            const struct fusiform_layer *sum = &n->layer[u->add];
            const int left = sum->source == u->project;
            const struct tensor *kept = &n->tensor[left ? sum->other : sum->source];
            const uint8_t *other = n->buffer[kept->buffer] + y0 * end_row;
            uint8_t *here = made + y0 * end_row;
            n->kernels->add(&n->add[u->add], left ? here : other, left ? other : here, here, pixels * end->step);
        }
    }
}

static void gather(const struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *out = &n->tensor[i];
    const size_t pixels = area(out);
    int place = 0;
    for (int k = 0; k < l->pieces; k++) {
        const struct fusiform_piece *p = &n->piece[l->first_piece + k];
        const struct tensor *from = &n->tensor[p->source];
        const uint8_t *in = n->buffer[from->buffer] + p->first;
        uint8_t *to = n->buffer[out->buffer] + place;
        n->kernels->copy(in, (size_t)from->step, to, (size_t)out->step, pixels, p->end - p->first);
        place += p->end - p->first;
    }
}

static void maxpool(const struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *in = &n->tensor[l->source], *out = &n->tensor[i];
    const size_t row = (size_t)in->width * in->step, step = (size_t)in->step;
    uint8_t *tall = n->expanded;  // the maxima of three rows, with a pixel of padding on both sides
    memset(tall, in->zero, row + 2 * step);
    memset(n->pads, in->zero, row);
    for (int y = 0; y < out->height; y++) {
        const uint8_t *rows[3];
        for (int r = 0; r < 3; r++) {
            const int from = y * 2 - l->before + r;
            rows[r] = from < 0 || from >= in->height ? n->pads : n->buffer[in->buffer] + from * row;
        }
        n->kernels->maximum(rows[0], rows[1], rows[2], tall + step, row);
        uint8_t *to = n->buffer[out->buffer] + (size_t)y * out->width * step;
        for (int x = 0; x < out->width; x++, to += step) {
            const uint8_t *from = tall + (2 * x + 1 - l->before) * step;
            n->kernels->maximum(from, from + step, from + 2 * step, to, step);
        }
    }
}

// Mean in float, quantised for this picture alone, then the classifier's sums; the file's own scales and biases.
static void classify(const struct network *n, int i, float *out) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *in = &n->tensor[l->source];
    const struct packed *p = &n->packed[i];
    const int bytes = n->kernels->bytes;
    n->kernels->mean(n->buffer[in->buffer], area(in), (size_t)in->step, in->channels, in->zero,
                     n->layer[l->source].scale, n->sums);
    float least = 0, most = 0;
    for (int c = 0; c < in->channels; c++) {
        least = n->sums[c] < least ? n->sums[c] : least;
        most = n->sums[c] > most ? n->sums[c] : most;
    }
    const float scale = least == most ? 1.0f : 255.0f / (most - least), inverse = 1.0f / scale;
    const float low = least * scale, high = most * scale;
    float nudged = (-128.0f + low) + (127.0f + high) > 0 ? -128.0f - low : 127.0f - high;
    nudged = nudged < -128.0f ? -128.0f : nudged > 127.0f ? 127.0f : nudged;
    const int zero = (int)lrintf(nudged) + 128;
    uint8_t *quantized = n->quantized;
    for (int c = 0; c < in->channels; c++) {
        const long value = lrintf(n->sums[c] * scale) + zero;
        quantized[c] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
    memset(quantized + in->channels, 0, 4);
    for (int k = 0; k < p->count; k++) {
        int32_t sums[64];
        n->kernels->dot(quantized, p->groups, p->panels[k].weight, sums);
        for (int c = 0; c < bytes && p->panels[k].first + c < l->channels; c++) {
            int vector;
            const int lane = lane_of(c, 4, bytes, &vector), place = vector * bytes / 4 + lane;
            const int class = p->panels[k].first + c;
            const float sum = (float)(sums[place] - zero * p->panels[k].bias[place]) * inverse;
            out[class] = sum * l->scales[class] + ((const float *)l->bias)[class];
        }
    }
    if (l->softmax) n->kernels->softmax(out, l->channels);
}

EXPORT void fusiform_native_free(struct network *n) {
    if (!n) return;
    for (int i = 0; n->packed && i < n->layers; i++) {
        free(n->packed[i].panels);
        release(n->packed[i].distances), release(n->packed[i].weight), release(n->packed[i].bias), release(n->packed[i].scale);
    }
    for (int b = 0; n->buffer && b < n->buffers; b++) release(n->buffer[b]);
    release(n->picture), release(n->expanded), release(n->depthwise), release(n->dummy), release(n->pads);
    release(n->sums), release(n->quantized);
    free(n->buffer), free(n->layer), free(n->piece), free(n->tensor), free(n->packed), free(n->add), free(n);
}

static const struct kernels *const kernel_sets[] = {&fusiform_avx512, &fusiform_avxvnni, &fusiform_portable};

// The name of an instruction set, the best first, or NULL past the last; empty where this processor lacks it.
EXPORT const char *fusiform_native_kernels(int index) {
    if (index < 0 || index >= (int)(sizeof kernel_sets / sizeof *kernel_sets)) return NULL;
    return kernel_sets[index]->usable() ? kernel_sets[index]->name : "";
}

static int build(struct network *n, const struct fusiform_layer *layers, const struct fusiform_piece *pieces,
                 int piece_count) {
    const size_t count = (size_t)n->layers;
    n->layer = calloc(count, sizeof *n->layer), n->tensor = calloc(count, sizeof *n->tensor);
    n->packed = calloc(count, sizeof *n->packed), n->add = calloc(count, sizeof *n->add);
    n->piece = calloc((size_t)piece_count + 1, sizeof *n->piece);
    if (!n->layer || !n->tensor || !n->packed || !n->add || !n->piece) return NO_MEMORY;
    memcpy(n->layer, layers, count * sizeof *layers);
    if (piece_count) memcpy(n->piece, pieces, (size_t)piece_count * sizeof *pieces);
    int widest = 0, status = 0;
    size_t row = 0, classes = 0;
    for (int i = 0; i < n->layers && !status; i++) {
        const struct fusiform_layer *l = &n->layer[i];
        if (l->kind == GATHER && (l->first_piece < 0 || l->pieces < 1 || l->pieces > piece_count ||
                                  l->first_piece > piece_count - l->pieces))
            return BAD_SHAPE;
        status = check_layer(n, i);
        const struct tensor *t = &n->tensor[i];
        if (status) return status;
        if (t->step > widest) widest = t->step;
        if ((size_t)t->width * t->step > row) row = (size_t)t->width * t->step;
        classes = (size_t)l->channels;
    }
    n->pixels_step = 3 * (n->tensor[0].width + 2);
    if (n->layers < 3 || n->layer[n->layers - 1].kind != CLASSIFIER) return BAD_SHAPE;
    for (int i = 1; i < n->layers; i++) {
        const struct fusiform_layer *l = &n->layer[i];
        const int channels = n->tensor[l->source].channels;
        if (i < n->layers - 1 && !n->tensor[i].uses) return BAD_SHAPE;
        if (l->kind == CONV) status = pack_gemm(n, i, 3, 9);
        if (l->kind == POINTWISE || l->kind == CLASSIFIER) status = pack_gemm(n, i, 1, channels);
        if (l->kind == DEPTHWISE) status = pack_depthwise(n, i);
        if (l->kind == ADD) status = pack_add(n, i);
        if (status) return status;
    }
    (void)classes;
    n->picture = allot((size_t)n->pixels_step * (n->tensor[0].height + 2));
    n->pads = allot(row), n->sums = allot(4 * (size_t)widest), n->quantized = allot((size_t)widest);
    status = place_tensors(n);
    if (status || !n->picture || !n->pads || !n->sums || !n->quantized) return status ? status : NO_MEMORY;
    return 0;
}

EXPORT int fusiform_native_new(const struct fusiform_layer *layers, int count, const struct fusiform_piece *pieces,
                               int piece_count, int kernels, struct network **made) {
    *made = NULL;
    const char *name = fusiform_native_kernels(kernels);
    if (!layers || count < 3 || count > MOST_LAYERS || piece_count < 0 || piece_count > 16 * MOST_LAYERS || !name ||
        !*name)
        return BAD_CALL;
    struct network *n = calloc(1, sizeof *n);
    if (!n) return NO_MEMORY;
    n->layers = count, n->kernels = kernel_sets[kernels];
    const int status = build(n, layers, pieces, piece_count);
    if (status) return fusiform_native_free(n), status;
    *made = n;
    return 0;
}

// Pictures of uint8 pixels, one after the other, to as many rows of answers.
EXPORT int fusiform_native_run(struct network *n, const uint8_t *pixels, int64_t pixel_bytes, float *answers,
                               int64_t answer_count, int64_t pictures) {
    const size_t bytes = 3 * area(&n->tensor[0]), classes = (size_t)n->layer[n->layers - 1].channels;
    if (pictures < 0 || pictures > INT32_MAX || pixel_bytes != (int64_t)bytes * pictures ||
        answer_count != (int64_t)classes * pictures)
        return BAD_CALL;
    for (int64_t k = 0; k < pictures; k++, pixels += bytes, answers += classes)
        for (int i = 1; i < n->layers;) {
            const struct unit u = unit_at(n, i);
            switch (n->layer[i].kind) {
            case CONV: convolve(n, i, pixels); break;
            case GATHER: gather(n, i); break;
            case MAXPOOL: maxpool(n, i); break;
            case CLASSIFIER: classify(n, i, answers); break;
            case ADD: {
                const struct fusiform_layer *l = &n->layer[i];
                n->kernels->add(&n->add[i], n->buffer[n->tensor[l->source].buffer],
                                n->buffer[n->tensor[l->other].buffer], n->buffer[n->tensor[i].buffer],
                                bytes_of(&n->tensor[i]));
                break;
            }
            default:
                if (u.depthwise >= 0) block(n, &u);
                else
                    pointwise(n, i, n->buffer[n->tensor[n->layer[i].source].buffer],
                              area(&n->tensor[n->layer[i].source]), n->buffer[n->tensor[i].buffer]);
            }
            i = u.end + 1;
        }
    return 0;
}
