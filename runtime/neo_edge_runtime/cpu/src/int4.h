// Products of rounded activations with 4-bit weights whose scales belong to blocks of inputs.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "amx.h"
#include "reading.h"
#include "types.h"

namespace neo_edge {

// How a panel lies: blocks of scales and nibbles.
struct Int4Blocks {
    const uint8_t* first;
    int64_t inputs;  // of a block

    int64_t bytes(int64_t blocks) const { return blocks * (LINE_BYTES + inputs * PANEL / 2); }
    const uint8_t* at(int64_t block) const { return first + bytes(block); }
    const float* scales(int64_t block) const { return reinterpret_cast<const float*>(at(block)); }
    const uint8_t* nibbles(int64_t block) const { return at(block) + LINE_BYTES; }
};

// The same panel with a byte a weight, for many rows: only the weights, [inputs / 4][16][4] a block.
//
// Blocks of 32 inputs have lines of zeros between the two of a pair. A tile is 64 inputs deep: with these
// lines one reads either block beside zeros, and the activations of both.
struct Int4Bytes {
    uint8_t* first;
    int64_t inputs;  // of a block

    bool paired() const { return inputs < DEPTH; }
    uint8_t* at(int64_t block) const {
        return paired() ? first + (block / 2 * 3 + block % 2 * 2) * (inputs * PANEL)
                        : first + block * inputs * PANEL;
    }
};

constexpr int64_t INT4_LEAST_BLOCK = 32;

// Of a panel as bytes, with the zeros of blocks of 32.
inline int64_t int4_panel_bytes(int64_t inputs) {
    return round_up(inputs, DEPTH) * PANEL * 3 / 2;
}

// Of the scratch of `int4_two_panels`: both panels as bytes, and the scales of 32 rows.
inline int64_t int4_scratch_bytes(int64_t inputs) {
    return 2 * int4_panel_bytes(inputs) + inputs / INT4_LEAST_BLOCK * ROW_BLOCK * int64_t{sizeof(float)};
}

// Reads two groups of inputs from a line of nibbles.
struct ReadNibbles {
    const uint8_t* lines;
    int64_t ahead;  // bytes to the lines that begin to come from memory meanwhile

    void operator()(int64_t pair, __m512i& low, __m512i& high) const {
        const __m512i half = _mm512_set1_epi8(15);
        fetch(lines, ahead + pair * LINE_BYTES);
        const __m512i packed = _mm512_load_si512(lines + pair * LINE_BYTES);
        low = _mm512_and_si512(packed, half);
        high = _mm512_and_si512(_mm512_srli_epi16(packed, 4), half);
    }
};

// Reads two groups of inputs from two lines of bytes.
struct ReadBytes {
    const uint8_t* lines;

    void operator()(int64_t pair, __m512i& low, __m512i& high) const {
        low = _mm512_load_si512(lines + pair * 2 * LINE_BYTES);
        high = _mm512_load_si512(lines + pair * 2 * LINE_BYTES + LINE_BYTES);
    }
};

// A block of a panel, and where the activations lie that it is multiplied by.
template <class Read>
struct Int4Stream {
    Read read;
    const float* scales;
    int64_t block;
};

// Adds one block's products of each stream to `results`, for ROWS rows from `row`.
template <int ROWS, int STREAMS, class Read>
inline void add_int4_blocks(const Int4Rows& rows, int64_t row, int64_t inputs,
                            const Int4Stream<Read> (&streams)[STREAMS], __m512 (&results)[STREAMS][ROWS]) {
    __m512i sums[STREAMS][ROWS];
    for (int s = 0; s < STREAMS; ++s) {
        for (int r = 0; r < ROWS; ++r) {
            sums[s][r] = _mm512_set1_epi32(-8 * rows.sums[(row + r) * rows.blocks + streams[s].block]);
        }
    }
    const int8_t* values = rows.values + row * rows.stride;
    for (int64_t pair = 0; pair < inputs / 8; ++pair) {
        for (int s = 0; s < STREAMS; ++s) {
            __m512i low;
            __m512i high;
            streams[s].read(pair, low, high);
            const int8_t* eight = values + streams[s].block * inputs + pair * 8;
            for (int r = 0; r < ROWS; ++r) {
                const int8_t* own = eight + r * rows.stride;
                sums[s][r] = _mm512_dpbusd_epi32(sums[s][r], low, four_inputs(own));
                sums[s][r] = _mm512_dpbusd_epi32(sums[s][r], high, four_inputs(own + 4));
            }
        }
    }
    for (int s = 0; s < STREAMS; ++s) {
        const __m512 weight_scales = _mm512_load_ps(streams[s].scales);
        for (int r = 0; r < ROWS; ++r) {
            const __m512 row_scale = _mm512_set1_ps(rows.scales[(row + r) * rows.blocks + streams[s].block]);
            const __m512 scale = _mm512_mul_ps(weight_scales, row_scale);
            results[s][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[s][r]), scale, results[s][r]);
        }
    }
}

