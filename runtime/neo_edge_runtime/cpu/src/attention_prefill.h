// Attention of several new tokens: two matrix products a tile of cache positions, near the machine's
// arithmetic rate.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "attention_shape.h"
#include "exponential.h"
#include "transpose.h"
#include "types.h"

namespace neo_edge {

// A row is one query head of one new token. Rows lie along the lanes of registers, cache positions across
// them: keys and values are then read as they lie in the cache, one number a time, and a softmax needs no
// sums across lanes.
constexpr int64_t PASS_ROWS = 256;      // whose queries, scores and sums stay in the second-level cache
constexpr int64_t TILE_POSITIONS = 96;  // scored before their values are summed
constexpr int64_t DEPTH_STEP = 128;     // of the queries of one panel that stay in the first-level cache
constexpr int64_t PANEL_VECTORS = 4;    // of 16 rows
constexpr int SCORE_POSITIONS = 6;      // at once: 24 sums in registers

// What a pass over at most PASS_ROWS rows keeps.
struct PrefillPass {
    float* queries;  // panels of up to 64 rows: [key_dim][rows of the panel]
    float* scores;   // [row / 16][TILE_POSITIONS][16], later their exponentials
    float* values;   // [TILE_POSITIONS][up to 64 columns]: of the tile, side by side
    float* sums;     // [row][value_dim], of exponentials times values
    float* largest;  // [row]: of the scores so far
    float* totals;   // [row]: of the exponentials so far
    alignas(64) int32_t visible[PASS_ROWS];
    int64_t rows, vectors;  // the last vectors' lanes beyond the rows repeat the last one
};

inline int64_t prefill_scratch_floats(const AttentionShape& shape) {
    const int64_t values = TILE_POSITIONS * PANEL_VECTORS * LANES;
    return PASS_ROWS * (shape.key_dim + TILE_POSITIONS + shape.value_dim + 2) + values;
}

inline int64_t most_visible(const PrefillPass& pass, int64_t row, int64_t rows) {
    int64_t most = 0;
    for (int64_t i = row; i < row + rows; ++i) most = std::max<int64_t>(most, pass.visible[i]);
    return most;
}

inline int64_t least_visible(const PrefillPass& pass, int64_t row, int64_t rows) {
    int64_t fewest = pass.visible[row];
    for (int64_t i = row + 1; i < row + rows; ++i) fewest = std::min<int64_t>(fewest, pass.visible[i]);
    return fewest;
}

// scores[v * TILE_POSITIONS * 16 + p * 16 ..] (+)= the products of VECTORS * 16 queries with POSITIONS keys.
template <int VECTORS, int POSITIONS>
inline void score_positions(const float* queries, const float* keys, int64_t key_stride, int64_t depth,
                            bool adds, float* scores) {
    __m512 sums[POSITIONS][VECTORS];
    for (int p = 0; p < POSITIONS; ++p) {
        for (int v = 0; v < VECTORS; ++v) {
            const float* score = scores + v * TILE_POSITIONS * LANES + p * LANES;
            sums[p][v] = adds ? _mm512_loadu_ps(score) : _mm512_setzero_ps();
        }
    }
    for (int64_t k = 0; k < depth; ++k) {
        __m512 query[VECTORS];
        for (int v = 0; v < VECTORS; ++v) query[v] = _mm512_loadu_ps(queries + (k * VECTORS + v) * LANES);
        for (int p = 0; p < POSITIONS; ++p) {
            const __m512 key = _mm512_set1_ps(keys[p * key_stride + k]);
            for (int v = 0; v < VECTORS; ++v) sums[p][v] = _mm512_fmadd_ps(query[v], key, sums[p][v]);
        }
    }
    for (int p = 0; p < POSITIONS; ++p) {
        for (int v = 0; v < VECTORS; ++v) {
            _mm512_storeu_ps(scores + v * TILE_POSITIONS * LANES + p * LANES, sums[p][v]);
        }
    }
}

template <int VECTORS>
inline void score_panel(const AttentionShape& shape, const float* queries, const float* keys,
                        int64_t positions, float* scores) {
    for (int64_t start = 0; start < shape.key_dim; start += DEPTH_STEP) {
        const int64_t depth = std::min(DEPTH_STEP, shape.key_dim - start);
        const float* query = queries + start * VECTORS * LANES;
        int64_t p = 0;
        for (; p + SCORE_POSITIONS <= positions; p += SCORE_POSITIONS) {
            score_positions<VECTORS, SCORE_POSITIONS>(query, keys + p * shape.key_dim + start, shape.key_dim,
                                                      depth, start > 0, scores + p * LANES);
        }
        for (; p + 2 <= positions; p += 2) {
            score_positions<VECTORS, 2>(query, keys + p * shape.key_dim + start, shape.key_dim, depth,
                                        start > 0, scores + p * LANES);
        }
        if (p < positions) {
            score_positions<VECTORS, 1>(query, keys + p * shape.key_dim + start, shape.key_dim, depth,
                                        start > 0, scores + p * LANES);
        }
    }
}

inline void score_tile(const AttentionShape& shape, const AttentionBlock& block, const PrefillPass& pass,
                       int64_t start, int64_t end) {
    const float* keys = block.keys + start * shape.key_dim;
    for (int64_t vector = 0; vector < pass.vectors; vector += PANEL_VECTORS) {
        const int64_t vectors = std::min(PANEL_VECTORS, pass.vectors - vector);
        const int64_t seen = most_visible(pass, vector * LANES, vectors * LANES);
        const int64_t positions = std::min(end, seen) - start;
        if (positions <= 0) continue;
        const float* queries = pass.queries + vector * LANES * shape.key_dim;
        float* scores = pass.scores + vector * TILE_POSITIONS * LANES;
        switch (vectors) {
        case 1:
            score_panel<1>(shape, queries, keys, positions, scores);
            break;
        case 2:
            score_panel<2>(shape, queries, keys, positions, scores);
            break;
        case 3:
            score_panel<3>(shape, queries, keys, positions, scores);
            break;
        default:
            score_panel<4>(shape, queries, keys, positions, scores);
            break;
        }
    }
}

inline void scale_sums(float* sums, int64_t value_dim, float factor) {
    const __m512 factors = _mm512_set1_ps(factor);
    for (int64_t c = 0; c < value_dim; c += LANES) {
        _mm512_storeu_ps(sums + c, _mm512_mul_ps(_mm512_loadu_ps(sums + c), factors));
    }
}

// What the sums of 16 rows so far are to be multiplied by, because their maximum changed.
struct Rescaling {
    __m512 factors;
    __mmask16 changed;
};

// Exponentials in the place of 16 rows' scores; a row that sees less of the tile than others gets zeros
// there.
inline Rescaling exponentiate_vector(const PrefillPass& pass, int64_t vector, int64_t start, int64_t end) {
    const int64_t row = vector * LANES;
    const int64_t seen = std::min(end, most_visible(pass, row, LANES)) - start;
    if (seen <= 0) return {_mm512_setzero_ps(), 0};
    const int64_t common = std::max<int64_t>(0, std::min(end, least_visible(pass, row, LANES)) - start);
    const __m512i visible = _mm512_load_si512(pass.visible + row);
    float* scores = pass.scores + row * TILE_POSITIONS;
    const auto lanes_that_see = [&](int64_t p) {
        return _mm512_cmpgt_epi32_mask(visible, _mm512_set1_epi32(static_cast<int32_t>(start + p)));
    };

    const __m512 before = _mm512_loadu_ps(pass.largest + row);
    __m512 even = before;  // two chains, because a maximum takes four cycles
    __m512 odd = before;
    int64_t p = 0;
    for (; p + 2 <= common; p += 2) {
        even = _mm512_max_ps(even, _mm512_loadu_ps(scores + p * LANES));
        odd = _mm512_max_ps(odd, _mm512_loadu_ps(scores + (p + 1) * LANES));
    }
    for (; p < seen; ++p) {
        even = _mm512_mask_max_ps(even, lanes_that_see(p), even, _mm512_loadu_ps(scores + p * LANES));
    }
    const __m512 largest = _mm512_max_ps(even, odd);
    const __m512 factors =
        exponential(_mm512_sub_ps(before, largest));  // 0 in a row's first tile, 1 where unchanged
    const __mmask16 changed = _mm512_cmp_ps_mask(largest, before, _CMP_GT_OQ);

    __m512 total = _mm512_mul_ps(_mm512_loadu_ps(pass.totals + row), factors);
    for (p = 0; p < common; ++p) {
        const __m512 power = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + p * LANES), largest));
        total = _mm512_add_ps(total, power);
        _mm512_storeu_ps(scores + p * LANES, power);
    }
    for (; p < seen; ++p) {
        const __m512 power = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + p * LANES), largest));
        const __m512 masked = _mm512_maskz_mov_ps(lanes_that_see(p), power);
        total = _mm512_add_ps(total, masked);
        _mm512_storeu_ps(scores + p * LANES, masked);
    }
    _mm512_storeu_ps(pass.largest + row, largest);
    _mm512_storeu_ps(pass.totals + row, total);
    return {factors, changed};
}

