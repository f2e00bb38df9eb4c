// Compares attend() with a plain softmax(q k^T) v in double precision; prints "ok" or the first difference.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "attention.h"

namespace {

using neo_edge::AttentionBlock;
using neo_edge::AttentionShape;

constexpr double TOLERANCE = 2e-6;  // of the largest value that is averaged
constexpr float LARGE_SCORE = 80.0F;

std::mt19937 generator(7);

std::vector<float> random_floats(int64_t count, float scale) {
    std::normal_distribution<float> normal(0.0F, scale);
    std::vector<float> numbers(static_cast<size_t>(count));
    for (float& number : numbers) number = normal(generator);
    return numbers;
}

enum class Visible { CAUSAL, EQUAL, IMAGE, PADDED, RANDOM };

const char* name_of(Visible pattern) {
    switch (pattern) {
    case Visible::CAUSAL:
        return "causal";
    case Visible::EQUAL:
        return "equal";
    case Visible::IMAGE:
        return "image in the middle";
    case Visible::PADDED:
        return "padded";
    default:
        return "random";
    }
}

// What each of `count` tokens sees behind `past` positions.
std::vector<int32_t> visible_positions(Visible pattern, int64_t past, int64_t count) {
    std::vector<int32_t> visible(static_cast<size_t>(count));
    for (int64_t s = 0; s < count; ++s) {
        int64_t seen = past + s + 1;
        if (pattern == Visible::EQUAL) seen = past + count;
        if (pattern == Visible::IMAGE && s >= count / 3 && s < count * 2 / 3) seen = past + count * 2 / 3;
        if (pattern == Visible::PADDED && s >= count / 2) seen = s % 5 == 4 ? past + count : 1;
        if (pattern == Visible::RANDOM) seen = 1 + static_cast<int64_t>(generator()) % (past + count);
        visible[static_cast<size_t>(s)] = static_cast<int32_t>(seen);
    }
    return visible;
}

struct Case {
    AttentionShape shape;
    int64_t past, count;
    Visible pattern;
    bool large;  // scores of magnitude 80, one of which dominates
};

int differ(const Case& c, int64_t kv_head, int64_t s, int64_t head, int64_t column, double expected,
           double found) {
    std::printf(
        "heads %d/%d dims %d/%d past %d count %d, %s%s: kv head %d token %d head %d column %d: %.9g, not "
        "%.9g\n",
        static_cast<int>(c.shape.heads), static_cast<int>(c.shape.kv_heads),
        static_cast<int>(c.shape.key_dim), static_cast<int>(c.shape.value_dim), static_cast<int>(c.past),
        static_cast<int>(c.count), name_of(c.pattern), c.large ? ", large scores" : "",
        static_cast<int>(kv_head), static_cast<int>(s), static_cast<int>(head), static_cast<int>(column),
        found, expected);
    return 1;
}

// One token and head: the weighted mean of the values that it sees, and the largest magnitude among these.
double attend_plainly(const Case& c, const float* query, const float* keys, const float* values,
                      int64_t visible, std::vector<double>& mean) {
    const auto key_dim = c.shape.key_dim;
    const auto value_dim = c.shape.value_dim;
    std::vector<double> powers(static_cast<size_t>(visible));
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t p = 0; p < visible; ++p) {
        double score = 0.0;
        for (int64_t k = 0; k < key_dim; ++k) score += static_cast<double>(query[k]) * keys[p * key_dim + k];
        powers[static_cast<size_t>(p)] = score;
        largest = std::max(largest, score);
    }
    double total = 0.0;
    double magnitude = 0.0;
    mean.assign(static_cast<size_t>(value_dim), 0.0);
    for (int64_t p = 0; p < visible; ++p) {
        const double power = std::exp(powers[static_cast<size_t>(p)] - largest);
        total += power;
        for (int64_t v = 0; v < value_dim; ++v) {
            const double value = values[p * value_dim + v];
            mean[static_cast<size_t>(v)] += power * value;
            magnitude = std::max(magnitude, std::fabs(value));
        }
    }
    for (double& number : mean) number /= total;
    return magnitude;
}

