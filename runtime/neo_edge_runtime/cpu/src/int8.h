// Products of rows of 8-bit activations with two panels of 8-bit weights.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "amx.h"
#include "reading.h"
#include "types.h"

namespace neo_edge {

inline __m512 int8_scaled(__m512i sums, const Int8Panel& panel, float largest) {
    const __m512i products = _mm512_sub_epi32(sums, _mm512_loadu_si512(panel.corrections));
    const __m512 steps = _mm512_mul_ps(_mm512_cvtepi32_ps(products), _mm512_loadu_ps(panel.scales));
    return _mm512_mul_ps(steps, _mm512_set1_ps(largest));
}

// Bytes from two panels to those most likely asked for next: neighbours are followed by two more, panels
// of two matrices by one each.
inline int64_t bytes_to_next(const Int8Panel& first, const Int8Panel& second, int64_t inputs) {
    const int64_t panel = inputs * PANEL;
    return second.weights == first.weights + panel ? 2 * panel : panel;
}

// One row waits for memory alone. Each panel is read in two halves: four streams keep more of it under way.
template <class Store>
void int8_one_row(const Int8Rows& rows, int64_t inputs, const Int8Panel& first, const Int8Panel& second,
                  Store&& store) {
    const int64_t half = inputs / DEPTH / 2 * DEPTH;
    const uint8_t* values = rows.values;
    const int8_t* upper = first.weights;
    const int8_t* lower = upper + half * PANEL;
    const int8_t* second_upper = second.weights;
    const int8_t* second_lower = second_upper + half * PANEL;
    __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                       _mm512_setzero_si512()};
    constexpr int64_t AHEAD = 128;  // inputs: 2 KB of each stream
    const int64_t next = bytes_to_next(first, second, inputs);
    for (int64_t k = 0; k < half; k += 4) {
        const int64_t ahead = (k + AHEAD < half ? 0 : next - half * PANEL) + (k + AHEAD) * PANEL;
        fetch(upper, ahead);
        fetch(lower, ahead);
        fetch(second_upper, ahead);
        fetch(second_lower, ahead);
        const __m512i early = four_inputs(values + k);
        const __m512i late = four_inputs(values + half + k);
        sums[0] = _mm512_dpbusd_epi32(sums[0], early, _mm512_load_si512(upper + k * PANEL));
        sums[1] = _mm512_dpbusd_epi32(sums[1], late, _mm512_load_si512(lower + k * PANEL));
        sums[2] = _mm512_dpbusd_epi32(sums[2], early, _mm512_load_si512(second_upper + k * PANEL));
        sums[3] = _mm512_dpbusd_epi32(sums[3], late, _mm512_load_si512(second_lower + k * PANEL));
    }
    for (int64_t k = 2 * half; k < inputs; k += 4) {
        const __m512i last = four_inputs(values + k);
        sums[0] = _mm512_dpbusd_epi32(sums[0], last, _mm512_load_si512(upper + k * PANEL));
        sums[2] = _mm512_dpbusd_epi32(sums[2], last, _mm512_load_si512(second_upper + k * PANEL));
    }
    store(int64_t{0}, int8_scaled(_mm512_add_epi32(sums[0], sums[1]), first, rows.largest[0]),
          int8_scaled(_mm512_add_epi32(sums[2], sums[3]), second, rows.largest[0]));
}

// Rows [row, row + the number of ROW) with their sums in registers: the loops over rows are unrolled by hand,
// since compilers leave arrays in memory whose loops they unroll late.
template <class Store, int... ROW>
void int8_vnni_rows(const Int8Rows& rows, int64_t row, int64_t inputs, const Int8Panel& first,
                    const Int8Panel& second, Store&& store, std::integer_sequence<int, ROW...>) {
    __m512i lefts[] = {(static_cast<void>(ROW), _mm512_setzero_si512())...};
    __m512i rights[] = {(static_cast<void>(ROW), _mm512_setzero_si512())...};
    const uint8_t* values = rows.values + row * rows.stride;
    for (int64_t k = 0; k < inputs; k += 4) {
        const __m512i left = _mm512_load_si512(first.weights + k * PANEL);
        const __m512i right = _mm512_load_si512(second.weights + k * PANEL);
        const auto add = [&](__m512i& left_sums, __m512i& right_sums, const uint8_t* place) {
            const __m512i four = four_inputs(place);
            left_sums = _mm512_dpbusd_epi32(left_sums, four, left);
            right_sums = _mm512_dpbusd_epi32(right_sums, four, right);
        };
        (add(lefts[ROW], rights[ROW], values + ROW * rows.stride + k), ...);
    }
    const auto give = [&](int64_t at, __m512i left_sums, __m512i right_sums) {
        if (at >= rows.count) return;
        const float largest = rows.largest[at];
        store(at, int8_scaled(left_sums, first, largest), int8_scaled(right_sums, second, largest));
    };
    (give(row + ROW, lefts[ROW], rights[ROW]), ...);
}

