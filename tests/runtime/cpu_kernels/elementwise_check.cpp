// Compares norms, rounding, rotation and the gate with doubles, also for widths that fill no register.
#include "elementwise.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

using namespace neo_edge;

namespace {

constexpr float GUARD = 12345.0F;  // stands behind every output and must stay
constexpr float NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN();
constexpr float INFINITE = std::numeric_limits<float>::infinity();
using Row = std::vector<float>;

struct Free {
    void operator()(void* data) const { std::free(data); }
};

template <class T>
std::unique_ptr<T[], Free> aligned(int64_t count, T value) {
    const auto bytes = static_cast<size_t>(round_up(count * int64_t{sizeof(T)}, 64));
    std::unique_ptr<T[], Free> made(static_cast<T*>(std::aligned_alloc(64, bytes)));
    std::fill_n(made.get(), count, value);
    return made;
}

bool failed(const char* what, int64_t width, int64_t at, double found, double wanted) {
    std::printf("%s of %d: [%d] is %.9g, not %.9g\n", what, static_cast<int>(width), static_cast<int>(at),
                found, wanted);
    return false;
}

bool close(float found, double wanted, double relative) {
    return std::fabs(found - wanted) <= relative * std::fabs(wanted) + 1e-36;
}

Row random_row(int64_t width, float size, std::mt19937& random) {
    Row row(static_cast<size_t>(width));
    for (float& value : row) value = std::normal_distribution<float>(0.0F, size)(random);
    return row;
}

bool check_norm(int64_t width, float size, std::mt19937& random) {
    const Row row = random_row(width, size, random), weight = random_row(width, 1.0F, random);
    Row out(row);
    out.push_back(GUARD);
    constexpr float EPSILON = 1e-6F;
    rms_norm(out.data(), weight.data(), width, EPSILON, out.data());  // in place
    double mean = 0;
    for (const float value : row) mean += static_cast<double>(value) * value / static_cast<double>(width);
    for (int64_t at = 0; at < width; ++at) {
        const auto i = static_cast<size_t>(at);
        const double wanted = row[i] / std::sqrt(mean + EPSILON) * weight[i];
        if (!close(out[i], wanted, 1e-6)) return failed("norm", width, at, out[i], wanted);
    }
    return out.back() == GUARD || failed("norm, behind", width, width, out.back(), GUARD);
}

// A rounded number is at most half a step from its exact value; float32 may take a tie for the other side.
bool near_step(int value, float number, float largest) {
    return std::fabs(value - static_cast<double>(number) * 127 / largest) <= 0.5 + 1e-4;
}

float largest_of(const Row& row, size_t first, size_t end) {
    float largest = LEAST_MAXIMUM;
    for (size_t at = first; at < std::min(end, row.size()); ++at)
        largest = std::fmax(largest, std::fabs(row[at]));
    return largest;
}

bool check_uint8(const Row& row) {
    const auto width = static_cast<int64_t>(row.size());
    const int64_t stride = round_up(width, DEPTH);
    const auto values = aligned<uint8_t>(stride + 1, 77);
    const float found = round_to_uint8(row.data(), width, stride, values.get());
    const float largest = largest_of(row, 0, row.size());
    if (found != largest) return failed("largest", width, 0, found, largest);
    for (int64_t at = 0; at < stride; ++at) {
        const float number = at < width ? row[static_cast<size_t>(at)] : 0.0F;
        const int value = values[static_cast<size_t>(at)] - 128;
        if (!near_step(value, number, largest))
            return failed("8 bits", width, at, value, number * 127 / largest);
    }
    return values[static_cast<size_t>(stride)] == 77 || failed("8 bits, behind", width, stride, 0, 77);
}

bool check_int8_blocks(const Row& row, int64_t block) {
    const auto width = static_cast<int64_t>(row.size());
    const int64_t stride = round_up(width, block), blocks = stride / block;
    const auto values = aligned<int8_t>(stride + 1, 77);
    Row scales(static_cast<size_t>(blocks + 1), GUARD);
    std::vector<int32_t> sums(static_cast<size_t>(blocks + 1), 77);
    round_to_int8_blocks(row.data(), width, stride, block, values.get(), scales.data(), sums.data());
    for (int64_t at = 0; at < blocks; ++at) {
        const auto first = static_cast<size_t>(at * block), here = static_cast<size_t>(at);
        const float largest = largest_of(row, first, first + static_cast<size_t>(block));
        if (scales[here] != largest / 127.0F)
            return failed("scale", width, at, scales[here], largest / 127.0F);
        int32_t sum = 0;
        for (size_t k = first; k < first + static_cast<size_t>(block); ++k) {
            const float number = k < row.size() ? row[k] : 0.0F;
            sum += values[k];
            if (!near_step(values[k], number, largest)) {
                return failed("blocks", width, static_cast<int64_t>(k), values[k], number * 127 / largest);
            }
        }
        if (sums[here] != sum) return failed("sum", width, at, sums[here], sum);
    }
    const auto behind = static_cast<size_t>(blocks);
    return (values[static_cast<size_t>(stride)] == 77 && scales[behind] == GUARD && sums[behind] == 77) ||
           failed("blocks, behind", width, stride, 0, 77);
}

// What is no number must not come out of a product as one.
bool check_odd_rows() {
    for (const float odd : {NOT_A_NUMBER, -NOT_A_NUMBER, INFINITE, -INFINITE}) {
        for (const size_t at : {size_t{0}, size_t{20}, size_t{99}}) {
            Row row(100, 1.0F);
            row[at] = odd;
            const auto values = aligned<uint8_t>(128, 0);
            const float largest = round_to_uint8(row.data(), 100, 128, values.get());
            if (std::isfinite(largest))
                return failed("odd largest", 100, static_cast<int64_t>(at), largest, odd);
            const auto parts = aligned<int8_t>(128, 0);
            Row scales(4), out(100);
            int32_t sums[4];
            round_to_int8_blocks(row.data(), 100, 128, 32, parts.get(), scales.data(), sums);
            for (size_t block = 0; block < 4; ++block) {
                if (std::isfinite(scales[block]) == (block == at / 32)) {
                    return failed("odd scale", 100, static_cast<int64_t>(block), scales[block], odd);
                }
            }
            rms_norm(row.data(), row.data(), 100, 1e-6F, out.data());
            if (!std::isnan(out[at])) return failed("odd norm", 100, static_cast<int64_t>(at), out[at], odd);
        }
    }
    // Many of them: the sum is still that of the numbers that stand there.
    const Row none(128, NOT_A_NUMBER);
    const auto values = aligned<int8_t>(128, 0);
    float scale = 0.0F;
    int32_t sum = 0, wanted = 0;
    round_to_int8_blocks(none.data(), 128, 128, 128, values.get(), &scale, &sum);
    for (size_t at = 0; at < 128; ++at) wanted += values[at];
    if (sum != wanted) return failed("odd sum", 128, 0, sum, wanted);
    const Row zeros(100, 0.0F);
    return check_uint8(zeros) && check_int8_blocks(zeros, 32);
}

bool check_rotation(int64_t width, std::mt19937& random) {
    const Row row = random_row(width, 1.0F, random);
    Row cosines, sines, out(row);
    for (int64_t at = 0; at < width / 2; ++at) {
        const float angle = std::uniform_real_distribution<float>(-500.0F, 500.0F)(random);
        cosines.push_back(std::cos(angle));
        sines.push_back(std::sin(angle));
    }
    out.push_back(GUARD);
    rotate_pairs(out.data(), cosines.data(), sines.data(), width);
    for (size_t at = 0; at < row.size(); at += 2) {
        const double c = cosines[at / 2], s = sines[at / 2], x = row[at], y = row[at + 1];
        const double size = 2e-7 * (std::fabs(x) + std::fabs(y));
        if (!(std::fabs(out[at] - (x * c - y * s)) <= size))
            return failed("rotation", width, int64_t(at), out[at], x * c - y * s);
        if (!(std::fabs(out[at + 1] - (y * c + x * s)) <= size))
            return failed("rotation", width, int64_t(at) + 1, out[at + 1], y * c + x * s);
    }
    return out.back() == GUARD || failed("rotation, behind", width, width, out.back(), GUARD);
}

float of_one(__m512 value) {
    return _mm512_cvtss_f32(value);
}

bool check_functions() {
    for (float x = -120.0F; x < 88.5F; x += 0.00917F) {
        const float found = of_one(exponential(_mm512_set1_ps(x)));
        const double wanted = x < -87.0F ? 0.0 : std::exp(static_cast<double>(x));
        if (!close(found, wanted, 2e-7))
            return failed("exponential", 0, static_cast<int64_t>(x), found, wanted);
        const float gate = of_one(gated(_mm512_set1_ps(x), _mm512_set1_ps(-3.0F)));
        const double gate_wanted = x / (1 + std::exp(-static_cast<double>(x))) * -3;
        if (!close(gate, gate_wanted, 5e-7))
            return failed("gate", 0, static_cast<int64_t>(x), gate, gate_wanted);
    }
    const float sure[][2] = {{-INFINITE, 0.0F}, {0.0F, 1.0F}, {-0.0F, 1.0F}, {INFINITE, INFINITE}};
    for (const auto& [x, wanted] : sure) {
        const float found = of_one(exponential(_mm512_set1_ps(x)));
        if (found != wanted) return failed("exponential", 0, 0, found, wanted);
    }
    return std::isnan(of_one(exponential(_mm512_set1_ps(NOT_A_NUMBER)))) &&
           std::isnan(of_one(gated(_mm512_set1_ps(NOT_A_NUMBER), _mm512_set1_ps(1.0F))));
}

}  // namespace

int main() {
    std::mt19937 random(3);
    std::vector<int64_t> widths = {96, 100, 128, 200, 2048, 6144};
    for (int64_t width = 1; width <= 66; ++width) widths.push_back(width);
    for (const int64_t width : widths) {
        for (const float size : {1.0F, 1e-5F, 1e4F}) {
            if (!check_norm(width, size, random)) return 1;
            if (!check_uint8(random_row(width, size, random))) return 1;
            for (const int64_t block : {32, 64, 128}) {
                if (!check_int8_blocks(random_row(width, size, random), block)) return 1;
            }
        }
        if (width % 2 == 0 && !check_rotation(width, random)) return 1;
    }
    if (!check_odd_rows() || !check_functions()) return 1;
    std::puts("ok");
    return 0;
}
