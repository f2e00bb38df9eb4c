// Attention of several new tokens with AMX: float32 products from three bfloat16 parts of each number.
#pragma once

#include "amx.h"

#if defined(NEO_EDGE_AMX) && defined(__AMX_BF16__)
#define NEO_EDGE_AMX_ATTENTION 1

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "attention_prefill.h"
#include "attention_shape.h"
#include "transpose.h"
#include "types.h"

namespace neo_edge {

// A float32 is exactly the sum of three bfloat16: its upper, middle and lower 8 bits. Of the nine products of
// two such sums six are taken: the others are below a float32's last bit. That is 2.7 times the rate of
// float32.
//
// A tile is 16 rows of 16 pairs. A pair holds inputs j and 16 + j of 32, in both operands, because two
// registers of floats are paired so without shuffles.
constexpr int64_t PARTS = 3;
constexpr int64_t ROWS_FOR_TILES = 64;  // fewer do not pay for splitting the keys
constexpr int64_t TILE_FLOATS = 256;    // the size of a tile in memory, 1 KiB
constexpr int64_t STEP = 32;            // inputs of a tile
constexpr int64_t STEP_FLOATS = PARTS * TILE_FLOATS;
constexpr int TILE_STRIDE = 64;  // bytes of a tile's row

// What attend_with_tiles() keeps besides a pass: operands as tiles, [16 rows or columns][step][part].
struct TilePass : PrefillPass {
    float* keys;         // of the tile's positions
    float* powers;       // of 32 rows
    int64_t key_steps;   // key_dim / 32, rounded up
    int64_t value_rows;  // value_dim rounded up to 32
};

inline int64_t tile_scratch_floats(const AttentionShape& shape) {
    const int64_t key_dim = round_up(shape.key_dim, STEP);
    const int64_t value_dim = round_up(shape.value_dim, STEP);
    const int64_t operands = (PASS_ROWS + TILE_POSITIONS) * key_dim + TILE_POSITIONS * (value_dim + STEP);
    return operands * PARTS / 2 + PASS_ROWS * (TILE_POSITIONS + value_dim + 2);
}

// Row `row` of a tile's three parts: pairs of first[j] and second[j].
inline void store_pairs(__m512 first, __m512 second, float* tile, int64_t row) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xFFFF0000U));
    for (int64_t part = 0; part < PARTS; ++part) {
        const __m512i first_bits = _mm512_and_si512(_mm512_castps_si512(first), upper);
        const __m512i second_bits = _mm512_and_si512(_mm512_castps_si512(second), upper);
        const __m512i pairs = _mm512_or_si512(_mm512_srli_epi32(first_bits, 16), second_bits);
        _mm512_storeu_si512(tile + part * TILE_FLOATS + row * LANES, pairs);
        first = _mm512_sub_ps(first, _mm512_castsi512_ps(first_bits));
        second = _mm512_sub_ps(second, _mm512_castsi512_ps(second_bits));
    }
}

// The products of the tiles 4, 5 (two blocks of left rows) and 6, 7 (of right columns), onto tiles 0 to 3.
inline void multiply_loaded_tiles() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

// One part of two operands, `stride` floats apart.
inline void load_left(const float* operand, int64_t stride, int64_t part) {
    _tile_loadd(4, operand + part * TILE_FLOATS, TILE_STRIDE);
    _tile_loadd(5, operand + stride + part * TILE_FLOATS, TILE_STRIDE);
}

inline void load_right(const float* operand, int64_t stride, int64_t part) {
    _tile_loadd(6, operand + part * TILE_FLOATS, TILE_STRIDE);
    _tile_loadd(7, operand + stride + part * TILE_FLOATS, TILE_STRIDE);
}

// Two blocks of 16 left rows, `left_stride` floats apart, times two blocks of 16 right columns, onto tiles 0
// to 3.
inline void multiply_tiles(const float* left, int64_t left_stride, const float* right, int64_t right_stride,
                           int64_t steps) {
    for (int64_t step = 0; step < steps; ++step, left += STEP_FLOATS, right += STEP_FLOATS) {
        load_left(left, left_stride, 0);  // the least products first
        load_right(right, right_stride, 2);
        multiply_loaded_tiles();
        load_right(right, right_stride, 1);
        multiply_loaded_tiles();
        load_left(left, left_stride, 1);
        multiply_loaded_tiles();
        load_right(right, right_stride, 0);
        multiply_loaded_tiles();
        load_left(left, left_stride, 2);
        multiply_loaded_tiles();
        load_left(left, left_stride, 0);
        multiply_loaded_tiles();
    }
}

