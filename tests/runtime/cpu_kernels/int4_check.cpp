// Compares products with 4-bit weights with a loop in double precision: prints "ok", or the first difference.
#include "int4.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

namespace {

using neo_edge::PANEL;

// Of the sum of the magnitudes of what is added: a few roundings of float32.
constexpr double TOLERANCE = 1e-6;

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
template <class Number>
using Aligned = std::unique_ptr<Number[], Free>;

// Exactly as long as asked for, so that a sanitizer sees a read behind the end.
template <class Number>
Aligned<Number> aligned(int64_t count) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, static_cast<size_t>(count) * sizeof(Number)) != 0) std::abort();
    return Aligned<Number>(static_cast<Number*>(memory));
}

enum class Numbers { RANDOM, LARGEST, LEAST, MIXED };

struct Case {
    int64_t rows, inputs, block;
    Numbers numbers;
};

struct Weights {
    std::vector<int> values;    // [inputs][16], from -8 to 7
    std::vector<float> scales;  // [blocks][16]
    Aligned<uint8_t> packed;

    Weights(const Case& c, std::mt19937& random) : values(static_cast<size_t>(c.inputs * PANEL)) {
        const int64_t blocks = c.inputs / c.block;
        for (size_t at = 0; at < values.size(); ++at) {
            const int mixed = random() % 2 == 0 ? -8 : 7;
            values[at] = c.numbers == Numbers::RANDOM    ? static_cast<int>(random() % 16) - 8
                         : c.numbers == Numbers::LARGEST ? 7
                         : c.numbers == Numbers::LEAST   ? -8
                                                         : mixed;
        }
        std::uniform_real_distribution<float> scale(-0.02F, 0.02F);
        for (int64_t at = 0; at < blocks * PANEL; ++at) scales.push_back(scale(random));
        const int64_t block_bytes = 64 + c.block * PANEL / 2;
        packed = aligned<uint8_t>(blocks * block_bytes);
        for (int64_t block = 0; block < blocks; ++block) {
            uint8_t* out = packed.get() + block * block_bytes;
            std::memcpy(out, scales.data() + block * PANEL, 64);
            for (int64_t line = 0; line < c.block / 8; ++line) {
                for (int64_t at = 0; at < 64; ++at) {
                    const int64_t input = block * c.block + line * 8 + at % 4;
                    const int low = weight(input, at / 4) + 8;
                    const int high = weight(input + 4, at / 4) + 8;
                    out[64 + line * 64 + at] = static_cast<uint8_t>(low | high << 4);
                }
            }
        }
    }

    int weight(int64_t input, int64_t output) const {
        return values[static_cast<size_t>(input * PANEL + output)];
    }
};

struct Inputs {
    Aligned<int8_t> values;
    Aligned<float> scales;
    Aligned<int32_t> sums;
    neo_edge::Int4Rows rows;

    Inputs(const Case& c, std::mt19937& random) {
        const int64_t blocks = c.inputs / c.block;
        const int64_t padded = neo_edge::round_up(c.rows, neo_edge::ROW_BLOCK);
        values = aligned<int8_t>(padded * c.inputs);
        scales = aligned<float>(c.rows * blocks);
        sums = aligned<int32_t>(c.rows * blocks);
        for (int64_t at = 0; at < padded * c.inputs; ++at) {
            const int mixed = random() % 2 == 0 ? -127 : 127;
            const int value = c.numbers == Numbers::RANDOM    ? static_cast<int>(random() % 255) - 127
                              : c.numbers == Numbers::LARGEST ? 127
                              : c.numbers == Numbers::LEAST   ? -127
                                                              : mixed;
            values[static_cast<size_t>(at)] = static_cast<int8_t>(value);
        }
        std::uniform_real_distribution<float> scale(1e-5F, 0.5F);
        for (int64_t row = 0; row < c.rows; ++row) {
            for (int64_t block = 0; block < blocks; ++block) {
                const size_t at = static_cast<size_t>(row * blocks + block);
                scales[at] = scale(random);
                sums[at] = 0;
                for (int64_t k = 0; k < c.block; ++k) {
                    sums[at] += values[static_cast<size_t>(row * c.inputs + block * c.block + k)];
                }
            }
        }
        rows = {values.get(), c.inputs, scales.get(), sums.get(), blocks, c.rows};
    }
};

