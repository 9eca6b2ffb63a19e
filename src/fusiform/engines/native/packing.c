// What is prepared once: a layer's numbers in the order that the kernels read, and the weights that resize a side.
#include "native.h"

#include <math.h>

// Into zeroed memory, in panels of four vectors of channels, or half or a quarter of that. Four sums of four channels a
// lane of 16 bytes become bytes within lanes (kernels.inc): the channels of a panel stand in the order that makes them
// come out as they are, but for a classifier's, whose sums stay numbers.
EXPORT void fusiform_native_pack(const struct fusiform_layer *l, const struct fusiform_numbers *n, int bytes) {
    const int width = (int)l->bias_size, groups = (int)(l->weight_size / 4 / width), lanes = bytes / 16;
    int8_t *weights = (int8_t *)l->weights;
    for (int first = 0, vectors = 4, each; first < width; first += each, weights += (int64_t)each * groups * 4) {
        while ((each = vectors * bytes / 4) > width - first) vectors /= 2;
        for (int p = 0; p < each; p++) {
            const int in_lanes = (p / 4 % lanes * vectors + p / (4 * lanes)) * 4 + p % 4;
            const int c = first + (l->kind == CLASSIFIER ? p : in_lanes);
            if (c >= l->channels) continue;
            const int8_t *from = n->values + (int64_t)c * n->rows * n->inputs;
            int32_t sum = 0;
            for (int g = 0, left = n->inputs; g < groups; g++, left = left > 4 ? left - 4 : n->inputs)
                for (int k = 0; k < 4 && k < left; k++) sum += weights[((int64_t)g * each + p) * 4 + k] = *from++;
            ((int32_t *)l->biases)[first + p] = n->biases[c] - n->zero * (sum / n->copies);
            ((float *)l->scales)[first + p] = n->scales[c] * n->source_scale / n->scale;
        }
    }
}

// Pillow's filters, of a distance; the cubic one is Keys' (1981).
static double weigh(double x, int cubic) {
    if (!cubic) return x < 1 ? 1 - x : 0;
    return x < 1 ? ((-0.5 + 2) * x - (-0.5 + 3)) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

// Pillow's precompute_coeffs and normalize_coeffs_8bpc for the kept pixels of a side, as `struct taps` has them: all get
// as many weights as the one that needs most, which is the answer, and the last ones begin earlier. `to` is zeroed.
EXPORT int fusiform_native_taps(int length, int resized, int from, int kept, int cubic, int32_t *first, int32_t *to) {
    const double scale = (double)length / resized, wider = fmax(scale, 1), support = (cubic + 1) * wider;
    int count = 0;
    for (int k = -kept; k < kept; k++) {  // twice: for the number of weights, and for them
        const double centre = (from + (k < 0 ? k + kept : k) + 0.5) * scale;
        const int low = (int)fmax(centre - support + 0.5, 0), end = (int)fmin(centre + support + 0.5, length);
        if (k < 0 && end - low > count) count = end - low;
        if (k < 0) continue;
        first[k] = low + count > length ? length - count : low;
        double total = 0;
        for (int x = low; x < end; x++) total += weigh(fabs(x - centre + 0.5) * (1 / wider), cubic);
        for (int x = low; x < end; x++) {
            const double w = weigh(fabs(x - centre + 0.5) * (1 / wider), cubic) / (total == 0 ? 1 : total) * (1 << 22);
            to[(int64_t)k * count + x - first[k]] = (int32_t)(w + (w < 0 ? -0.5 : 0.5));
        }
    }
    return count;
}
