// Compares whole matrix products, shared by threads, with plain loops: odd numbers of panels, matrices of
// both kinds that read the same rows, more rows than are taken at once.
#include "products.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <random>
#include <vector>

using namespace neo_edge;

namespace {

constexpr float UNTOUCHED = 12345.0F;
constexpr double TOLERANCE = 1e-6;  // of the sum of the magnitudes of what is added

std::mt19937 generator(5);

int number(int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(generator);
}

struct Matrix {
    Product product{};
    int64_t width;  // inputs before padding
    Buffer<uint8_t> weights;
    Buffer<float> scales;
    Buffer<int32_t> corrections;
    std::vector<int> plain;       // [inputs][outputs]
    std::vector<float> of_block;  // [blocks][outputs]

    // `block` 0: 8 bits.
    Matrix(int64_t inputs, int64_t outputs, int64_t block) : width(inputs) {
        const bool eight = block == 0;
        product = {eight ? 8 : 4, block,  round_up(inputs, eight ? DEPTH : block), outputs, nullptr,
                   nullptr,       nullptr};
        plain.assign(static_cast<size_t>(product.inputs * outputs), 0);
        for (int64_t at = 0; at < inputs * outputs; ++at)
            plain[static_cast<size_t>(at)] = eight ? number(-127, 127) : number(-8, 7);
        of_block.resize(static_cast<size_t>((eight ? 1 : product.inputs / block) * outputs));
        for (float& scale : of_block) scale = static_cast<float>(number(1, 1000)) * 1e-5F;
        if (eight) {
            pack_eight();
        } else {
            pack_four();
        }
    }

    int weight(int64_t input, int64_t output) const {
        return plain[static_cast<size_t>(input * product.outputs + output)];
    }
    float scale(int64_t block, int64_t output) const {
        return of_block[static_cast<size_t>(block * product.outputs + output)];
    }

    void pack_eight() {
        uint8_t* to = weights.reserve(product.inputs * product.outputs);
        float* steps = scales.reserve(product.outputs);
        int32_t* sums = corrections.reserve(product.outputs);
        for (int64_t output = 0; output < product.outputs; ++output) {
            steps[output] = scale(0, output);
            sums[output] = 0;
            uint8_t* panel = to + output / PANEL * PANEL * product.inputs;
            for (int64_t k = 0; k < product.inputs; ++k) {
                sums[output] += 128 * weight(k, output);
                panel[k / 4 * 4 * PANEL + output % PANEL * 4 + k % 4] =
                    static_cast<uint8_t>(weight(k, output));
            }
        }
        product.weights = to;
        product.scales = steps;
        product.corrections = sums;
    }

