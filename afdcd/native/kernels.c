/* Kernels for trainings on CPUs. Each is written once, over REAL, and stands here for float and for double.
 *
 * Vectors are those of GCC and Clang, as wide as the processor's registers: wider ones take detours by memory.
 * Work is shared out so that no result depends on the number of threads, and the compiler may not reorder sums:
 * NaN stays NaN. Functions return 0, or what failed.
 */
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <tgmath.h>

#define NO_MEMORY 1
#define NO_CLASS 2

#define ABREAST 2 /* vectors that the registers hold for each of four anchors */

/* A register's bytes, and how many rows of two registers each fit beside what they are made of. */
#ifdef __AVX512F__
#define WIDTH 64
#define TALL 12
#elif defined(__AVX__)
#define WIDTH 32
#define TALL 6
#else
#define WIDTH 16
#define TALL 6
#endif

/* Keep a vector in its register: compilers would read it from memory at each of its uses. */
#ifdef __x86_64__
#define HELD(vector) __asm__("" : "+v"(vector))
#else
#define HELD(vector)
#endif

/* Once for each set of constants. */
#define ALWAYS static inline __attribute__((always_inline))

/* While a thread of the process is idle, kernels that others call take the threads of both. */
static int idle, whole;

int team(void)
{
    int own = omp_get_max_threads(), all = __atomic_load_n(&whole, __ATOMIC_RELAXED);
    return __atomic_load_n(&idle, __ATOMIC_RELAXED) > 0 && all > own ? all : own;
}

void rest(int threads)
{
    __atomic_store_n(&whole, threads, __ATOMIC_RELAXED);
    __atomic_add_fetch(&idle, 1, __ATOMIC_RELAXED);
}

void rise(void)
{
    __atomic_sub_fetch(&idle, 1, __ATOMIC_RELAXED);
}

/* Whether `product` beats torch's, which is MKL's and oneDNN's: it does on an AMD processor with AVX2. With
 * AVX-512, and on other makers' processors, the two were not compared.
 */
int prefers_product(void)
{
#if defined(__AVX2__) && !defined(__AVX512F__)
    return __builtin_cpu_is("amd");
#else
    return 0;
#endif
}

#define REAL float
#define WHOLE int32_t
#define POSITIVE INT32_MAX
#define OF(name) name##_float
#include "vectors.h"

/* e^x to 2e-7 of itself for x <= 0; below -87 it stays at 1e-38. */
static inline vec_float exponential_float(vec_float x)
{
    const vec_float magic = all_float(12582912.0f);
    x = chosen_float(x < -87.0f, all_float(-87.0f), x);
    vec_float shifted = x * 1.44269504f + magic, turns = shifted - magic;
    vec_float rest = x - turns * 0.693359375f + turns * 2.12194440e-4f;
    vec_float power = all_float(1.9875691500e-4f);
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    whole_float exponent = (whole_float)shifted - (whole_float)magic;
    return power * (vec_float)((exponent + 127) << 23);
}

/* ln x to 2e-7 of itself or of 1, for normal x > 0; NaN stays NaN, whose bits would be taken for a number. */
static inline vec_float logarithm_float(vec_float x)
{
    /* The exponent that leaves a mantissa between the roots of 1/2 and 2. */
    whole_float exponent = ((whole_float)x - 0x3f3504f3) >> 23;
    vec_float mantissa = (vec_float)((whole_float)x - (exponent << 23));
    vec_float turns = __builtin_convertvector(exponent, vec_float);
    vec_float s = (mantissa - 1.0f) / (mantissa + 1.0f), square = s * s;
    vec_float series = ((square * (1.0f / 9) + 1.0f / 7) * square + 1.0f / 5) * square + 1.0f / 3;
    vec_float found = turns * 0.693359375f - turns * 2.12194440e-4f + 2.0f * s * (series * square + 1.0f);
    return chosen_float(x == x, found, x);
}

#include "contrast.h"
#include "cross_entropy.h"
#include "adam.h"
#include "tile.h"
#include "product.h"
#include "direct.h"
#define STORED REAL
#define TAKE OF(some) /* STORED to REAL, the first lanes alone */
#define PUT OF(keep)
#include "winograd2.h"
#include "winograd3.h"
#include "winograd4.h"
#include "gathered.h"
#include "squared_error.h"
#include "plain.h"
#include "batch_norm.h"
#include "dropout.h"
#undef REAL
#undef WHOLE
#undef POSITIVE
#undef LANES
#undef OF

#define REAL double
#define WHOLE int64_t
#define POSITIVE INT64_MAX
#define OF(name) name##_double
#include "vectors.h"

static inline vec_double exponential_double(vec_double x)
{
    for (int lane = 0; lane < LANES; lane++) x[lane] = exp(x[lane]);
    return x;
}

static inline vec_double logarithm_double(vec_double x)
{
    for (int lane = 0; lane < LANES; lane++) x[lane] = log(x[lane]);
    return x;
}

#include "contrast.h"
#include "cross_entropy.h"
#include "adam.h"
#include "tile.h"
#include "product.h"
#include "direct.h"
#include "winograd2.h"
#include "winograd3.h"
#include "winograd4.h"
#include "gathered.h"
#include "squared_error.h"
#include "plain.h"
#include "batch_norm.h"
#include "dropout.h"
#undef REAL
#undef WHOLE
#undef POSITIVE
#undef LANES
#undef OF
#undef STORED
#undef TAKE
#undef PUT

/* Numbers in bfloat16, the upper half of a float, and sums in float. */
#define REAL float
#define WHOLE int32_t
#define POSITIVE INT32_MAX
#define OF(name) name##_bfloat16
#define STORED uint16_t
#define TAKE OF(widened)
#define PUT OF(narrowed)
#include "vectors.h"
#include "bfloat16.h"
#include "winograd2.h"
#include "gathered.h"
#include "squared_error.h"
#include "batch_norm.h"
#include "dropout.h"

#include "jitter.h" /* the last: it changes how sums are rounded */
