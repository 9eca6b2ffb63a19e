// AVX-512 with VNNI: Intel from Ice Lake on, AMD from Zen 4 on.
#include "native.h"

#if X86
TARGET("avx512f,avx512bw,avx512vl,avx512vnni,fma")
#include <immintrin.h>

#define BYTES 64
#define VECTOR __m512i
#define FLOATS __m512
#define OF(name) _mm512_##name
#define LOAD(from) _mm512_loadu_si512((const void *)(from))
#define STORE(to, v) _mm512_storeu_si512((void *)(to), v)
// In assembly, because GCC 12 copies the sums of the intrinsic to and fro.
#define DOT(sum, bytes, weight) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weight))
#define DOT_MEMORY(sum, bytes, weight) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "m"(*(VECTOR *)(weight)))
#define WIDEN(from) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(from)))
#define LOAD_APART(from)                                                \
    _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), \
                             _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(from))))
#define SORT_HALVES(v) _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), v)
#define SORT_QUARTERS(v) \
    _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v)
#define STORE_HALF(to, v, part) _mm256_storeu_si256((__m256i *)(to), _mm512_extracti64x4_epi64(v, part))
#define STORE_QUARTER(to, v, part) _mm_storeu_si128((__m128i *)(to), _mm512_extracti32x4_epi32(v, part))
#define STORE_PART(to, v, count) _mm512_mask_storeu_epi8(to, ((__mmask64)1 << (count)) - 1, v)
// As many pixels as there are registers for; 7 divides 224, and 6 leaves more to the ends of short sums.
#define MAKE_TILES TILES(7, 4) TILES(6, 4) TILES(14, 2) TILES(8, 1)
#define TILES_4(groups) ((groups) > 16 ? tiles_7_4 : tiles_6_4)
#define TILES_2 tiles_14_2
#define TILES_1 tiles_8_1

#include "kernels.inc"

static int usable(void) {
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

const struct kernels fusiform_avx512 = KERNELS("avx512-vnni", across, down);
END_TARGET
#endif