// A few rows wait for memory alone. Four streams keep more of it under way than one: each panel is read in
// two halves, and while it is read the next pair of panels begins to come.
template <int ROWS, class Store>
inline void int4_few_rows(const Int4Rows& rows, const Int4Blocks& first, const Int4Blocks& second,
                          Store&& store) {
    const int64_t half = rows.blocks / 2;
    // Neighbours are followed by the next two panels of their matrix, others by the next panel of each.
    const int64_t following =
        first.bytes(second.first == first.at(rows.blocks) ? 2 * rows.blocks : rows.blocks);
    const auto stream = [&](const Int4Blocks& panel, int64_t block) {
        return Int4Stream<ReadNibbles>{{panel.nibbles(block), following}, panel.scales(block), block};
    };
    __m512 halves[4][ROWS];
    __m512 results[2][ROWS];
    for (int r = 0; r < ROWS; ++r) {
        halves[0][r] = halves[1][r] = halves[2][r] = halves[3][r] = _mm512_setzero_ps();
    }
    for (int64_t block = 0; block < half; ++block) {
        const Int4Stream<ReadNibbles> streams[4] = {stream(first, block), stream(second, block),
                                                    stream(first, half + block),
                                                    stream(second, half + block)};
        add_int4_blocks<ROWS, 4>(rows, 0, first.inputs, streams, halves);
    }
    for (int r = 0; r < ROWS; ++r) {
        results[0][r] = _mm512_add_ps(halves[0][r], halves[2][r]);
        results[1][r] = _mm512_add_ps(halves[1][r], halves[3][r]);
    }
    if (rows.blocks % 2 == 1) {
        const Int4Stream<ReadNibbles> last[2] = {stream(first, 2 * half), stream(second, 2 * half)};
        add_int4_blocks<ROWS, 2>(rows, 0, first.inputs, last, results);
    }
    for (int r = 0; r < ROWS; ++r) store(static_cast<int64_t>(r), results[0][r], results[1][r]);
}

// Writes the weights less `zero` as bytes, and zeros between the blocks of a pair.
inline void unpack_int4(const Int4Blocks& panel, int64_t begin, int64_t end, int8_t zero,
                        const Int4Bytes& out) {
    const __m512i zeros = _mm512_set1_epi8(zero);
    for (int64_t block = begin; block < end; ++block) {
        const ReadNibbles read{panel.nibbles(block), panel.bytes(end - begin)};
        uint8_t* line = out.at(block);
        for (int64_t pair = 0; pair < panel.inputs / 8; ++pair) {
            __m512i low;
            __m512i high;
            read(pair, low, high);
            _mm512_store_si512(line, _mm512_sub_epi8(low, zeros));
            _mm512_store_si512(line + LINE_BYTES, _mm512_sub_epi8(high, zeros));
            line += 2 * LINE_BYTES;
        }
        if (out.paired() && block % 2 == 0) std::memset(line, 0, static_cast<size_t>(panel.inputs * PANEL));
    }
    finish_writing();
}

// Several rows from `row`, with the panels as bytes from 0 to 15.
template <int ROWS, class Store>
inline void int4_vnni_rows(const Int4Rows& rows, int64_t row, const Int4Blocks (&panels)[2],
                           const Int4Bytes (&bytes)[2], Store&& store) {
    __m512 results[2][ROWS];
    for (int r = 0; r < ROWS; ++r) results[0][r] = results[1][r] = _mm512_setzero_ps();
    for (int64_t block = 0; block < rows.blocks; ++block) {
        const Int4Stream<ReadBytes> streams[2] = {{{bytes[0].at(block)}, panels[0].scales(block), block},
                                                  {{bytes[1].at(block)}, panels[1].scales(block), block}};
        add_int4_blocks<ROWS, 2>(rows, row, panels[0].inputs, streams, results);
    }
    for (int r = 0; r < ROWS; ++r) store(row + r, results[0][r], results[1][r]);
}

