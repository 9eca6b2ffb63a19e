// From layers, which are checked here, to buffers, and from pixels to answers.
#include "native.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FINE, NO_MEMORY, REFUSED };
enum { MOST_SIDE = 4096, MOST_CHANNELS = 8192, MOST_BYTES = 1 << 28, MOST_LAYERS = 4096, MOST_MEMORY = 1 << 30 };
enum { TILE_BYTES = 128 << 10 };  // of expanded rows: they stay in the cache until the projection has read them

struct tensor {
    int height, width, channels, step;  // step: bytes from a pixel to the next
    int uses;
    uint8_t *data;  // NULL of what never leaves the cache
};

struct network {
    const struct kernels *kernels;
    int layers, picture_step, widest;
    const struct fusiform_layer *layer;
    const struct fusiform_piece *piece;
    struct tensor *tensor;
    int32_t *nearby, *window;  // distances of each four inputs: in a pixel, and in three rows of the picture
    uint8_t *picture, *expanded, *between, *spare, *pads, *quantized;
    float *means;
    void *memory;
    uint8_t *block;  // the memory from the first line of the cache on
    size_t bytes;
};

// Zeroed and aligned to 64 bytes, with some behind that vectors may read: a part of the network's block of memory, or
// nothing but the count of its bytes while there is no block.
static void *allot(struct network *n, size_t bytes) {
    void *at = n->block ? n->block + n->bytes : NULL;
    n->bytes += (bytes + SLACK + 63) / 64 * 64;
    return at;
}

EXPORT void fusiform_native_free(struct network *n) {
    if (n) free(n->memory), free(n->tensor);
    free(n);
}

static int padded(int channels) { return (channels + GRANULE - 1) / GRANULE * GRANULE; }
static size_t area(const struct tensor *t) { return (size_t)t->height * t->width; }
static size_t row_of(const struct tensor *t) { return (size_t)t->width * t->step; }

// ---- Checks: afterwards every layer reads what is there. ----

// The tensor that a layer reads, NULL where it may not.
static struct tensor *reads(struct network *n, int i, int source) {
    if (source < 0 || source >= i || n->layer[source].kind == CLASSIFIER) return NULL;
    n->tensor[source].uses++;
    return &n->tensor[source];
}

// Weights for channels in so many that they fill `unit`, in `groups` of four.
static int check_weights(const struct fusiform_layer *l, int unit, int groups) {
    const int64_t width = (l->channels + unit - 1) / unit * unit, scales = l->kind == CLASSIFIER ? 2 * width : width;
    return l->weights && l->biases && l->scales && l->weight_size == width * groups * 4 && l->bias_size == width &&
           l->scale_size == scales ? FINE : REFUSED;
}

static int check_pieces(struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    int channels = 0;
    for (int k = 0; k < l->pieces; k++) {
        const struct fusiform_piece *p = &n->piece[l->first_piece + k];
        const struct tensor *from = p->source ? reads(n, i, p->source) : NULL, *t = &n->tensor[i];
        if (!from || p->first < 0 || p->first >= p->end || p->end > from->channels || from->height != t->height ||
            from->width != t->width)
            return REFUSED;
        channels += p->end - p->first;
    }
    return channels == l->channels ? FINE : REFUSED;
}