template <class Store>
void int8_vnni(const Int8Rows& rows, int64_t inputs, const Int8Panel& first, const Int8Panel& second,
               Store&& store) {
    // 12 rows fill 24 registers with sums, and leave some for weights and activations.
    int64_t row = 0;
    for (; rows.count - row > 8; row += 12) {
        int8_vnni_rows(rows, row, inputs, first, second, store, std::make_integer_sequence<int, 12>());
    }
    if (rows.count - row > 4) {
        int8_vnni_rows(rows, row, inputs, first, second, store, std::make_integer_sequence<int, 8>());
    } else if (rows.count > row) {
        int8_vnni_rows(rows, row, inputs, first, second, store, std::make_integer_sequence<int, 4>());
    }
}

#if defined(NEO_EDGE_AMX)

using TileSums = int32_t[TILE_ROWS][PANEL];

// Brings the next two panels to the L2 cache bit by bit.
class NextPanels {
public:
    // `steps` is how often `fetch` will be called.
    NextPanels(const Int8Panel& first, const Int8Panel& second, int64_t inputs, int64_t steps)
        : first_(first.weights),
          second_(second.weights),
          at_(bytes_to_next(first, second, inputs)),
          end_(at_ + inputs * PANEL),
          bytes_at_once_(round_up((inputs * PANEL + steps - 1) / steps, LINE_BYTES)) {}

    void fetch() {
        for (const int64_t until = std::min(at_ + bytes_at_once_, end_); at_ < until; at_ += LINE_BYTES) {
            fetch_to_l2(first_, at_);
            fetch_to_l2(second_, at_);
        }
    }

private:
    const int8_t* first_;
    const int8_t* second_;
    int64_t at_;
    int64_t end_;
    int64_t bytes_at_once_;
};

// 16 rows, with the inputs in two halves: four sums that do not wait for each other.
template <class Store>
void int8_amx_16_rows(const Int8Rows& rows, int64_t row, int64_t inputs, const Int8Panel& first,
                      const Int8Panel& second, Store&& store) {
    const int64_t half = inputs / DEPTH / 2 * DEPTH;
    const uint8_t* values = rows.values + row * rows.stride;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < half; k += DEPTH) {
        _tile_loadd(4, values + k, rows.stride);
        _tile_loadd(6, first.weights + k * PANEL, LINE_BYTES);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(7, second.weights + k * PANEL, LINE_BYTES);
        _tile_dpbusd(1, 4, 7);
        _tile_loadd(5, values + half + k, rows.stride);
        _tile_loadd(6, first.weights + (half + k) * PANEL, LINE_BYTES);
        _tile_dpbusd(2, 5, 6);
        _tile_loadd(7, second.weights + (half + k) * PANEL, LINE_BYTES);
        _tile_dpbusd(3, 5, 7);
    }
    for (int64_t k = 2 * half; k < inputs; k += DEPTH) {
        _tile_loadd(4, values + k, rows.stride);
        _tile_loadd(6, first.weights + k * PANEL, LINE_BYTES);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(7, second.weights + k * PANEL, LINE_BYTES);
        _tile_dpbusd(1, 4, 7);
    }
    alignas(64) TileSums sums[4];
    _tile_stored(0, sums[0], LINE_BYTES);
    _tile_stored(1, sums[1], LINE_BYTES);
    _tile_stored(2, sums[2], LINE_BYTES);
    _tile_stored(3, sums[3], LINE_BYTES);
    for (int64_t r = 0; r < std::min(TILE_ROWS, rows.count - row); ++r) {
        const __m512i left = _mm512_add_epi32(_mm512_load_si512(sums[0][r]), _mm512_load_si512(sums[2][r]));
        const __m512i right = _mm512_add_epi32(_mm512_load_si512(sums[1][r]), _mm512_load_si512(sums[3][r]));
        const float largest = rows.largest[row + r];
        store(row + r, int8_scaled(left, first, largest), int8_scaled(right, second, largest));
    }
}

