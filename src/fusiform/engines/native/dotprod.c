// NEON with dot products of signed bytes alone: ARM's Cortex-A55 and A76 on, Apple's M1. Activations less 128 are
// signed; the biases are packed for that.
#include "native.h"

#if ARM
TARGET("arch=armv8.2-a+dotprod")
#define LESS(activations) veorq_s32(activations, vdupq_n_s32((int32_t)0x80808080))
#define DOT(sum, bytes, weight) sum = vdotq_s32(sum, S8(bytes), S8(weight))

#include "neon.inc"

static int usable(void) { return HAS("FEAT_DotProd", AT_HWCAP, 20); }

const struct kernels fusiform_dotprod = KERNELS("neon-dotprod", NULL, NULL, 128);
END_TARGET
#endif