// Aligns with each head's query one position among the first that the token sees, so that its score is
// LARGE_SCORE.
void make_one_dominate(const Case& c, std::vector<float>& queries, const std::vector<float>& keys,
                       int64_t first, const std::vector<int32_t>& visible, int64_t stride) {
    const auto key_dim = c.shape.key_dim;
    for (int64_t s = 0; s < c.count; ++s) {
        for (int64_t head = 0; head < c.shape.heads; ++head) {
            const auto seen = static_cast<uint32_t>(visible[static_cast<size_t>(s)]);
            const auto position = static_cast<int64_t>(generator() % seen);
            const float* key = keys.data() + position * key_dim;
            float square = 0.0F;
            for (int64_t k = 0; k < key_dim; ++k) square += key[k] * key[k];
            float* query = queries.data() + (first + s) * stride + head * key_dim;
            for (int64_t k = 0; k < key_dim; ++k) query[k] = key[k] * LARGE_SCORE / square;
        }
    }
}

double worst = 0.0;

using Attend = void (*)(const AttentionShape&, const AttentionBlock&, float*);

// attend() chooses one of the others by the number of rows: each must be right for any.
std::vector<Attend> ways_to_attend() {
    std::vector<Attend> ways = {neo_edge::attend, neo_edge::attend_many};
#if defined(NEO_EDGE_AMX_ATTENTION)
    if (neo_edge::amx_allowed()) ways.push_back(neo_edge::attend_with_tiles);
#endif
    return ways;
}

int check(const Case& c) {
    const auto& shape = c.shape;
    const int64_t first = 3;  // tokens of another block come before
    const int64_t group = shape.heads / shape.kv_heads;
    const int64_t unseen = 5;
    const int64_t capacity = c.past + c.count + unseen;
    const int64_t query_stride = shape.heads * shape.key_dim;
    const int64_t out_stride = shape.heads * shape.value_dim;
    const float none = std::numeric_limits<float>::quiet_NaN();
    const std::vector<int32_t> seen = visible_positions(c.pattern, c.past, c.count);
    int64_t most = 0;
    for (const int32_t number : seen) most = std::max<int64_t>(most, number);

    std::vector<int32_t> visible(static_cast<size_t>(first), 1);
    visible.insert(visible.end(), seen.begin(), seen.end());
    const float scale = 1.0F / std::sqrt(static_cast<float>(shape.key_dim));
    std::vector<float> queries = random_floats((first + c.count) * query_stride, scale);
    std::vector<float> keys = random_floats(most * shape.key_dim, 1.0F);
    std::vector<float> values = random_floats(most * shape.value_dim, 1.0F);
    if (c.large) make_one_dominate(c, queries, keys, first, seen, query_stride);
    keys.resize(static_cast<size_t>(capacity * shape.key_dim), none);
    values.resize(static_cast<size_t>(capacity * shape.value_dim), none);
    // tokens that see little beside others that see more must not be touched by what lies there
    int64_t clean = most;
    if (c.pattern == Visible::PADDED && c.count > 5) {
        clean = c.past + (c.count + 1) / 2;
        for (int64_t i = clean * shape.key_dim; i < most * shape.key_dim; ++i)
            keys[static_cast<size_t>(i)] = none;
        for (int64_t i = clean * shape.value_dim; i < most * shape.value_dim; ++i)
            values[static_cast<size_t>(i)] = none;
    }
    const std::vector<Attend> ways = ways_to_attend();
    const std::vector<float> nothing(static_cast<size_t>((first + c.count) * out_stride), none);
    std::vector<std::vector<float>> outs(ways.size(), nothing);
    std::vector<float> scratch(static_cast<size_t>(neo_edge::attention_scratch_floats(shape)), none);
    const int64_t step = std::max<int64_t>(1, shape.kv_heads - 1);  // the first kv head and the last
    for (int64_t kv_head = 0; kv_head < shape.kv_heads; kv_head += step) {
        for (size_t way = 0; way < ways.size(); ++way) {
            const AttentionBlock block{queries.data(), query_stride,     keys.data(), values.data(),
                                       visible.data(), outs[way].data(), out_stride,  kv_head,
                                       first,          c.count};
            ways[way](shape, block, scratch.data());
        }
        std::vector<double> expected;
        for (int64_t s = 0; s < c.count; ++s) {
            const int64_t token = first + s;
            if (seen[static_cast<size_t>(s)] > clean) continue;  // sees what is no number, as padding may
            for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
                const float* query = queries.data() + token * query_stride + head * shape.key_dim;
                const double magnitude = attend_plainly(c, query, keys.data(), values.data(),
                                                        seen[static_cast<size_t>(s)], expected);
                const int64_t at = token * out_stride + head * shape.value_dim;
                for (const std::vector<float>& out : outs) {
                    for (int64_t v = 0; v < shape.value_dim; ++v) {
                        const double found = out[static_cast<size_t>(at + v)];
                        const double wanted = expected[static_cast<size_t>(v)];
                        const double error = std::fabs(found - wanted) / magnitude;
                        if (!(error <= TOLERANCE)) return differ(c, kv_head, s, head, v, wanted, found);
                        worst = std::max(worst, error);
                    }
                }
            }
        }
    }
    for (const std::vector<float>& out : outs) {
        for (int64_t i = 0; i < first * out_stride; ++i) {
            if (std::isnan(out[static_cast<size_t>(i)])) continue;
            std::printf("wrote before its first token\n");
            return 1;
        }
    }
    return 0;
}

}  // namespace

