// What stands between the products: norms, rounding to 8 bits, rotation, the gate. Float32, one row at a
// time.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "exponential.h"
#include "types.h"

namespace neo_edge {

inline __mmask16 lanes_left(int64_t left) {
    return left >= LANES ? __mmask16(0xFFFF) : __mmask16((1U << left) - 1);
}

inline float square_sum(const float* row, int64_t width) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t at = 0; at < width; at += LANES) {
        const __m512 value = _mm512_maskz_loadu_ps(lanes_left(width - at), row + at);
        sum = _mm512_fmadd_ps(value, value, sum);
    }
    return _mm512_reduce_add_ps(sum);
}

// out = row / sqrt(mean(row^2) + epsilon) * weight; in place if out is row.
inline void rms_norm(const float* row, const float* weight, int64_t width, float epsilon, float* out) {
    const float mean = square_sum(row, width) / static_cast<float>(width);
    const __m512 factor = _mm512_set1_ps(1.0F / std::sqrt(mean + epsilon));
    for (int64_t at = 0; at < width; at += LANES) {
        const __mmask16 mask = lanes_left(width - at);
        const __m512 value = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + at), factor);
        _mm512_mask_storeu_ps(out + at, mask, _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, weight + at)));
    }
}

// At least LEAST_MAXIMUM; not a number if one of the row is none, so that products of it are none, either.
inline float largest_magnitude(const float* row, int64_t width) {
    // As integers: magnitudes keep their order, and what is no number stands above infinity.
    __m512i largest = _mm512_castps_si512(_mm512_set1_ps(LEAST_MAXIMUM));
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    for (int64_t at = 0; at < width; at += LANES) {
        const __m512 value = _mm512_maskz_loadu_ps(lanes_left(width - at), row + at);
        largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(value), magnitude));
    }
    const int32_t bits = _mm512_reduce_max_epi32(largest);
    float result;
    std::memcpy(&result, &bits, sizeof(result));
    return result;
}

// values[k] = round(row[k] * 127 / largest) + 128 up to `stride`, behind the row as if it were 0; gives
// largest.
inline float round_to_uint8(const float* row, int64_t width, int64_t stride, uint8_t* values) {
    const float largest = largest_magnitude(row, width);
    const __m512 scale = _mm512_set1_ps(LARGEST_INT8 / largest);
    const __m512i middle = _mm512_set1_epi32(128);
    for (int64_t at = 0; at < stride; at += LANES) {
        const __mmask16 mask = at < width ? lanes_left(width - at) : __mmask16(0);
        const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + at), scale);
        const __m512i rounded = _mm512_add_epi32(_mm512_cvtps_epi32(scaled), middle);
        _mm_store_si128(reinterpret_cast<__m128i*>(values + at), _mm512_cvtusepi32_epi8(rounded));
    }
    return largest;
}

// The same with a scale for each block of inputs, around 0, up to `stride`, a multiple of the block.
inline void round_to_int8_blocks(const float* row, int64_t width, int64_t stride, int64_t block,
                                 int8_t* values, float* scales, int32_t* sums) {
    for (int64_t first = 0; first < stride; first += block, ++scales, ++sums) {
        const int64_t here = std::max<int64_t>(0, std::min(block, width - first));
        const float largest = largest_magnitude(row + first, here);
        const __m512 scale = _mm512_set1_ps(LARGEST_INT8 / largest);
        const __m512i least =
            _mm512_set1_epi32(-128);  // what is no number becomes: the sum must not overflow
        __m512i sum = _mm512_setzero_si512();
        for (int64_t at = 0; at < block; at += LANES) {
            const __mmask16 mask = at < here ? lanes_left(here - at) : __mmask16(0);
            const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + first + at), scale);
            const __m512i rounded = _mm512_max_epi32(_mm512_cvtps_epi32(scaled), least);
            sum = _mm512_add_epi32(sum, rounded);
            _mm_store_si128(reinterpret_cast<__m128i*>(values + first + at), _mm512_cvtsepi32_epi8(rounded));
        }
        *scales = largest / LARGEST_INT8;
        *sums = _mm512_reduce_add_epi32(sum);
    }
}

// Turns the pairs (2i, 2i + 1) of a head by their angles, in place; cosines and sines: [width / 2].
inline void rotate_pairs(float* head, const float* cosines, const float* sines, int64_t width) {
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    for (int64_t at = 0; at < width; at += LANES) {
        const __mmask16 mask = lanes_left(width - at);
        const __mmask16 half = lanes_left((width - at) / 2) & __mmask16(0xFF);
        const __m512 cosine = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(half, cosines + at / 2));
        const __m512 sine = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(half, sines + at / 2));
        const __m512 value = _mm512_maskz_loadu_ps(mask, head + at);
        const __m512 swapped = _mm512_permute_ps(value, 0xB1);
        // even: x0 cos - x1 sin; odd: x1 cos + x0 sin
        const __m512 turned = _mm512_fmaddsub_ps(value, cosine, _mm512_mul_ps(swapped, sine));
        _mm512_mask_storeu_ps(head + at, mask, turned);
    }
}

// gate / (1 + exp(-gate)) * up
inline __m512 gated(__m512 gate, __m512 up) {
    const __m512 one = _mm512_set1_ps(1.0F);
    const __m512 falling = exponential(_mm512_sub_ps(_mm512_setzero_ps(), gate));
    return _mm512_mul_ps(_mm512_div_ps(gate, _mm512_add_ps(one, falling)), up);
}

}  // namespace neo_edge
