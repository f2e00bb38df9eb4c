// Matrix products of a step: rows are rounded once for all matrices that read them, outputs go to threads in
// pairs of panels.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "elementwise.h"
#include "int4.h"
#include "int8.h"
#include "pool.h"
#include "types.h"

namespace neo_edge {

// Memory that grows and keeps nothing of what was in it.
template <class Number>
class Buffer {
public:
    Buffer() = default;
    ~Buffer() { release(); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    // At least `count` numbers, on a cache line's border; throws std::bad_alloc.
    Number* reserve(int64_t count) {
        if (count > count_) {
            release();
            const int64_t bytes = round_up(count * static_cast<int64_t>(sizeof(Number)), LINE_BYTES);
            data_ = static_cast<Number*>(std::aligned_alloc(size_t{LINE_BYTES}, static_cast<size_t>(bytes)));
            if (data_ == nullptr) throw std::bad_alloc();
            count_ = count;
        }
        return data_;
    }
    void release() {
        std::free(data_);
        data_ = nullptr;
        count_ = 0;
    }
    Number* data() const { return data_; }

private:
    Number* data_ = nullptr;
    int64_t count_ = 0;
};

// A matrix of the packed file.
struct Product {
    int64_t bits;    // 8: Int8Panel, 4: Int4Panel
    int64_t block;   // inputs of one scale, with 4 bits
    int64_t inputs;  // padded
    int64_t outputs;
    const uint8_t* weights;
    const float* scales;
    const int32_t* corrections;

    int64_t panels() const { return outputs / PANEL; }
    Int8Panel eight(int64_t panel) const {
        const int8_t* first = reinterpret_cast<const int8_t*>(weights) + panel * inputs * PANEL;
        return {first, scales + panel * PANEL, corrections + panel * PANEL};
    }
    Int4Panel four(int64_t panel) const {
        const int64_t block_bytes = PANEL * static_cast<int64_t>(sizeof(float)) + block * PANEL / 2;
        return {weights + panel * (inputs / block) * block_bytes};
    }
};

// A matrix and where its results go: row r, output c to out[r * stride + c].
struct Target {
    const Product* product;
    float* out;
    int64_t stride;
};

// Rows as the matrices that read them want them: a kind that none of them reads is empty.
struct RoundedRows {
    Int8Rows eight;
    Int4Rows four;

    // `many` rows from `first`, a multiple of ROW_BLOCK.
    RoundedRows part(int64_t first, int64_t many) const {
        RoundedRows cut{};
        if (eight.values != nullptr) {
            cut.eight = {eight.values + first * eight.stride, eight.stride, eight.largest + first, many};
        }
        if (four.values != nullptr) {
            const int64_t block = first * four.blocks;
            cut.four = {four.values + first * four.stride,
                        four.stride,
                        four.scales + block,
                        four.sums + block,
                        four.blocks,
                        many};
        }
        return cut;
    }

    // That stay in the L2 cache while a thread takes them through its panels.
    int64_t together() const { return int8_rows_together(std::max(eight.stride, four.stride)); }
};

// Makes them, in memory that stays.
class Activations {
public:
    // row(index, scratch) gives a row of `width` numbers, made in `scratch` or anywhere; width is what is
    // behind padding.
    template <class Row>
    void round(Pool& pool, const Product* products, int count, int64_t rows, int64_t width,
               Buffer<float>* scratch, const Row& row) {
        rows_ = {};
        const Product *wants8 = nullptr, *wants4 = nullptr;
        for (int at = 0; at < count; ++at) (products[at].bits == 8 ? wants8 : wants4) = products + at;
        const int64_t padded = round_up(rows, ROW_BLOCK);
        if (wants8 != nullptr) {
            values8_.reserve(padded * wants8->inputs);
            largest_.reserve(rows);
            rows_.eight = {values8_.data(), wants8->inputs, largest_.data(), rows};
        }
        if (wants4 != nullptr) {
            const int64_t blocks = wants4->inputs / wants4->block;
            values4_.reserve(padded * wants4->inputs);
            scales_.reserve(rows * blocks);
            sums_.reserve(rows * blocks);
            rows_.four = {values4_.data(), wants4->inputs, scales_.data(), sums_.data(), blocks, rows};
        }
        constexpr int64_t EACH = 4;
        pool.run((rows + EACH - 1) / EACH, [&](int64_t item, int thread) {
            for (int64_t index = item * EACH; index < rows && index < (item + 1) * EACH; ++index) {
                const float* made = row(index, scratch[thread].data());
                if (wants8 != nullptr) {
                    uint8_t* values = values8_.data() + index * rows_.eight.stride;
                    largest_.data()[index] = round_to_uint8(made, width, rows_.eight.stride, values);
                }
                if (wants4 != nullptr) {
                    const int64_t first = index * rows_.four.blocks;
                    int8_t* values = values4_.data() + index * rows_.four.stride;
                    round_to_int8_blocks(made, width, rows_.four.stride, wants4->block, values,
                                         scales_.data() + first, sums_.data() + first);
                }
            }
        });
    }