// 16 numbers from `at` on, or zeros where they are beyond what is there.
inline __m512 load_or_zero(const float* at, bool there) {
    return there ? _mm512_loadu_ps(at) : _mm512_setzero_ps();
}

inline void pack_keys(const AttentionShape& shape, const AttentionBlock& block, const TilePass& pass,
                      int64_t start, int64_t end) {
    for (int64_t p = 0; p < round_up(end - start, STEP); ++p) {
        const float* key = block.keys + (start + p) * shape.key_dim;
        const bool there = start + p < end;
        float* tiles = pass.keys + p / LANES * pass.key_steps * STEP_FLOATS;
        for (int64_t step = 0; step < pass.key_steps; ++step) {
            const __m512 first = load_or_zero(key + step * STEP, there);
            const __m512 second =
                load_or_zero(key + step * STEP + LANES, there && step * STEP + LANES < shape.key_dim);
            store_pairs(first, second, tiles + step * STEP_FLOATS, p % LANES);
        }
    }
}

// Values of a tile, columns as rows. Says whether all of them are finite.
inline bool pack_values(const AttentionShape& shape, const AttentionBlock& block, const TilePass& pass,
                        int64_t start, int64_t end) {
    alignas(64) static const float ZEROS[LANES] = {};
    alignas(64) float columns[2][LANES * LANES];
    const __m512i infinity = _mm512_set1_epi32(0x7F800000);
    __mmask16 infinite = 0;
    constexpr int64_t STEPS = TILE_POSITIONS / STEP;
    for (int64_t p = 0; p < end - start; p += STEP) {
        for (int64_t v = 0; v < pass.value_rows; v += LANES) {
            for (int64_t half = 0; half < 2; ++half) {
                const float* rows[LANES];
                for (int64_t i = 0; i < LANES; ++i) {
                    const int64_t position = start + p + half * LANES + i;
                    const bool there = position < end && v < shape.value_dim;
                    rows[i] = there ? block.values + position * shape.value_dim + v : ZEROS;
                }
                transpose_16(rows, columns[half], LANES);
            }
            float* tiles = pass.values + (v / LANES * STEPS + p / STEP) * STEP_FLOATS;
            for (int64_t i = 0; i < LANES; ++i) {
                const __m512 first = _mm512_load_ps(columns[0] + i * LANES);
                const __m512 second = _mm512_load_ps(columns[1] + i * LANES);
                const __m512i first_power = _mm512_and_si512(_mm512_castps_si512(first), infinity);
                const __m512i second_power = _mm512_and_si512(_mm512_castps_si512(second), infinity);
                infinite |= _mm512_cmpeq_epi32_mask(_mm512_max_epi32(first_power, second_power), infinity);
                store_pairs(first, second, tiles, i);
            }
        }
    }
    return infinite == 0;
}

// Scores of two vectors of rows, from the tile's positions that one of them sees.
inline void score_with_tiles(const TilePass& pass, int64_t vector, int64_t positions) {
    const int64_t stride = pass.key_steps * STEP_FLOATS;
    float* scores = pass.scores + vector * LANES * TILE_POSITIONS;
    for (int64_t p = 0; p < positions; p += STEP) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        multiply_tiles(pass.keys + p / LANES * stride, stride, pass.queries + vector * stride, stride,
                       pass.key_steps);
        _tile_stored(0, scores + p * LANES, TILE_STRIDE);
        _tile_stored(1, scores + (TILE_POSITIONS + p) * LANES, TILE_STRIDE);
        _tile_stored(2, scores + (p + LANES) * LANES, TILE_STRIDE);
        _tile_stored(3, scores + (TILE_POSITIONS + p + LANES) * LANES, TILE_STRIDE);
    }
}