// `few`: one case in seven, for builds that take their time; `worst` tells how large the errors were.
int main(int count, char** arguments) {
    const std::string argument = count > 1 ? arguments[1] : "";
    int64_t cases = 0;
    const auto skipped = [&] { return ++cases % 7 != 0 && argument == "few"; };
    const AttentionShape shapes[] = {
        {16, 8, 256, 128}, {4, 2, 96, 48},   {4, 2, 32, 16},   {6, 2, 64, 32},
        {8, 8, 128, 64},   {14, 2, 80, 176}, {2, 1, 512, 256},
    };
    const int64_t counts[] = {1, 2, 5, 16, 33, 100, 130};
    const int64_t contexts[] = {1, 63, 64, 65, 500};
    const Visible patterns[] = {Visible::CAUSAL, Visible::EQUAL, Visible::IMAGE, Visible::PADDED,
                                Visible::RANDOM};
    for (const AttentionShape& shape : shapes) {
        for (const int64_t new_tokens : counts) {
            int64_t before = -1;
            for (const int64_t context : contexts) {
                const int64_t past = std::max<int64_t>(0, context - new_tokens);
                if (past == before) continue;
                before = past;
                if (!skipped() && check({shape, past, new_tokens, Visible::CAUSAL, true}) != 0) return 1;
                for (const Visible pattern : patterns) {
                    if (pattern != Visible::CAUSAL && context < 65) continue;
                    if (!skipped() && check({shape, past, new_tokens, pattern, false}) != 0) return 1;
                }
            }
        }
    }
    const AttentionShape eight{16, 2, 32, 16};  // heads that share a key
    for (const int64_t new_tokens : {1, 3, 70, 300}) {
        for (const int64_t past : {0, 1000, 4095}) {
            if (check({eight, past, new_tokens, Visible::RANDOM, false}) != 0) return 1;
        }
    }
    if (argument == "worst") std::printf("worst error %.3g of the largest value\n", worst);
    std::printf("ok\n");
    return 0;
}