template <class Store>
inline void int4_vnni(const Int4Rows& rows, const Int4Blocks (&panels)[2], uint8_t* scratch, Store&& store) {
    const Int4Bytes bytes[2] = {
        {scratch, panels[0].inputs},
        {scratch + int4_panel_bytes(rows.blocks * panels[0].inputs), panels[1].inputs}};
    for (int p = 0; p < 2; ++p) unpack_int4(panels[p], 0, rows.blocks, 0, bytes[p]);
    int64_t row = 0;
    for (; row + 6 <= rows.count; row += 6) int4_vnni_rows<6>(rows, row, panels, bytes, store);
    for (; row + 2 <= rows.count; row += 2) int4_vnni_rows<2>(rows, row, panels, bytes, store);
    if (row < rows.count) int4_vnni_rows<1>(rows, row, panels, bytes, store);
}

#if defined(NEO_EDGE_AMX)
// 32 rows or fewer and two panels, which lie as bytes from -8 to 7.
template <int64_t BLOCK>
struct Int4Tiles {
    static constexpr int64_t SIZE = TILE_ROWS * PANEL;
    static constexpr int64_t PART = 512 / BLOCK;  // blocks that are multiplied at once: of both panels 16 KB
    static constexpr int64_t TOGETHER = 4;        // times 32 rows take turns with them: their sums are 16 KB
    static constexpr int64_t STEPS = BLOCK > DEPTH ? BLOCK / DEPTH : 1;

    const int8_t* values;     // of the rows
    int64_t stride;           // of the values
    const float* row_scales;  // [32][blocks]
    int64_t blocks;
    int64_t halves;  // 1 where there are 16 rows or fewer
    const Int4Blocks (&panels)[2];
    const Int4Bytes (&bytes)[2];

    // Where the tiles of activations and weights lie of a block's step.
    const int8_t* left(int64_t block, int64_t step) const {
        return values + (BLOCK < DEPTH ? block / 2 : block * STEPS + step) * DEPTH;
    }
    const uint8_t* right(int p, int64_t block, int64_t step) const {
        return bytes[p].at(block) + (BLOCK < DEPTH ? -(block % 2) * BLOCK : step * DEPTH) * PANEL;
    }

    void multiply(int64_t block, int64_t step) const {
        _tile_loadd(4, left(block, step), stride);
        _tile_loadd(6, right(0, block, step), LINE_BYTES);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, right(1, block, step), LINE_BYTES);
        _tile_dpbssd(1, 4, 7);
        if (halves == 1) return;
        _tile_loadd(5, left(block, step) + TILE_ROWS * stride, stride);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }

    void add(int64_t block, int64_t half, int p, const int32_t* products, float* sums) const {
        const __m512 scales = _mm512_load_ps(panels[p].scales(block));
        const float* row_scale = row_scales + half * TILE_ROWS * blocks + block;
        for (int r = 0; r < TILE_ROWS; ++r) {
            const __m512 product = _mm512_cvtepi32_ps(_mm512_load_si512(products + r * PANEL));
            const __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(row_scale[r * blocks]));
            const __m512 sum = _mm512_load_ps(sums + r * PANEL);
            _mm512_store_ps(sums + r * PANEL, _mm512_fmadd_ps(product, scale, sum));
        }
    }

    // Adds the products with blocks [begin, end) to `sums`, [2 halves of the rows][2 panels][16][16]; they
    // begin with zero where `begin` is zero. While a block is multiplied the one before is added: neither
    // waits for the other.
    void add_part(int64_t begin, int64_t end, float (&sums)[2][2][SIZE]) const {
        alignas(LINE_BYTES) int32_t products[2][2][SIZE];
        if (begin == 0) std::fill_n(sums[0][0], 4 * SIZE, 0.0F);
        for (int64_t block = begin; block <= end; ++block) {
            if (block < end) {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
                multiply(block, 0);
            }
            if (block > begin) {
                for (int p = 0; p < 2; ++p) add(block - 1, 0, p, products[0][p], sums[0][p]);
            }
            if (block < end && STEPS == 2) multiply(block, 1);
            if (block > begin && halves == 2) {
                for (int p = 0; p < 2; ++p) add(block - 1, 1, p, products[1][p], sums[1][p]);
            }
            if (block == end) break;
            _tile_stored(0, products[0][0], LINE_BYTES);
            _tile_stored(1, products[0][1], LINE_BYTES);
            _tile_stored(2, products[1][0], LINE_BYTES);
            _tile_stored(3, products[1][1], LINE_BYTES);
        }
    }
};