inline void rescale_rows(const AttentionShape& shape, const Rescaling& rescaling, float* sums) {
    alignas(64) float factors[LANES];
    _mm512_store_ps(factors, rescaling.factors);
    for (int64_t lane = 0; lane < LANES; ++lane) {
        if ((rescaling.changed >> lane & 1) == 0) continue;
        scale_sums(sums + lane * shape.value_dim, shape.value_dim, factors[lane]);
    }
}

// Adds the exponentials of ROWS rows times VECTORS * 16 columns of the values of `positions` positions to
// their sums.
template <int ROWS, int VECTORS>
inline void add_values(const float* powers, const float* values, int64_t positions, int64_t value_dim,
                       float* sums) {
    __m512 sum[ROWS][VECTORS];
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = _mm512_loadu_ps(sums + r * value_dim + v * LANES);
    }
    for (int64_t p = 0; p < positions; ++p) {
        __m512 value[VECTORS];
        for (int v = 0; v < VECTORS; ++v) value[v] = _mm512_loadu_ps(values + (p * VECTORS + v) * LANES);
        for (int r = 0; r < ROWS; ++r) {
            const __m512 power = _mm512_set1_ps(powers[p * LANES + r]);
            for (int v = 0; v < VECTORS; ++v) sum[r][v] = _mm512_fmadd_ps(power, value[v], sum[r][v]);
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) _mm512_storeu_ps(sums + r * value_dim + v * LANES, sum[r][v]);
    }
}

