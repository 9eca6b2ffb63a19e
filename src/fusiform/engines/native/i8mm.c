// NEON with dot products of unsigned and signed bytes: ARM's Neoverse V1 and Cortex-A510 on, Apple from M2 on.
#include "native.h"

#if ARM
TARGET("arch=armv8.2-a+i8mm")
#define DOT(sum, bytes, weight) sum = vusdotq_s32(sum, U8(bytes), S8(weight))

#include "neon.inc"

static int usable(void) { return HAS("FEAT_I8MM", AT_HWCAP2, 13); }

const struct kernels fusiform_i8mm = KERNELS("neon-i8mm", NULL, NULL);
END_TARGET
#endif