// Exponentials of one vector of rows: the first `seen` positions, zeros up to `positions`.
inline void pack_powers(const TilePass& pass, int64_t vector, int64_t seen, int64_t positions, float* tiles) {
    const float* powers = pass.scores + vector * LANES * TILE_POSITIONS;
    for (int64_t p = 0; p < positions; p += STEP, tiles += STEP_FLOATS) {
        for (int64_t j = 0; j < LANES; ++j) {
            const __m512 first = load_or_zero(powers + (p + j) * LANES, p + j < seen);
            const __m512 second = load_or_zero(powers + (p + LANES + j) * LANES, p + LANES + j < seen);
            store_pairs(first, second, tiles, j);
        }
    }
}

// Where the sums of 16 rows and 16 columns lie: [column][row].
inline float* tile_of_sums(const TilePass& pass, int64_t vector, int64_t column) {
    return pass.sums + vector * LANES * pass.value_rows + column * LANES;
}

inline void add_with_tiles(const TilePass& pass, int64_t vector, int64_t positions) {
    constexpr int64_t STRIDE = TILE_POSITIONS / STEP * STEP_FLOATS;
    for (int64_t column = 0; column < pass.value_rows; column += STEP) {
        float* first = tile_of_sums(pass, vector, column);
        float* second = tile_of_sums(pass, vector + 1, column);
        _tile_loadd(0, first, TILE_STRIDE);
        _tile_loadd(1, second, TILE_STRIDE);
        _tile_loadd(2, first + TILE_FLOATS, TILE_STRIDE);
        _tile_loadd(3, second + TILE_FLOATS, TILE_STRIDE);
        multiply_tiles(pass.values + column / LANES * STRIDE, STRIDE, pass.powers, STRIDE,
                       (positions + STEP - 1) / STEP);
        _tile_stored(0, first, TILE_STRIDE);
        _tile_stored(1, second, TILE_STRIDE);
        _tile_stored(2, first + TILE_FLOATS, TILE_STRIDE);
        _tile_stored(3, second + TILE_FLOATS, TILE_STRIDE);
    }
}

// The same, position by position, where some value is not finite: rows that do not see it must not meet it.
inline void add_without_tiles(const AttentionShape& shape, const AttentionBlock& block, const TilePass& pass,
                              int64_t vector, int64_t start, int64_t seen) {
    const __m512i visible = _mm512_load_si512(pass.visible + vector * LANES);
    const float* powers = pass.scores + vector * LANES * TILE_POSITIONS;
    for (int64_t p = 0; p < seen; ++p) {
        const __mmask16 lanes =
            _mm512_cmpgt_epi32_mask(visible, _mm512_set1_epi32(static_cast<int32_t>(start + p)));
        const __m512 power = _mm512_loadu_ps(powers + p * LANES);
        for (int64_t v = 0; v < shape.value_dim; ++v) {
            float* sum = tile_of_sums(pass, vector, v);
            const __m512 value = _mm512_set1_ps(block.values[(start + p) * shape.value_dim + v]);
            _mm512_storeu_ps(sum, _mm512_mask3_fmadd_ps(power, value, _mm512_loadu_ps(sum), lanes));
        }
    }
}

inline void attend_tile(const AttentionShape& shape, const AttentionBlock& block, const TilePass& pass,
                        int64_t start, int64_t end) {
    pack_keys(shape, block, pass, start, end);
    const bool finite = pack_values(shape, block, pass, start, end);
    for (int64_t vector = 0; vector < pass.vectors; vector += 2) {
        const int64_t positions = std::min(end, most_visible(pass, vector * LANES, 2 * LANES)) - start;
        if (positions <= 0) continue;
        finish_writing();
        score_with_tiles(pass, vector, positions);
        for (int64_t half = 0; half < 2; ++half) {
            const int64_t seen = std::min(end, most_visible(pass, (vector + half) * LANES, LANES)) - start;
            const Rescaling rescaling = exponentiate_vector(pass, vector + half, start, end);
            if (rescaling.changed != 0 && start > 0) {
                for (int64_t v = 0; v < shape.value_dim; ++v) {
                    float* sum = tile_of_sums(pass, vector + half, v);
                    _mm512_storeu_ps(sum, _mm512_mul_ps(_mm512_loadu_ps(sum), rescaling.factors));
                }
            }
            if (finite) {
                constexpr int64_t STRIDE = TILE_POSITIONS / STEP * STEP_FLOATS;
                pack_powers(pass, vector + half, seen, positions, pass.powers + half * STRIDE);
            } else {
                add_without_tiles(shape, block, pass, vector + half, start, seen);
            }
        }
        finish_writing();
        if (finite) add_with_tiles(pass, vector, positions);
    }
}