// The same for the rows from `row` on, each with what it sees of the tile.
template <int ROWS, int VECTORS>
inline void add_rows(const AttentionShape& shape, const PrefillPass& pass, int64_t row, int64_t start,
                     int64_t end, float* sums) {
    if (row >= pass.rows) return;
    const float* powers = pass.scores + row / LANES * LANES * TILE_POSITIONS + row % LANES;
    const int64_t common = std::max<int64_t>(0, std::min(end, least_visible(pass, row, ROWS)) - start);
    add_values<ROWS, VECTORS>(powers, pass.values, common, shape.value_dim, sums + row * shape.value_dim);
    // What only some of the rows see may hold anything for the others, even no number: never times their
    // zeros.
    for (int64_t r = 0; r < ROWS; ++r) {
        const int64_t rest = std::min<int64_t>(end, pass.visible[row + r]) - start - common;
        if (rest <= 0) continue;
        add_values<1, VECTORS>(powers + common * LANES + r, pass.values + common * VECTORS * LANES, rest,
                               shape.value_dim, sums + (row + r) * shape.value_dim);
    }
}

// VECTORS * 16 columns of all rows' sums.
template <int VECTORS>
inline void add_columns(const AttentionShape& shape, const PrefillPass& pass, const float* values,
                        int64_t start, int64_t end, float* sums) {
    for (int64_t p = 0; p < end - start; ++p) {
        for (int v = 0; v < VECTORS; ++v) {
            const __m512 value = _mm512_loadu_ps(values + p * shape.value_dim + v * LANES);
            _mm512_storeu_ps(pass.values + (p * VECTORS + v) * LANES, value);
        }
    }
    for (int64_t row = 0; row < pass.rows; row += LANES) {  // as many rows at once as registers hold
        add_rows<6, VECTORS>(shape, pass, row, start, end, sums);
        add_rows<5, VECTORS>(shape, pass, row + 6, start, end, sums);
        add_rows<5, VECTORS>(shape, pass, row + 11, start, end, sums);
    }
}

inline void add_tile(const AttentionShape& shape, const AttentionBlock& block, const PrefillPass& pass,
                     int64_t start, int64_t end) {
    for (int64_t column = 0; column < shape.value_dim; column += PANEL_VECTORS * LANES) {
        const float* values = block.values + start * shape.value_dim + column;
        float* sums = pass.sums + column;
        switch (std::min(PANEL_VECTORS, (shape.value_dim - column) / LANES)) {
        case 1:
            add_columns<1>(shape, pass, values, start, end, sums);
            break;
        case 2:
            add_columns<2>(shape, pass, values, start, end, sums);
            break;
        case 3:
            add_columns<3>(shape, pass, values, start, end, sums);
            break;
        default:
            add_columns<4>(shape, pass, values, start, end, sums);
            break;
        }
    }
}

// Row i of a block: query head i % group of token i / group.
inline const float* query_of_row(const AttentionShape& shape, const AttentionBlock& block, int64_t row) {
    const int64_t group = shape.heads / shape.kv_heads;
    const int64_t head = block.kv_head * group + row % group;
    return block.queries + (block.first + row / group) * block.query_stride + head * shape.key_dim;
}