    void release() {
        values8_.release();
        values4_.release();
        largest_.release();
        scales_.release();
        sums_.release();
    }

    const RoundedRows& rows() const { return rows_; }

private:
    RoundedRows rows_{};
    Buffer<uint8_t> values8_;
    Buffer<int8_t> values4_;
    Buffer<float> largest_, scales_;
    Buffer<int32_t> sums_;
};

// One panel of each of two matrices of one kind, or two of one matrix.
template <class Store>
void two_panels(const RoundedRows& rows, const Product& first, int64_t panel, const Product& second,
                int64_t other, uint8_t* scratch, const Store& store) {
    if (first.bits == 8) {
        int8_two_panels(rows.eight, first.inputs, first.eight(panel), second.eight(other), store);
    } else {
        int4_two_panels(rows.four, first.block, first.four(panel), second.four(other), scratch, store);
    }
}

// work(rows, first row, pair, thread) for all pairs of panels; a thread takes some pairs at once, which makes
// long reads of the weights, and the same rows again and again, which stay in its cache.
template <class Work>
void for_pairs(Pool& pool, const RoundedRows& rows, int64_t count, int64_t pairs, const Work& work) {
    // Long runs read ahead of themselves; eight a thread, so that none waits long for another's last one.
    const int64_t each = std::clamp<int64_t>(pairs / (8 * pool.threads()), 1, 16);
    const int64_t together = rows.together(), runs = (pairs + each - 1) / each;
    pool.run((count + together - 1) / together * runs, [&](int64_t item, int thread) {
        const int64_t first = item / runs * together, run = item % runs;
        const RoundedRows part = rows.part(first, std::min(together, count - first));
        for (int64_t pair = run * each; pair < std::min(pairs, (run + 1) * each); ++pair)
            work(part, first, pair, thread);
    });
}

// All outputs of some matrices that read the same rows; put(address, results) for each 16 of them.
template <class Put>
void multiply(Pool& pool, const RoundedRows& rows, int64_t count, const Target* targets, int targets_count,
              Buffer<uint8_t>* scratch, const Put& put) {
    int64_t pairs = 0;
    for (int at = 0; at < targets_count; ++at) pairs += (targets[at].product->panels() + 1) / 2;
    for_pairs(pool, rows, count, pairs,
              [&](const RoundedRows& part, int64_t start, int64_t pair, int thread) {
                  const Target* target = targets;
                  int64_t panel = 2 * pair;
                  for (int64_t end; panel >= (end = round_up(target->product->panels(), 2)); ++target)
                      panel -= end;
                  const Product& product = *target->product;
                  const bool both = panel + 1 < product.panels();
                  const int64_t stride = target->stride;
                  float* out = target->out + start * stride + panel * PANEL;
                  two_panels(part, product, panel, product, both ? panel + 1 : panel, scratch[thread].data(),
                             [&](int64_t row, __m512 first, __m512 second) {
                                 put(out + row * stride, first);
                                 if (both) put(out + row * stride + PANEL, second);
                             });
              });
}

// out = silu(gate) * up. Gate and up of one kind go together, so that nothing is stored between.
inline void multiply_gated(Pool& pool, const RoundedRows& rows, int64_t count, const Product& gate,
                           const Product& up, float* out, int64_t stride, Buffer<uint8_t>* scratch) {
    if (gate.bits != up.bits) {
        const Target gates{&gate, out, stride}, ups{&up, out, stride};
        multiply(pool, rows, count, &gates, 1, scratch,
                 [](float* at, __m512 result) { _mm512_storeu_ps(at, result); });
        multiply(pool, rows, count, &ups, 1, scratch,
                 [](float* at, __m512 result) { _mm512_storeu_ps(at, gated(_mm512_loadu_ps(at), result)); });
        return;
    }
    for_pairs(pool, rows, count, gate.panels(),
              [&](const RoundedRows& part, int64_t start, int64_t panel, int thread) {
                  float* to = out + start * stride + panel * PANEL;
                  two_panels(part, gate, panel, up, panel, scratch[thread].data(),
                             [&](int64_t row, __m512 first, __m512 second) {
                                 _mm512_storeu_ps(to + row * stride, gated(first, second));
                             });
              });
}

}  // namespace neo_edge