bool close(const Case& c, const Inputs& inputs, const Weights& weights, int64_t row, int64_t output,
           float found) {
    double expected = 0.0, magnitude = 0.0;
    for (int64_t block = 0; block < c.inputs / c.block; ++block) {
        int64_t sum = 0, magnitudes = 0;
        for (int64_t k = block * c.block; k < (block + 1) * c.block; ++k) {
            const int product =
                weights.weight(k, output) * inputs.values[static_cast<size_t>(row * c.inputs + k)];
            sum += product;
            magnitudes += std::abs(product);
        }
        const double scale =
            static_cast<double>(weights.scales[static_cast<size_t>(block * PANEL + output)]) *
            inputs.scales[static_cast<size_t>(row * inputs.rows.blocks + block)];
        expected += static_cast<double>(sum) * scale;
        magnitude += static_cast<double>(magnitudes) * std::abs(scale);
    }
    if (std::abs(found - expected) <= TOLERANCE * magnitude) return true;
    std::printf("rows %lld, inputs %lld, block %lld, numbers %d: row %lld, output %lld is %.9g, not %.9g\n",
                static_cast<long long>(c.rows), static_cast<long long>(c.inputs),
                static_cast<long long>(c.block), static_cast<int>(c.numbers), static_cast<long long>(row),
                static_cast<long long>(output), static_cast<double>(found), expected);
    return false;
}

bool holds(const Case& c, std::mt19937& random) {
    const Inputs inputs(c, random);
    const Weights first(c, random), second(c, random);
    const auto scratch = aligned<uint8_t>(neo_edge::int4_scratch_bytes(c.inputs));
    std::vector<float> found(static_cast<size_t>(c.rows * 2 * PANEL));
    std::vector<int> stored(static_cast<size_t>(c.rows));
    neo_edge::int4_two_panels(inputs.rows, c.block, {first.packed.get()}, {second.packed.get()},
                              scratch.get(), [&](int64_t row, __m512 one, __m512 two) {
                                  ++stored.at(static_cast<size_t>(row));
                                  _mm512_storeu_ps(found.data() + row * 2 * PANEL, one);
                                  _mm512_storeu_ps(found.data() + row * 2 * PANEL + PANEL, two);
                              });
    for (int64_t row = 0; row < c.rows; ++row) {
        if (stored[static_cast<size_t>(row)] != 1) {
            std::printf("row %lld of %lld was stored %d times\n", static_cast<long long>(row),
                        static_cast<long long>(c.rows), stored[static_cast<size_t>(row)]);
            return false;
        }
        for (int64_t output = 0; output < 2 * PANEL; ++output) {
            const Weights& weights = output < PANEL ? first : second;
            const float number = found[static_cast<size_t>(row * 2 * PANEL + output)];
            if (!close(c, inputs, weights, row, output % PANEL, number)) return false;
        }
    }
    return true;
}

}  // namespace

int main() {
    std::mt19937 random(20);
    for (const int64_t block : {32, 64, 128}) {
        for (const int64_t inputs : {32, 64, 96, 128, 384, 2048, 6144}) {
            if (inputs % block != 0) continue;
            for (const int64_t rows : {1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 100}) {
                for (const auto numbers :
                     {Numbers::RANDOM, Numbers::LARGEST, Numbers::LEAST, Numbers::MIXED}) {
                    if (inputs > 384 && numbers != Numbers::RANDOM && rows != 3 && rows != 33) continue;
                    if (!holds({rows, inputs, block, numbers}, random)) return 1;
                }
            }
        }
    }
    for (int64_t rows = 1; rows < 140; ++rows) {
        for (const int64_t block : {32, 64}) {
            if (!holds({rows, 192, block, Numbers::RANDOM}, random)) return 1;
        }
    }
    std::puts("ok");
    return 0;
}