inline float* out_of_row(const AttentionShape& shape, const AttentionBlock& block, int64_t row) {
    const int64_t group = shape.heads / shape.kv_heads;
    const int64_t head = block.kv_head * group + row % group;
    return block.out + (block.first + row / group) * block.out_stride + head * shape.value_dim;
}

// Lanes beyond the rows repeat the last row: nothing of them is kept.
inline void queries_of_vector(const AttentionShape& shape, const AttentionBlock& block, int64_t first_row,
                              const PrefillPass& pass, int64_t vector, const float** queries) {
    for (int64_t lane = 0; lane < LANES; ++lane) {
        const int64_t row = std::min(vector * LANES + lane, pass.rows - 1);
        queries[lane] = query_of_row(shape, block, first_row + row);
    }
}

inline void start_rows(const AttentionShape& shape, const AttentionBlock& block, int64_t first_row,
                       PrefillPass& pass) {
    const int64_t group = shape.heads / shape.kv_heads;
    for (int64_t row = 0; row < pass.vectors * LANES; ++row) {
        pass.visible[row] = block.visible[block.first + (first_row + std::min(row, pass.rows - 1)) / group];
        pass.largest[row] = -__builtin_inff();
        pass.totals[row] = 0.0F;
    }
}

inline void start_pass(const AttentionShape& shape, const AttentionBlock& block, int64_t first_row,
                       PrefillPass& pass) {
    start_rows(shape, block, first_row, pass);
    const int64_t sums = pass.vectors * LANES * shape.value_dim;
    for (int64_t i = 0; i < sums; i += LANES) _mm512_storeu_ps(pass.sums + i, _mm512_setzero_ps());
    for (int64_t vector = 0; vector < pass.vectors; ++vector) {
        const int64_t panel = vector / PANEL_VECTORS * PANEL_VECTORS;
        const int64_t width = std::min(PANEL_VECTORS, pass.vectors - panel) * LANES;
        float* to = pass.queries + panel * LANES * shape.key_dim + (vector - panel) * LANES;
        const float* queries[LANES];
        queries_of_vector(shape, block, first_row, pass, vector, queries);
        for (int64_t k = 0; k < shape.key_dim; k += LANES) {
            transpose_16(queries, to + k * width, width);
            for (int64_t lane = 0; lane < LANES; ++lane) queries[lane] += LANES;
        }
    }
}

inline void finish_pass(const AttentionShape& shape, const AttentionBlock& block, int64_t first_row,
                        const PrefillPass& pass) {
    for (int64_t row = 0; row < pass.rows; ++row) {
        float* out = out_of_row(shape, block, first_row + row);
        const __m512 total = _mm512_set1_ps(pass.totals[row]);
        for (int64_t c = 0; c < shape.value_dim; c += LANES) {
            const __m512 sum = _mm512_loadu_ps(pass.sums + row * shape.value_dim + c);
            _mm512_storeu_ps(out + c, _mm512_div_ps(sum, total));
        }
    }
}

inline void attend_many(const AttentionShape& shape, const AttentionBlock& block, float* scratch) {
    PrefillPass pass;
    pass.queries = scratch;
    pass.scores = pass.queries + PASS_ROWS * shape.key_dim;
    pass.values = pass.scores + PASS_ROWS * TILE_POSITIONS;
    pass.sums = pass.values + TILE_POSITIONS * PANEL_VECTORS * LANES;
    pass.largest = pass.sums + PASS_ROWS * shape.value_dim;
    pass.totals = pass.largest + PASS_ROWS;
    const int64_t rows = block.count * (shape.heads / shape.kv_heads);
    for (int64_t first_row = 0; first_row < rows; first_row += PASS_ROWS) {
        pass.rows = std::min(PASS_ROWS, rows - first_row);
        pass.vectors = (pass.rows + LANES - 1) / LANES;
        start_pass(shape, block, first_row, pass);
        const int64_t seen = most_visible(pass, 0, pass.rows);
        for (int64_t start = 0; start < seen; start += TILE_POSITIONS) {
            const int64_t end = std::min(start + TILE_POSITIONS, seen);
            score_tile(shape, block, pass, start, end);
            for (int64_t vector = 0; vector < pass.vectors; ++vector) {
                const Rescaling rescaling = exponentiate_vector(pass, vector, start, end);
                float* sums = pass.sums + vector * LANES * shape.value_dim;
                if (rescaling.changed != 0 && start > 0) rescale_rows(shape, rescaling, sums);
            }
            add_tile(shape, block, pass, start, end);
        }
        finish_pass(shape, block, first_row, pass);
    }
}

}  // namespace neo_edge
