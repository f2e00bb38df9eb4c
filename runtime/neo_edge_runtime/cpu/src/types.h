// What the kernels read: weights in panels of 16 outputs, and activations rounded to 8 bits.
#pragma once

#include <cstdint>

namespace neo_edge {

constexpr int64_t PANEL = 16;      // outputs that lie side by side
constexpr int64_t DEPTH = 64;      // inputs of one step; K is padded to a multiple of it with weights of zero
constexpr int64_t LANES = 16;      // float32 numbers of a register
constexpr int64_t ROW_BLOCK = 32;  // rows that a block of a product computes at once
constexpr int64_t LINE_BYTES = 64;  // of a cache line and of a register
constexpr float LARGEST_INT8 = 127.0F;
constexpr float LEAST_MAXIMUM = 1e-30F;  // a row of zeros has no largest number to divide by

constexpr int64_t round_up(int64_t value, int64_t step) {
    return (value + step - 1) / step * step;
}

// 16 outputs of a matrix of 8-bit weights.
struct Int8Panel {
    const int8_t* weights;  // [K / 4][16][4], 64-byte aligned
    const float* scales;    // [16]: a weight's step over 127
    const int32_t*
        corrections;  // [16]: 128 times the sum of an output's weights, for activations moved by 128
};

// Activations with one scale a token: values = round(x * 127 / largest) + 128.
struct Int8Rows {
    const uint8_t* values;  // [count padded to ROW_BLOCK][stride], 64-byte aligned; paddings hold any number
    int64_t stride;         // K padded to DEPTH
    const float* largest;   // [count]
    int64_t count;
};

// 16 outputs of a matrix of 4-bit weights: for each block of inputs 16 float scales, then its weights.
//
// A block's groups of four inputs, [16][4] numbers each (weight + 8), lie in pairs: a byte of the first in
// the low half of a byte, that of the second in its high half.
struct Int4Panel {
    const uint8_t* blocks;  // 64-byte aligned
};

// Activations with one scale a token and block: values = round(x / scale).
struct Int4Rows {
    const int8_t*
        values;           // [count padded to ROW_BLOCK][stride], 64-byte aligned; padded rows hold any number
    int64_t stride;       // K, a multiple of the block
    const float* scales;  // [count][blocks]: the largest magnitude over 127
    const int32_t* sums;  // [count][blocks]: of the values
    int64_t blocks;
    int64_t count;
};

}  // namespace neo_edge
