// Compares products of 8-bit rows and panels with a plain loop, number for number.
#include "int8.h"

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

using namespace neo_edge;

namespace {

template <class T>
struct Aligned {
    explicit Aligned(int64_t count)
        : data(static_cast<T*>(
              std::aligned_alloc(64, static_cast<size_t>(round_up(count * int64_t{sizeof(T)}, 64))))) {}
    ~Aligned() { std::free(data); }
    Aligned(const Aligned&) = delete;
    Aligned& operator=(const Aligned&) = delete;
    T* data;
};

using Random = std::mt19937;

int number(Random& random, int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random);
}

// A matrix of 16 outputs, in the kernel's layout.
struct Matrix {
    Matrix(int64_t inputs, bool extreme, Random& random) : weights(round_up(inputs, DEPTH) * PANEL) {
        std::fill(weights.data, weights.data + round_up(inputs, DEPTH) * PANEL, int8_t{0});
        for (int64_t column = 0; column < PANEL; ++column) {
            int32_t sum = 0;
            for (int64_t k = 0; k < inputs; ++k) {
                const int extremes[] = {127, -128};
                const int weight = extreme ? extremes[column % 2] : number(random, -128, 127);
                sum += weight;
                weights.data[at(k, column)] = static_cast<int8_t>(weight);
            }
            corrections.push_back(128 * sum);
            scales.push_back(static_cast<float>(number(random, 1, 1000)) * 1e-5F / LARGEST_INT8);
        }
    }
    static int64_t at(int64_t k, int64_t column) { return k / 4 * 4 * PANEL + column * 4 + k % 4; }
    Int8Panel panel() const { return {weights.data, scales.data(), corrections.data()}; }
    Aligned<int8_t> weights;
    std::vector<float> scales;
    std::vector<int32_t> corrections;
};

float expected(const Matrix& matrix, const uint8_t* values, int64_t inputs, int64_t column, float largest) {
    int32_t sum = 0;
    for (int64_t k = 0; k < inputs; ++k) sum += values[k] * matrix.weights.data[Matrix::at(k, column)];
    const auto at = static_cast<size_t>(column);
    const float product = static_cast<float>(sum - matrix.corrections[at]) * matrix.scales[at];
    return product * largest;
}

bool check(int64_t count, int64_t inputs, int64_t stride, bool extreme, Random& random) {
    const int64_t padded_rows = round_up(count, ROW_BLOCK);
    Aligned<uint8_t> values(padded_rows * stride);
    for (int64_t i = 0; i < padded_rows * stride; ++i) {
        const int extremes[] = {0, 255, 255};
        values.data[i] = static_cast<uint8_t>(extreme ? extremes[i / stride % 3] : number(random, 0, 255));
    }
    std::vector<float> largest;
    for (int64_t r = 0; r < count; ++r) {
        largest.push_back(static_cast<float>(number(random, 1, 100000)) * 1e-3F);
    }
    const Matrix first(inputs, extreme, random);
    const Matrix second(inputs, extreme, random);

    std::vector<float> results(static_cast<size_t>(count * 2 * PANEL));
    std::vector<int> calls(static_cast<size_t>(count));
    const auto store = [&](int64_t row, __m512 left, __m512 right) {
        ++calls.at(static_cast<size_t>(row));
        float* place = results.data() + row * 2 * PANEL;
        _mm512_storeu_ps(place, left);
        _mm512_storeu_ps(place + PANEL, right);
    };
    const Int8Rows rows{values.data, stride, largest.data(), count};
    int8_two_panels(rows, inputs, first.panel(), second.panel(), store);

    const std::string what = std::to_string(count) + " rows of " + std::to_string(inputs) + " inputs" +
                             (extreme ? ", extreme" : "");
    for (int64_t row = 0; row < count; ++row) {
        const auto at = static_cast<size_t>(row);
        if (calls[at] != 1) {
            std::printf("%s: row %d was stored %d times\n", what.c_str(), static_cast<int>(row), calls[at]);
            return false;
        }
        for (int64_t i = 0; i < 2 * PANEL; ++i) {
            const Matrix& matrix = i < PANEL ? first : second;
            const float want = expected(matrix, values.data + row * stride, inputs, i % PANEL, largest[at]);
            const float got = results[static_cast<size_t>(row * 2 * PANEL + i)];
            if (got != want) {
                std::printf("%s: row %d, output %d: %.9g instead of %.9g\n", what.c_str(),
                            static_cast<int>(row), static_cast<int>(i), static_cast<double>(got),
                            static_cast<double>(want));
                return false;
            }
        }
    }
    return true;
}

}  // namespace

int main() {
    Random random(7);
    for (const int64_t inputs : {64, 192, 2048, 6144}) {
        for (const int64_t count : {1, 2, 3, 15, 16, 17, 31, 32, 33, 100}) {
            for (const bool extreme : {false, true}) {
                if (!check(count, inputs, inputs, extreme, random)) return 1;
            }
        }
    }
    // Several turns of the blocks, inputs that are padded, rows that lie further apart than they are long.
    if (!check(545, 1088, 1088, false, random) || !check(5, 100, 128, false, random) ||
        !check(70, 2048, 2112, false, random)) {
        return 1;
    }
    // The largest sums: 32 bits hold them.
    for (const int64_t count : {1, 2, 16, 17}) {
        if (!check(count, 32768, 32768, true, random)) return 1;
    }
    for (int64_t count = 1; count < 75; ++count) {
        if (!check(count, 128, 128, false, random)) return 1;
    }
    std::puts("ok");
    return 0;
}