template <int64_t BLOCK, class Store>
inline void int4_amx(const Int4Rows& rows, const Int4Blocks (&panels)[2], uint8_t* scratch, Store&& store) {
    using Block = Int4Tiles<BLOCK>;
    const int64_t panel_bytes = int4_panel_bytes(rows.blocks * panels[0].inputs);
    const Int4Bytes bytes[2] = {{scratch, BLOCK}, {scratch + panel_bytes, BLOCK}};
    // All 32 rows of a block are computed: those behind the last have scales too.
    float* last_scales = reinterpret_cast<float*>(scratch + 2 * panel_bytes);
    const int64_t rest = rows.count % ROW_BLOCK;
    const int64_t full = rows.count - rest;
    if (rest != 0) {
        std::fill_n(last_scales, ROW_BLOCK * rows.blocks, 0.0F);
        std::copy_n(rows.scales + full * rows.blocks, rest * rows.blocks, last_scales);
    }
    const Tiles tiles;
    alignas(LINE_BYTES) float sums[Block::TOGETHER][2][2][Block::SIZE];
    for (int64_t from = 0; from < rows.count; from += Block::TOGETHER * ROW_BLOCK) {
        const int64_t to = std::min(from + Block::TOGETHER * ROW_BLOCK, rows.count);
        for (int64_t begin = 0; begin < rows.blocks; begin += Block::PART) {
            const int64_t end = std::min(begin + Block::PART, rows.blocks);
            for (int p = 0; p < 2 && from == 0; ++p) unpack_int4(panels[p], begin, end, 8, bytes[p]);
            for (int64_t row = from; row < to; row += ROW_BLOCK) {
                const float* row_scales = row < full ? rows.scales + row * rows.blocks : last_scales;
                const int64_t halves = to - row > TILE_ROWS ? 2 : 1;
                const Block block{rows.values + row * rows.stride,
                                  rows.stride,
                                  row_scales,
                                  rows.blocks,
                                  halves,
                                  panels,
                                  bytes};
                block.add_part(begin, end, sums[(row - from) / ROW_BLOCK]);
            }
        }
        for (int64_t row = from; row < to; ++row) {
            const auto& half = sums[(row - from) / ROW_BLOCK][row % ROW_BLOCK / TILE_ROWS];
            const int64_t at = row % TILE_ROWS * PANEL;
            store(row, _mm512_load_ps(half[0] + at), _mm512_load_ps(half[1] + at));
        }
    }
}
#endif

// Calls store(row, results of the first panel, results of the second), 16 each, once for every row.
//
// `block` is 32, 64 or 128; `scratch` has `int4_scratch_bytes` for the rows' inputs and begins with a cache
// line.
template <class Store>
inline void int4_two_panels(const Int4Rows& rows, int64_t block, const Int4Panel& first,
                            const Int4Panel& second, uint8_t* scratch, Store&& store) {
    const Int4Blocks panels[2] = {{first.blocks, block}, {second.blocks, block}};
    switch (rows.count) {
    case 1:
        return int4_few_rows<1>(rows, panels[0], panels[1], store);
    case 2:
        return int4_few_rows<2>(rows, panels[0], panels[1], store);
    case 3:
        return int4_few_rows<3>(rows, panels[0], panels[1], store);
    case 4:
        return int4_few_rows<4>(rows, panels[0], panels[1], store);
    default:
        break;
    }
#if defined(NEO_EDGE_AMX)
    if (amx_allowed() && rows.blocks * block % DEPTH == 0) {
        if (block == 128) return int4_amx<128>(rows, panels, scratch, store);
        if (block == 64) return int4_amx<64>(rows, panels, scratch, store);
        return int4_amx<32>(rows, panels, scratch, store);
    }
#endif
    int4_vnni(rows, panels, scratch, store);
}

}  // namespace neo_edge
