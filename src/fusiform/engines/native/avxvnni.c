// AVX2 with VNNI: Intel's laptops from Alder Lake on.
#include "native.h"

#if X86
TARGET("avx2,fma")
#include <cpuid.h>
#include <immintrin.h>

#define BYTES 32
#define VECTOR __m256i
#define FLOATS __m256
#define OF(name) _mm256_##name
#define LOAD(from) _mm256_loadu_si256((const __m256i *)(from))
#define STORE(to, v) _mm256_storeu_si256((__m256i *)(to), v)
#define DOT(sum, bytes, weight) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "x"(weight))
#define DOT_MEMORY(sum, bytes, weight) \
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "m"(*(VECTOR *)(weight)))
#define WIDEN(from) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from)))
#define LOAD_APART(from) \
    _mm256_permute4x64_epi64(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(from))), 0x10)
#define SORT_HALVES(v) _mm256_permute4x64_epi64(v, 0xD8)
#define SORT_QUARTERS(v) _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
#define STORE_HALF(to, v, part) _mm_storeu_si128((__m128i *)(to), _mm256_extracti128_si256(v, part))
#define STORE_PART(to, v, count) STORE_HALF(to, v, 0)  // channels come in sixteens
#define MAKE_TILES TILES(3, 4) TILES(6, 2)
#define TILES_4(groups) tiles_3_4
#define TILES_2 tiles_6_2
#define TILES_1 tiles_6_2  // no panel is so narrow

#include "kernels.inc"

static int usable(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
           (a >> 4 & 1);
}

const struct kernels fusiform_avxvnni = KERNELS("avx-vnni", across, down);
END_TARGET
#endif