    void pack_four() {
        const int64_t blocks = product.inputs / product.block, bytes = 4 * PANEL + product.block * PANEL / 2;
        uint8_t* to = weights.reserve(product.panels() * blocks * bytes);
        product.weights = to;
        for (int64_t panel = 0; panel < product.panels(); ++panel) {
            for (int64_t block = 0; block < blocks; ++block, to += bytes) {
                std::memcpy(to, &of_block[static_cast<size_t>(block * product.outputs + panel * PANEL)],
                            4 * PANEL);
                for (int64_t at = 0; at < product.block * PANEL / 2; ++at) {
                    const int64_t input = block * product.block + at / 64 * 8 + at % 4;
                    const int64_t output = panel * PANEL + at % 64 / 4;
                    to[4 * PANEL + at] = static_cast<uint8_t>((weight(input, output) + 8) |
                                                              (weight(input + 4, output) + 8) << 4);
                }
            }
        }
    }
};

// Row by row from what `Activations` made, so that only products are compared.
double product_of(const Matrix& matrix, const RoundedRows& rows, int64_t row, int64_t output,
                  double* magnitude) {
    double sum = 0.0;
    *magnitude = 0.0;
    for (int64_t k = 0; k < matrix.width; ++k) {
        double part;
        if (matrix.product.bits == 8) {
            part = (rows.eight.values[row * rows.eight.stride + k] - 128) *
                   static_cast<double>(matrix.scale(0, output)) * rows.eight.largest[row];
        } else {
            const int64_t block = k / matrix.product.block;
            part = rows.four.values[row * rows.four.stride + k] *
                   static_cast<double>(matrix.scale(block, output)) *
                   rows.four.scales[row * rows.four.blocks + block];
        }
        sum += part * matrix.weight(k, output);
        *magnitude += std::fabs(part * matrix.weight(k, output));
    }
    return sum;
}

bool close(const char* what, int64_t row, int64_t output, float found, double wanted, double magnitude) {
    if (std::fabs(found - wanted) <= TOLERANCE * magnitude) return true;
    std::printf("%s: row %d, output %d is %.9g, not %.9g\n", what, static_cast<int>(row),
                static_cast<int>(output), static_cast<double>(found), wanted);
    return false;
}

struct Case {
    int64_t inputs, rows;
    std::vector<int64_t> outputs, blocks;  // of each matrix
    int threads;
};

bool check(const Case& c) {
    std::deque<Matrix> matrices;
    std::vector<Product> products;
    for (size_t at = 0; at < c.outputs.size(); ++at) {
        matrices.emplace_back(c.inputs, c.outputs[at], c.blocks[at]);
        products.push_back(matrices.back().product);
    }
    const int count = static_cast<int>(products.size());
    std::vector<float> numbers(static_cast<size_t>(c.rows * c.inputs));
    for (float& one : numbers) one = std::normal_distribution<float>()(generator);
    Pool pool(c.threads);
    std::vector<Buffer<uint8_t>> scratch(static_cast<size_t>(c.threads));
    std::vector<Buffer<float>> made(static_cast<size_t>(c.threads));
    for (Buffer<uint8_t>& each : scratch) each.reserve(int4_scratch_bytes(round_up(c.inputs, 128)));
    Activations activations;
    activations.round(pool, products.data(), count, c.rows, c.inputs, made.data(),
                      [&](int64_t row, float*) { return numbers.data() + row * c.inputs; });

    std::vector<std::vector<float>> outs;
    std::vector<Target> targets;
    for (const Product& product : products) {
        const int64_t stride = product.outputs + 3;  // 16 outputs begin anywhere
        outs.emplace_back(static_cast<size_t>(c.rows * stride), UNTOUCHED);
        targets.push_back({&product, outs.back().data(), stride});
    }
    multiply(pool, activations.rows(), c.rows, targets.data(), count, scratch.data(),
             [](float* at, __m512 result) { _mm512_storeu_ps(at, result); });
    const int64_t least_outputs = *std::min_element(c.outputs.begin(), c.outputs.end());
    std::vector<float> both(static_cast<size_t>(c.rows * least_outputs));
    Product gate = products.front(), up = products.back();
    gate.outputs = up.outputs = least_outputs;
    multiply_gated(pool, activations.rows(), c.rows, gate, up, both.data(), least_outputs, scratch.data());

    double magnitude = 0.0, of_up = 0.0;
    for (int64_t row = 0; row < c.rows; row += 1 + row % 5 + c.rows / 16) {
        for (size_t at = 0; at < matrices.size(); ++at) {
            const float* out = outs[at].data() + row * targets[at].stride;
            for (int64_t output = 0; output < c.outputs[at]; ++output) {
                const double wanted = product_of(matrices[at], activations.rows(), row, output, &magnitude);
                if (!close("product", row, output, out[output], wanted, magnitude)) return false;
            }
            if (out[c.outputs[at]] == UNTOUCHED) continue;
            std::printf("row %d of matrix %d is longer than its outputs\n", static_cast<int>(row),
                        static_cast<int>(at));
            return false;
        }
        for (int64_t output = 0; output < least_outputs; ++output) {
            const double x = product_of(matrices.front(), activations.rows(), row, output, &magnitude);
            const double y = product_of(matrices.back(), activations.rows(), row, output, &of_up);
            const float found = both[static_cast<size_t>(row * least_outputs + output)];
            // The gate's slope is at most 1.1.
            const double most = 2 * (std::fabs(x) * of_up + std::fabs(y) * magnitude);
            if (!close("gated", row, output, found, x / (1 + std::exp(-x)) * y, most)) return false;
        }
    }
    return true;
}

}  // namespace

int main() {
    const std::vector<std::vector<int64_t>> kinds = {
        {0, 0, 0}, {32, 32, 32}, {64, 0, 64}, {128, 128, 0}, {0, 32, 32}};
    for (const std::vector<int64_t>& blocks : kinds) {
        for (const int64_t rows : {1, 2, 5, 17, 40, 130}) {
            for (const int threads : {1, 3}) {
                if (!check({128, rows, {16, 48, 112}, blocks, threads})) return 1;
                if (!check({384, rows, {32, 16, 80}, blocks, threads})) return 1;
            }
        }
    }
    // Inputs that are padded.
    if (!check({80, 35, {48, 16}, {0, 0}, 2}) || !check({96, 35, {48, 16}, {32, 32}, 2}) ||
        !check({80, 35, {48, 48}, {0, 128}, 2})) {
        return 1;
    }
    // More rows than stay in a cache, of either kind alone and of both.
    for (const std::vector<int64_t>& blocks : {std::vector<int64_t>{0}, {128}, {0, 128}}) {
        if (!check({6144, 213, std::vector<int64_t>(blocks.size(), 48), blocks, 2})) return 1;
    }
    std::puts("ok");
    return 0;
}