static int check_layer(struct network *n, int i) {
    const struct fusiform_layer *l = &n->layer[i];
    struct tensor *t = &n->tensor[i];
    const int bytes = n->kernels->bytes, half = bytes / 2 > GRANULE ? bytes / 2 : GRANULE;
    if (l->channels < 1 || l->channels > MOST_CHANNELS || l->zero < 0 || l->zero > 255 || l->low < 0 || l->high > 255 ||
        l->low > l->high || l->shift < 0 || l->shift > 31)
        return REFUSED;
    *t = (struct tensor){l->height, l->width, l->channels, padded(l->channels), 0, NULL};
    n->widest = t->step > n->widest ? t->step : n->widest;
    if (i == 0) {
        const int sides = l->height > 0 && l->width > 0 && l->height <= MOST_SIDE && l->width <= MOST_SIDE;
        return l->kind == INPUT && l->channels == 3 && sides ? FINE : REFUSED;
    }
    const struct tensor *in = reads(n, i, l->source), *other = l->kind == ADD ? reads(n, i, l->other) : in;
    if (!in || !other || (l->source == 0) != (l->kind == CONV) || (l->kind == CLASSIFIER) != (i == n->layers - 1))
        return REFUSED;
    t->height = in->height, t->width = in->width;
    if (l->kind == CONV || l->kind == DEPTHWISE || l->kind == MAXPOOL) {
        const int pad = l->before + l->after - 3;
        if (l->stride < 1 || l->stride > 2 || l->before < 0 || l->before > 1 || l->after < 0 || l->after > 1 ||
            in->height + pad < 0 || in->width + pad < 0 || (l->kind == DEPTHWISE && l->stride == 1 && pad != -1))
            return REFUSED;
        t->height = (in->height + pad) / l->stride + 1, t->width = (in->width + pad) / l->stride + 1;
    }
    if (area(t) > (size_t)MOST_BYTES / t->step) return REFUSED;
    const int same = in->channels == l->channels, groups = (in->channels + 3) / 4;
    const int alike = other->channels == l->channels && other->height == in->height && other->width == in->width;
    switch (l->kind) {
    case CONV: return check_weights(l, GRANULE, 9);
    case POINTWISE: return check_weights(l, GRANULE, groups);
    case CLASSIFIER: return check_weights(l, bytes, groups);
    case DEPTHWISE: return same ? check_weights(l, half, l->stride == 1 ? 6 : 3) : REFUSED;
    case ADD: return same && alike && l->other ? FINE : REFUSED;
    case GATHER: return check_pieces(n, i);
    case MAXPOOL: return same && l->stride == 2 ? FINE : REFUSED;
    default: return REFUSED;
    }
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

static void allot_buffers(struct network *n) {
    size_t expanded = 0, between = 0, row = 0, widest = (size_t)n->widest;
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
        n->tensor[u.end].data = allot(n, area(&n->tensor[u.end]) * n->tensor[u.end].step);
        i = u.end + 1;
    }
    n->expanded = allot(n, expanded), n->between = allot(n, between), n->spare = allot(n, row), n->pads = allot(n, row);
    n->picture = allot(n, (size_t)n->picture_step * (n->tensor[0].height + 2));
    n->quantized = allot(n, widest), n->means = allot(n, 4 * widest);
    n->nearby = allot(n, widest), n->window = allot(n, 9 * sizeof *n->window);
}

// ---- Running ----

static void convolve(const struct network *n, int i, const uint8_t *in, size_t pixels, uint8_t *out) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *source = &n->tensor[l->source];
    const int window = l->kind == CONV, groups = window ? 9 : (source->channels + 3) / 4, width = n->tensor[i].step;
    struct gemm g = {in, (size_t)(window ? 3 * l->stride : source->step), pixels, groups,
                     window ? n->window : n->nearby, 4, l->weights, l->biases, l->scales, out, (size_t)width,
                     requant_of(l)};
    for (int c = 0, each; c < width; c += each) {
        while ((each = g.vectors * n->kernels->bytes / 4) > width - c) g.vectors /= 2;
        n->kernels->gemm(&g);
        g.out += each, g.weights += each * groups * 4, g.biases += each, g.scales += each;
    }
}

// The first convolution reads rows of the padded picture as they lie: three times nine numbers.
static void first(const struct network *n, int i, const uint8_t *pixels) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *in = &n->tensor[0], *out = &n->tensor[i];
    const size_t row = 3 * (size_t)in->width, step = (size_t)n->picture_step;
    memset(n->picture, n->layer[0].zero, step * (in->height + 2));
    for (int y = 0; y < in->height; y++)
        memcpy(n->picture + (y + l->before) * step + 3 * l->before, pixels + y * row, row);
    for (int y = 0; y < out->height; y++)
        convolve(n, i, n->picture + y * l->stride * step, (size_t)out->width, out->data + y * row_of(out));
}

