// Int8 classifiers of MobileNetV2 and ShuffleNetV2 on a CPU: what the files of this folder share.
//
// Activations are uint8 (the file's int8 plus 128), a row of pixels after the other, each pixel's channels padded to a
// multiple of 16. Sums are int32, and become uint8 again as in LiteRT (XNNPACK): times a float, to the nearest even
// integer, plus the zero point, saturated. So every answer equals LiteRT's, bit for bit.
#ifndef FUSIFORM_NATIVE_H
#define FUSIFORM_NATIVE_H

#include <stddef.h>
#include <stdint.h>

enum { GRANULE = 16, SLACK = 64 };

// What Python calls.
#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// Which other kernels than the portable ones there are, and how a file asks for instructions and unrolled loops.
#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#define GCC_TARGET(names) PRAGMA(GCC target(names, "prefer-vector-width=512"))
#elif defined(__aarch64__) && defined(__GNUC__)
#define ARM 1
#define GCC_TARGET(names) PRAGMA(GCC target(names))
#endif
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET(names) PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define END_TARGET PRAGMA(clang attribute pop)
#define UNROLL(count) PRAGMA(clang loop unroll(full))
#define TWICE PRAGMA(clang loop unroll_count(2))
#else
#define TARGET(names) GCC_TARGET(names)
#define END_TARGET
#define UNROLL(count) PRAGMA(GCC unroll count)
#define TWICE PRAGMA(GCC unroll 2)
#endif

// One more with every change of what Python calls: a library of another checkout is left alone.
enum { VERSION = 8 };

// A layer as Python hands it over: checked (checks.py), its weights packed (packing.c) for vectors of `bytes`, its map
// laid out in memory (plan.py).
enum { INPUT, CONV, POINTWISE, DEPTHWISE, ADD, GATHER, MAXPOOL, CLASSIFIER };

struct fusiform_layer {
    int32_t kind, source, other, channels, stride, before, after, height, width, softmax;
    int32_t zero, low, high;          // of uint8
    int32_t bias, left, right, shift;  // of an addition: (bias + left * a + right * b) >> shift
    int32_t first_piece, pieces;
    float scale;  // of what a classifier reads
    const int8_t *weights;
    const int32_t *biases;
    const float *scales;  // behind a classifier's lie its biases
    int64_t weight_size, bias_size, scale_size;
    int32_t step;  // bytes from a pixel of its map to the next
    // The layers that a depthwise one runs together with, in tiles of so many rows, 0 where there is none; and whether
    // it is one of those itself.
    int32_t expand, project, add, rows, within;
    uint8_t *map;  // NULL of what never leaves the cache
};

struct fusiform_piece {
    int32_t source, first, end;
};

// All that a network needs to run, and one picture at a time in its memory.
struct fusiform_network {
    const struct fusiform_layer *layer;
    const struct fusiform_piece *piece;
    const int32_t *nearby, *window;  // distances of each four inputs: in a pixel, and in three rows of the picture
    uint8_t *picture, *expanded, *between, *spare, *pads, *quantized;
    float *means;
    int32_t layers, kernels, picture_step;
};

// What a layer's numbers are packed from (packing.c): for each channel rows of inputs, which fill groups of four each. In
// a depthwise layer's all weights stand `copies` times.
struct fusiform_numbers {
    const int8_t *values;
    const int32_t *biases;
    const float *scales;
    int32_t rows, inputs, copies, zero;
    float source_scale, scale;
};

struct requant {
    int zero, low, high, plain;  // plain: 0, 0 and 255, as packing saturates
};

static inline struct requant requant_of(const struct fusiform_layer *l) {
    return (struct requant){l->zero, l->low, l->high, l->zero == 0 && l->low == 0 && l->high == 255};
}

// A convolution: 1x1, or any whose inputs lie at the same distances from each pixel.
struct gemm {
    const uint8_t *in;
    size_t in_step;  // bytes from a pixel to the next
    size_t pixels;
    int groups;  // of four inputs
    const int32_t *distances;  // of each group from the pixel, in bytes
    int vectors;               // of channels, 4, 2 or 1: a panel
    const int8_t *weights;     // for each four inputs, each vector, 4 bytes a channel
    const int32_t *biases;
    const float *scales;
    uint8_t *out;
    size_t out_step;
    struct requant requant;
};

// Depthwise 3x3 on one row of output (stride 2), or two (stride 1), for all channels.
struct depthwise {
    const uint8_t *rows[4];
    const uint8_t *pad;  // a pixel of padding
    size_t step;         // bytes from a pixel to the next, in and out
    int channels, width, out_width, before;
    const int8_t *weight;
    const int32_t *bias;
    const float *scale;
    uint8_t *out[2];
    struct requant requant;
};

// What each kept pixel of one side of a photograph is made of: `count` pixels from `first` on, times their weights.
struct taps {
    int32_t kept, count;
    const int32_t *first, *weights;
};

// One instruction set's functions. `bytes` is the length of its vectors.
struct kernels {
    const char *name;
    int bytes;
    int (*usable)(void);
    void (*gemm)(const struct gemm *);
    void (*depthwise)(const struct depthwise *, int stride);
    void (*add)(const struct fusiform_layer *, const uint8_t *left, const uint8_t *right, uint8_t *out, size_t bytes);
    void (*dot)(const uint8_t *in, int groups, const int8_t *weight, int32_t *sums);
    void (*mean)(const uint8_t *in, size_t pixels, size_t step, int channels, int zero, float scale, float *sums);
    void (*softmax)(float *values, int count);
    void (*maximum)(const uint8_t *a, const uint8_t *b, const uint8_t *c, uint8_t *out, size_t bytes);
    // Those of resizing only the fast sets have.
    void (*across)(const uint8_t *in, const struct taps *, uint8_t *out);
    void (*down)(const uint8_t *in, size_t step, const int32_t *weights, int count, uint8_t *out);
    int less;  // what its dot products read activations less by, and biases are packed for
};

#define KERNELS(name, ...) \
    {name, BYTES, usable, gemm, depthwise, add, dot, mean, softmax, maximum, __VA_ARGS__}

extern const struct kernels fusiform_portable, fusiform_avx512, fusiform_avxvnni, fusiform_i8mm, fusiform_dotprod;

#endif
