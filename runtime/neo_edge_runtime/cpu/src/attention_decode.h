// Attention of one new token: one pass over the cache, as fast as memory gives it.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "attention_prefill.h"
#include "attention_shape.h"
#include "exponential.h"
#include "reading.h"
#include "types.h"

namespace neo_edge {

constexpr int64_t CHUNK_POSITIONS = 256;  // scored before their values are summed
constexpr int64_t VALUE_POSITIONS = 32;   // whose values stay in the first-level cache for all heads
constexpr int64_t FLOAT_BYTES = 4;

// Chunk scores of every head, sums of every head, and two numbers a head.
inline int64_t decode_scratch_floats(const AttentionShape& shape) {
    return shape.heads / shape.kv_heads * (CHUNK_POSITIONS + shape.value_dim + 2);
}

// Lane i of the result is the sum of the lanes of sums[i].
inline __m512 sums_of_lanes(const __m512* sums) {
    __m512 pairs[8];
    for (int i = 0; i < 8; ++i) {
        const __m512 low = _mm512_unpacklo_ps(sums[2 * i], sums[2 * i + 1]);
        pairs[i] = _mm512_add_ps(low, _mm512_unpackhi_ps(sums[2 * i], sums[2 * i + 1]));
    }
    __m512 quads[4];  // each 128-bit lane: the lane's sums of four
    for (int i = 0; i < 4; ++i) {
        const __m512d first = _mm512_castps_pd(pairs[2 * i]);
        const __m512d second = _mm512_castps_pd(pairs[2 * i + 1]);
        const __m512 low = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
        quads[i] = _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(first, second)));
    }
    __m512 halves[2];
    for (int i = 0; i < 2; ++i) {
        const __m512 even = _mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0x88);
        halves[i] = _mm512_add_ps(even, _mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0xDD));
    }
    const __m512 even = _mm512_shuffle_f32x4(halves[0], halves[1], 0x88);
    return _mm512_add_ps(even, _mm512_shuffle_f32x4(halves[0], halves[1], 0xDD));
}

// scores[h * CHUNK_POSITIONS + p] of HEADS heads with 16 / HEADS keys; those beyond `positions` repeat the
// last.
template <int HEADS>
inline void score_heads(const float* queries, const float* keys, int64_t key_dim, int64_t positions,
                        float* scores) {
    constexpr int POSITIONS = 16 / HEADS;
    const float* key[POSITIONS];
    for (int p = 0; p < POSITIONS; ++p) key[p] = keys + std::min<int64_t>(p, positions - 1) * key_dim;
    __m512 sums[16];
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < key_dim; k += LANES) {
        __m512 query[HEADS];
        for (int h = 0; h < HEADS; ++h) query[h] = _mm512_loadu_ps(queries + h * key_dim + k);
        for (int p = 0; p < POSITIONS; ++p) {
            fetch(key[p] + k, 2 * POSITIONS * key_dim * FLOAT_BYTES);
            const __m512 part = _mm512_loadu_ps(key[p] + k);
            for (int h = 0; h < HEADS; ++h) {
                sums[h * POSITIONS + p] = _mm512_fmadd_ps(query[h], part, sums[h * POSITIONS + p]);
            }
        }
    }
    const __m512 score = sums_of_lanes(sums);
    for (int h = 0; h < HEADS; ++h) {
        const auto lanes = static_cast<__mmask16>(((1U << POSITIONS) - 1) << (h * POSITIONS));
        _mm512_mask_compressstoreu_ps(scores + h * CHUNK_POSITIONS, lanes, score);
    }
}

template <int HEADS>
inline void score_chunk(const float* queries, const float* keys, int64_t key_dim, int64_t positions,
                        float* scores) {
    constexpr int POSITIONS = 16 / HEADS;
    for (int64_t p = 0; p < positions; p += POSITIONS) {
        score_heads<HEADS>(queries, keys + p * key_dim, key_dim, positions - p, scores + p);
    }
}

// Exponentials in the place of one head's scores; what was summed before is scaled to the new maximum.
inline void exponentiate_chunk(float* scores, int64_t positions, float* largest, float* total, float* sums,
                               int64_t value_dim) {
    __m512 most = _mm512_set1_ps(*largest);
    for (int64_t p = 0; p < positions; p += LANES) {
        const auto lanes = static_cast<__mmask16>((1U << std::min(LANES, positions - p)) - 1);
        most = _mm512_mask_max_ps(most, lanes, most, _mm512_loadu_ps(scores + p));
    }
    const float now = _mm512_reduce_max_ps(most);
    if (now > *largest) {
        const float factor = _mm512_cvtss_f32(exponential(_mm512_set1_ps(*largest - now)));
        scale_sums(sums, value_dim, factor);
        *total *= factor;
        *largest = now;
    }
    __m512 added = _mm512_setzero_ps();
    for (int64_t p = 0; p < positions; p += LANES) {
        const auto lanes = static_cast<__mmask16>((1U << std::min(LANES, positions - p)) - 1);
        const __m512 power = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + p), _mm512_set1_ps(now)));
        const __m512 masked = _mm512_maskz_mov_ps(lanes, power);
        added = _mm512_add_ps(added, masked);
        _mm512_storeu_ps(scores + p, masked);
    }
    *total += _mm512_reduce_add_ps(added);
}