inline void start_tiles(const AttentionShape& shape, const AttentionBlock& block, int64_t first_row,
                        TilePass& pass) {
    alignas(64) float columns[STEP * LANES];
    start_rows(shape, block, first_row, pass);
    const int64_t sums = pass.vectors * LANES * pass.value_rows;
    for (int64_t i = 0; i < sums; i += LANES) _mm512_storeu_ps(pass.sums + i, _mm512_setzero_ps());
    for (int64_t vector = 0; vector < pass.vectors; ++vector) {
        const float* queries[LANES];
        queries_of_vector(shape, block, first_row, pass, vector, queries);
        for (int64_t step = 0; step < pass.key_steps; ++step) {
            for (int64_t half = 0; half < 2; ++half) {
                const bool there = step * STEP + half * LANES < shape.key_dim;
                if (there) transpose_16(queries, columns + half * TILE_FLOATS, LANES);
                for (int64_t lane = 0; there && lane < LANES; ++lane) queries[lane] += LANES;
                for (int64_t i = 0; !there && i < TILE_FLOATS; ++i) columns[half * TILE_FLOATS + i] = 0.0F;
            }
            float* tiles = pass.queries + (vector * pass.key_steps + step) * STEP_FLOATS;
            for (int64_t j = 0; j < LANES; ++j) {
                store_pairs(_mm512_load_ps(columns + j * LANES),
                            _mm512_load_ps(columns + TILE_FLOATS + j * LANES), tiles, j);
            }
        }
    }
}

inline void finish_tiles(const AttentionShape& shape, const AttentionBlock& block, int64_t first_row,
                         const TilePass& pass) {
    alignas(64) float rows[TILE_FLOATS];
    for (int64_t vector = 0; vector * LANES < pass.rows; ++vector) {
        for (int64_t column = 0; column < shape.value_dim; column += LANES) {
            const float* columns[LANES];
            for (int64_t i = 0; i < LANES; ++i) columns[i] = tile_of_sums(pass, vector, column + i);
            transpose_16(columns, rows, LANES);
            for (int64_t lane = 0; lane < std::min(LANES, pass.rows - vector * LANES); ++lane) {
                const int64_t row = vector * LANES + lane;
                const __m512 total = _mm512_set1_ps(pass.totals[row]);
                const __m512 mean = _mm512_div_ps(_mm512_load_ps(rows + lane * LANES), total);
                _mm512_storeu_ps(out_of_row(shape, block, first_row + row) + column, mean);
            }
        }
    }
}

inline void attend_with_tiles(const AttentionShape& shape, const AttentionBlock& block, float* scratch) {
    TilePass pass;
    pass.key_steps = round_up(shape.key_dim, STEP) / STEP;
    pass.value_rows = round_up(shape.value_dim, STEP);
    pass.queries = scratch;
    pass.keys = pass.queries + PASS_ROWS * pass.key_steps * STEP * PARTS / 2;
    pass.values = pass.keys + TILE_POSITIONS * pass.key_steps * STEP * PARTS / 2;
    pass.powers = pass.values + TILE_POSITIONS * pass.value_rows * PARTS / 2;
    pass.scores = pass.powers + TILE_POSITIONS * STEP * PARTS / 2;
    pass.sums = pass.scores + PASS_ROWS * TILE_POSITIONS;
    pass.largest = pass.sums + PASS_ROWS * pass.value_rows;
    pass.totals = pass.largest + PASS_ROWS;
    const Tiles tiles;
    const int64_t rows = block.count * (shape.heads / shape.kv_heads);
    for (int64_t first_row = 0; first_row < rows; first_row += PASS_ROWS) {
        pass.rows = std::min(PASS_ROWS, rows - first_row);
        pass.vectors = round_up(pass.rows, 2 * LANES) / LANES;
        start_tiles(shape, block, first_row, pass);
        const int64_t seen = most_visible(pass, 0, pass.rows);
        for (int64_t start = 0; start < seen; start += TILE_POSITIONS) {
            attend_tile(shape, block, pass, start, std::min(start + TILE_POSITIONS, seen));
        }
        finish_tiles(shape, block, first_row, pass);
    }
}

}  // namespace neo_edge

#endif