// Expand, depthwise, project and add, in tiles of rows: what is between them stays in the cache.
static void block(const struct network *n, const struct unit *u) {
    const struct fusiform_layer *l = &n->layer[u->depthwise];
    const struct tensor *in = &n->tensor[l->source], *out = &n->tensor[u->depthwise], *end = &n->tensor[u->end];
    const struct tensor *source = u->expand >= 0 ? &n->tensor[n->layer[u->expand].source] : in;
    const size_t row = row_of(in), out_row = row_of(out);
    const int rows = tile_rows(n, u), pair = l->stride == 1 ? 2 : 1;
    const uint8_t *expanded = u->expand >= 0 ? n->expanded : in->data;
    struct depthwise d = {{0}, n->pads, (size_t)in->step, in->step, in->width, out->width, l->before, l->weights,
                          l->biases, l->scales, {0}, requant_of(l)};
    memset(n->pads, n->layer[l->source].zero, row);
    int first = 0, done = 0;  // the expanded rows that there are
    for (int y0 = 0; y0 < out->height; y0 += rows) {
        const int y1 = y0 + rows < out->height ? y0 + rows : out->height;
        int low = y0 * l->stride - l->before, high = (y1 - 1) * l->stride - l->before + 3;
        low = low < 0 ? 0 : low, high = high > in->height ? in->height : high;
        if (u->expand >= 0) {
            if (low < done) memmove(n->expanded, n->expanded + (low - first) * row, (done - low) * row);
            else done = low;
            first = low;
            convolve(n, u->expand, source->data + done * row_of(source), (size_t)(high - done) * source->width,
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
            n->kernels->depthwise(&d, l->stride);
        }
        const size_t pixels = (size_t)(y1 - y0) * out->width;
        if (u->project >= 0) convolve(n, u->project, n->between, pixels, made);
        if (u->add < 0) continue;
        const struct fusiform_layer *sum = &n->layer[u->add];
        const uint8_t *left = sum->source == u->project ? made : n->tensor[sum->source].data + y0 * row_of(end);
        const uint8_t *right = sum->other == u->project ? made : n->tensor[sum->other].data + y0 * row_of(end);
        n->kernels->add(sum, left, right, made, pixels * end->step);
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
    memset(tall, n->layer[l->source].zero, row + 2 * step);
    memset(n->pads, n->layer[l->source].zero, row);
    for (int y = 0; y < out->height; y++) {
        const uint8_t *rows[3];
        for (int r = 0, from = y * 2 - l->before; r < 3; r++, from++)
            rows[r] = from < 0 || from >= in->height ? n->pads : in->data + from * row;
        n->kernels->maximum(rows[0], rows[1], rows[2], tall + step, row);
        const uint8_t *a = tall + (1 - l->before) * step;
        for (int x = 0; x < out->width; x++, a += 2 * step, to += step)
            n->kernels->maximum(a, a + step, a + 2 * step, to, step);
    }
}

// The mean in float, quantised for this picture alone, then the sums, and the file's own scales and biases.
static void classify(const struct network *n, int i, float *answers) {
    const struct fusiform_layer *l = &n->layer[i];
    const struct tensor *in = &n->tensor[l->source];
    const float *offsets = l->scales + l->scale_size / 2;
    n->kernels->mean(in->data, area(in), (size_t)in->step, in->channels, n->layer[l->source].zero, l->scale, n->means);
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
    for (int k = 0, bytes = n->kernels->bytes, groups = (in->channels + 3) / 4; k < l->channels; k += bytes) {
        int32_t sums[64];
        n->kernels->dot(n->quantized, groups, l->weights + (size_t)k * groups * 4, sums);
        for (int c = k; c < k + bytes && c < l->channels; c++) {
            const int32_t sum = (int32_t)((uint32_t)sums[c - k] - (uint32_t)zero * (uint32_t)l->biases[c]);
            answers[c] = (float)sum * inverse * l->scales[c] + offsets[c];
        }
    }
    if (l->softmax) n->kernels->softmax(answers, l->channels);
}

// ---- What Python calls ----

static const struct kernels *const kernel_sets[] = {
#if FAST
    &fusiform_avx512, &fusiform_avxvnni,
#endif
    &fusiform_portable};

EXPORT int fusiform_native_version(void) { return VERSION; }

// The name of an instruction set, the best first, or NULL past the last; empty where this processor lacks it.
EXPORT const char *fusiform_native_kernels(int index) {
    if (index < 0 || index >= (int)(sizeof kernel_sets / sizeof *kernel_sets)) return NULL;
    return kernel_sets[index]->usable() ? kernel_sets[index]->name : "";
}

// How long its vectors are: what weights are packed for.
EXPORT int fusiform_native_bytes(int index) { return fusiform_native_kernels(index) ? kernel_sets[index]->bytes : 0; }

static int build(struct network *n, int piece_count) {
    for (int i = 0; i < n->layers; i++) {
        const struct fusiform_layer *l = &n->layer[i];
        if (l->first_piece < 0 || l->pieces < 0 || l->pieces > piece_count - l->first_piece || check_layer(n, i))
            return REFUSED;
    }
    n->picture_step = 3 * (n->tensor[0].width + 2);
    allot_buffers(n);
    if (n->bytes > MOST_MEMORY || !(n->memory = calloc(1, n->bytes + 64))) return NO_MEMORY;
    n->block = (uint8_t *)(((uintptr_t)n->memory + 63) / 64 * 64), n->bytes = 0;
    allot_buffers(n);
    for (int k = 0; k < n->widest / 4; k++) n->nearby[k] = 4 * k;
    for (int k = 0; k < 9; k++) n->window[k] = k / 3 * n->picture_step + k % 3 * 4;
    return FINE;
}

// Layers and pieces, and what they point to, have to stay where they are as long as the network is there.
EXPORT int fusiform_native_new(const struct fusiform_layer *layers, int count, const struct fusiform_piece *pieces,
                               int piece_count, int kernels, struct network **made) {
    const char *name = fusiform_native_kernels(kernels);
    *made = NULL;
    if (!layers || count < 3 || count > MOST_LAYERS || piece_count < 0 || piece_count > 16 * MOST_LAYERS ||
        (piece_count && !pieces) || !name || !*name)
        return REFUSED;
    struct network *n = calloc(1, sizeof *n);
    if (!n) return NO_MEMORY;
    n->layers = count, n->layer = layers, n->piece = pieces, n->kernels = kernel_sets[kernels];
    n->tensor = calloc((size_t)count, sizeof *n->tensor);
    const int status = n->tensor ? build(n, piece_count) : NO_MEMORY;
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
        return REFUSED;
    for (int64_t k = 0; k < pictures; k++, pixels += bytes, answers += classes) {
        for (int i = 1, next; i < n->layers; i = next) {
            const struct fusiform_layer *l = &n->layer[i];
            const struct tensor *in = &n->tensor[l->source], *out = &n->tensor[i];
            const struct unit u = unit_at(n, i);
            next = u.end + 1;
            if (u.depthwise >= 0) block(n, &u);
            else if (l->kind == CONV) first(n, i, pixels);
            else if (l->kind == POINTWISE) convolve(n, i, in->data, area(in), out->data);
            else if (l->kind == GATHER) gather(n, i);
            else if (l->kind == MAXPOOL) maxpool(n, i);
            else if (l->kind == CLASSIFIER) classify(n, i, answers);
            else n->kernels->add(l, in->data, n->tensor[l->other].data, out->data, area(out) * out->step);
        }
        if (features) memcpy(features + k * means, n->means, 4 * means);
    }
    return FINE;
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