// Adds to the sums of 32 rows what inputs [begin, end) give; the sums begin with zero where begin is zero.
inline void int8_amx_32_rows(const uint8_t* values, int64_t stride, int64_t begin, int64_t end,
                             const int8_t* first, const int8_t* second, NextPanels& next, TileSums* sums) {
    if (begin == 0) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums[0], LINE_BYTES);
        _tile_loadd(1, sums[1], LINE_BYTES);
        _tile_loadd(2, sums[2], LINE_BYTES);
        _tile_loadd(3, sums[3], LINE_BYTES);
    }
    for (int64_t k = begin; k < end; k += DEPTH) {
        _tile_loadd(4, values + k, stride);
        _tile_loadd(6, first + k * PANEL, LINE_BYTES);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(7, second + k * PANEL, LINE_BYTES);
        _tile_dpbusd(1, 4, 7);
        _tile_loadd(5, values + TILE_ROWS * stride + k, stride);
        _tile_dpbusd(2, 5, 6);
        next.fetch();
        _tile_dpbusd(3, 5, 7);
    }
    _tile_stored(0, sums[0], LINE_BYTES);
    _tile_stored(1, sums[1], LINE_BYTES);
    _tile_stored(2, sums[2], LINE_BYTES);
    _tile_stored(3, sums[3], LINE_BYTES);
}

// Blocks of 32 rows take turns with a part of the weights that stays in the L1 cache.
template <class Store>
void int8_amx(const Int8Rows& rows, int64_t inputs, const Int8Panel& first, const Int8Panel& second,
              Store&& store) {
    constexpr int64_t PART = 512;    // inputs of two panels: 16 KB
    constexpr int64_t TOGETHER = 8;  // blocks of rows whose sums are kept: 32 KB
    const Tiles tiles;
    alignas(64) TileSums sums[TOGETHER][4];
    // 16 rows or fewer at the end are no block of their own.
    const int64_t blocks = (rows.count + ROW_BLOCK - TILE_ROWS - 1) / ROW_BLOCK;
    NextPanels next(first, second, inputs, std::max(blocks * inputs / DEPTH, int64_t{1}));
    for (int64_t from = 0; from < blocks; from += TOGETHER) {
        const int64_t to = std::min(from + TOGETHER, blocks);
        for (int64_t k = 0; k < inputs; k += PART) {
            for (int64_t block = from; block < to; ++block) {
                const int64_t row = block * ROW_BLOCK;
                TileSums* kept = sums[block - from];
                int8_amx_32_rows(rows.values + row * rows.stride, rows.stride, k, std::min(k + PART, inputs),
                                 first.weights, second.weights, next, kept);
                if (k + PART < inputs) continue;
                for (int64_t r = 0; r < std::min(ROW_BLOCK, rows.count - row); ++r) {
                    const int64_t half = r / TILE_ROWS * 2;
                    const float largest = rows.largest[row + r];
                    store(row + r, int8_scaled(_mm512_load_si512(kept[half][r % TILE_ROWS]), first, largest),
                          int8_scaled(_mm512_load_si512(kept[half + 1][r % TILE_ROWS]), second, largest));
                }
            }
        }
    }
    const int64_t rest = blocks * ROW_BLOCK;
    if (rest < rows.count) int8_amx_16_rows(rows, rest, inputs, first, second, store);
}

#endif

// How many rows a caller should take through all its panels before it goes on: they stay in the L2 cache.
constexpr int64_t int8_rows_together(int64_t stride) {
    constexpr int64_t CACHED = 1 << 20;  // half of a core's L2 cache
    return std::max(CACHED / stride / ROW_BLOCK * ROW_BLOCK, ROW_BLOCK);
}

// Calls store(row, results of the first panel, results of the second), 16 each, once for every row.
template <class Store>
void int8_two_panels(const Int8Rows& rows, int64_t inputs, const Int8Panel& first, const Int8Panel& second,
                     Store&& store) {
    const int64_t padded = round_up(inputs, DEPTH);
    if (rows.count == 1) return int8_one_row(rows, padded, first, second, store);
#if defined(NEO_EDGE_AMX)
    if (amx_allowed()) return int8_amx(rows, padded, first, second, store);
#endif
    int8_vnni(rows, padded, first, second, store);
}

}  // namespace neo_edge
