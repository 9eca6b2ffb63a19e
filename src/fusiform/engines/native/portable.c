// The reference, in plain C: what the other files compute, one number after the other.
#include "native.h"
#include "tail.inc"

enum { BYTES = 16 };

static int usable(void) { return 1; }

static inline uint8_t requantize(int32_t sum, float scale, const struct requant *r) {
    long value = lrintf((float)sum * scale) + r->zero;
    return (uint8_t)(value < r->low ? r->low : value > r->high ? r->high : value);
}

static void gemm(const struct gemm *g) {
    const int channels = BYTES / 4 * g->vectors;
    for (size_t p = 0; p < g->pixels; p++)
        for (int c = 0; c < channels; c++) {
            uint32_t sum = (uint32_t)g->biases[c];
            const int8_t *w = g->weights + 4 * c;
            for (int k = 0; k < g->groups; k++, w += 4 * channels)
                for (int i = 0; i < 4; i++)
                    sum += (uint32_t)(g->in[p * g->in_step + g->distances[k] + i] * w[i]);
            g->out[p * g->out_step + c] = requantize((int32_t)sum, g->scales[c], &g->requant);
        }
}

static void depthwise(const struct depthwise *d, int stride) {
    const int rows = stride == 1 ? 2 : 1;
    for (int x = 0; x < d->out_width; x++)
        for (int c = 0; c < d->channels; c++)
            for (int y = 0; y < rows; y++) {
                const int block = c / BYTES, place = c % BYTES;
                uint32_t sum = (uint32_t)d->bias[c];
                for (int kx = 0; kx < 3; kx++) {
                    const int column = x * stride - d->before + kx;
                    const int8_t *w = d->weight + ((block * 3 + kx) * rows + y) * 4 * BYTES + 4 * place;
                    for (int i = 0; i < rows + 2; i++) {
                        const uint8_t *in =
                            column < 0 || column >= d->width ? d->pad : d->rows[i] + column * d->step;
                        sum += (uint32_t)(in[c] * w[i]);
                    }
                }
                d->out[y][x * d->step + c] = requantize((int32_t)sum, d->scale[c], &d->requant);
            }
}

static void add(const struct fusiform_layer *l, const uint8_t *left, const uint8_t *right, uint8_t *out, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        const uint32_t sum = (uint32_t)l->bias + left[i] * (uint32_t)l->left + right[i] * (uint32_t)l->right;
        const int32_t value = ((int32_t)sum >> l->shift) + l->zero;
        out[i] = (uint8_t)(value < l->low ? l->low : value > l->high ? l->high : value);
    }
}

static void dot(const uint8_t *in, int groups, const int8_t *weight, int32_t *sums) {
    for (int c = 0; c < BYTES; c++) {
        uint32_t sum = 0;
        for (int k = 0; k < 4 * groups; k++) sum += (uint32_t)(in[k] * weight[k / 4 * 4 * BYTES + 4 * c + k % 4]);
        sums[c] = (int32_t)sum;
    }
}

const struct kernels fusiform_portable = KERNELS("portable", NULL, NULL);