template <int HEADS, int VECTORS>
inline void add_heads(const float* powers, const float* values, int64_t positions, int64_t value_dim,
                      float* sums) {
    __m512 sum[HEADS][VECTORS];
    for (int h = 0; h < HEADS; ++h) {
        for (int v = 0; v < VECTORS; ++v) sum[h][v] = _mm512_loadu_ps(sums + h * value_dim + v * LANES);
    }
    for (int64_t p = 0; p < positions; ++p) {
        __m512 value[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            fetch(values + p * value_dim + v * LANES, VALUE_POSITIONS / 2 * value_dim * FLOAT_BYTES);
            value[v] = _mm512_loadu_ps(values + p * value_dim + v * LANES);
        }
        for (int h = 0; h < HEADS; ++h) {
            const __m512 power = _mm512_set1_ps(powers[h * CHUNK_POSITIONS + p]);
            for (int v = 0; v < VECTORS; ++v) sum[h][v] = _mm512_fmadd_ps(power, value[v], sum[h][v]);
        }
    }
    for (int h = 0; h < HEADS; ++h) {
        for (int v = 0; v < VECTORS; ++v) _mm512_storeu_ps(sums + h * value_dim + v * LANES, sum[h][v]);
    }
}

template <int HEADS>
inline void add_chunk(const float* powers, const float* values, int64_t positions, int64_t value_dim,
                      float* sums) {
    constexpr int64_t WIDE = 8;
    int64_t column = 0;
    if constexpr (HEADS <= 2) {  // whole rows where registers suffice: one stream
        for (; column + WIDE * LANES <= value_dim; column += WIDE * LANES) {
            add_heads<HEADS, WIDE>(powers, values + column, positions, value_dim, sums + column);
        }
    }
    for (; column + PANEL_VECTORS * LANES <= value_dim; column += PANEL_VECTORS * LANES) {
        add_heads<HEADS, PANEL_VECTORS>(powers, values + column, positions, value_dim, sums + column);
    }
    for (; column < value_dim; column += LANES) {
        add_heads<HEADS, 1>(powers, values + column, positions, value_dim, sums + column);
    }
}

// Calls visit(first head, how many: 4, 2 or 1 as a constant) until all heads of a group had their turn.
template <class Visit>
inline void for_heads(int64_t heads, Visit&& visit) {
    int64_t head = 0;
    for (; head + 4 <= heads; head += 4) visit(head, std::integral_constant<int, 4>{});
    for (; head + 2 <= heads; head += 2) visit(head, std::integral_constant<int, 2>{});
    if (head < heads) visit(head, std::integral_constant<int, 1>{});
}

inline void attend_one(const AttentionShape& shape, const AttentionBlock& block, float* scratch) {
    const int64_t group = shape.heads / shape.kv_heads;
    const int64_t key_dim = shape.key_dim;
    const int64_t value_dim = shape.value_dim;
    const float* queries = query_of_row(shape, block, 0);
    float* scores = scratch;
    float* sums = scores + group * CHUNK_POSITIONS;
    float* largest = sums + group * value_dim;
    float* totals = largest + group;
    for (int64_t head = 0; head < group; ++head) {
        largest[head] = -__builtin_inff();
        totals[head] = 0.0F;
    }
    for (int64_t i = 0; i < group * value_dim; i += LANES) _mm512_storeu_ps(sums + i, _mm512_setzero_ps());

    const int64_t visible = block.visible[block.first];
    for (int64_t start = 0; start < visible; start += CHUNK_POSITIONS) {
        const int64_t positions = std::min(CHUNK_POSITIONS, visible - start);
        for (int64_t step = 0; step < positions; step += LANES) {  // a key stays in a cache for all heads
            const float* keys = block.keys + (start + step) * key_dim;
            for_heads(group, [&](int64_t head, auto heads) {
                score_chunk<decltype(heads)::value>(queries + head * key_dim, keys, key_dim,
                                                    std::min(LANES, positions - step),
                                                    scores + head * CHUNK_POSITIONS + step);
            });
        }
        for (int64_t head = 0; head < group; ++head) {
            exponentiate_chunk(scores + head * CHUNK_POSITIONS, positions, largest + head, totals + head,
                               sums + head * value_dim, value_dim);
        }
        for (int64_t step = 0; step < positions; step += VALUE_POSITIONS) {
            const float* values = block.values + (start + step) * value_dim;
            for_heads(group, [&](int64_t head, auto heads) {
                add_chunk<decltype(heads)::value>(scores + head * CHUNK_POSITIONS + step, values,
                                                  std::min(VALUE_POSITIONS, positions - step), value_dim,
                                                  sums + head * value_dim);
            });
        }
    }
    const int64_t first_head = block.kv_head * group;
    for (int64_t head = 0; head < group; ++head) {
        float* out = block.out + block.first * block.out_stride + (first_head + head) * value_dim;
        const __m512 factor = _mm512_set1_ps(1.0F / totals[head]);
        for (int64_t c = 0; c < value_dim; c += LANES) {
            _mm512_storeu_ps(out + c, _mm512_mul_ps(_mm512_loadu_ps(sums + head * value_dim + c), factor));
        }
    }
}

}  // namespace neo_edge
