// Runs decoders of many shapes through their C interface: all tokens at once, in two parts, one by one and in
// a batch must give the same logits and caches but for roundings, nothing else of the caches may change, and
// memory is exactly as long as it has to be, so that a sanitizer sees a step beside it.
#include "decoder.cpp"

#include <sys/wait.h>

#include <cstdio>
#include <deque>
#include <random>

namespace {

using neo_edge::Buffer;
using neo_edge::PANEL;
using neo_edge::round_up;

constexpr float UNTOUCHED = 12345.0F;
// Rounding activations to 8 bits costs a tenth of this; a token that sees something else is off by all of it.
constexpr double TOLERANCE = 0.15;  // of the standard deviation

std::mt19937 generator(11);

int number(int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(generator);
}
float normal() {
    return std::normal_distribution<float>()(generator);
}

// A decoder with random weights; blocks: of the nine products of each layer and the head, 0 for 8 bits.
struct Model {
    neo_edge_widths widths;
    std::vector<neo_edge_product> products;
    std::deque<Buffer<uint8_t>> bytes;
    std::deque<std::vector<float>> floats;
    std::deque<std::vector<int32_t>> integers;
    std::vector<const float*> vectors;
    std::vector<int32_t> axis;

    Model(const neo_edge_widths& wide, const std::vector<int64_t>& blocks) : widths(wide) {
        const int64_t d = wide.head_dim, query = wide.heads * d, key = wide.kv_heads * d;
        const int64_t outputs[] = {query, query, key, key, key, wide.hidden, wide.mlp, wide.mlp, wide.hidden};
        for (int64_t layer = 0; layer < wide.layers; ++layer) {
            for (size_t at = 0; at < 9; ++at) {
                add(at == 5 ? query : at == 8 ? wide.mlp : wide.hidden, outputs[at], blocks[at]);
            }
            for (const int64_t length : {wide.hidden, d, d / 2, d / 2, d, d / 2, d / 2, wide.hidden})
                add_norm(length);
        }
        add(wide.hidden, wide.vocab, blocks[9]);
        add_norm(wide.hidden);
        floats.emplace_back();
        for (int64_t at = 0; at < d; ++at) {
            floats.back().push_back(std::pow(100.0F, -static_cast<float>(at) / static_cast<float>(d)));
            axis.push_back(static_cast<int32_t>(at % 3));
        }
        vectors.push_back(floats.back().data());
    }

    // Queries and keys of length one keep the scores apart without one that counts alone.
    void add_norm(int64_t length) {
        const float scale =
            length == widths.hidden ? 1.0F : std::pow(static_cast<float>(widths.head_dim), -0.25F);
        floats.emplace_back();
        for (int64_t at = 0; at < length; ++at) floats.back().push_back(scale * (1.0F + 0.1F * normal()));
        vectors.push_back(floats.back().data());
    }

    void add(int64_t inputs, int64_t outputs, int64_t block) {
        const int64_t wide = round_up(inputs, block == 0 ? neo_edge::DEPTH : block);
        const float size = 1.0F / std::sqrt(static_cast<float>(inputs));
        bytes.emplace_back();
        if (block != 0) {
            const int64_t panel = wide / block * (64 + block * PANEL / 2);
            uint8_t* to = bytes.back().reserve(outputs / PANEL * panel);
            for (int64_t at = 0; at < outputs / PANEL * panel; ++at) {
                to[at] = static_cast<uint8_t>(number(1, 15) | number(1, 15) << 4);
            }
            for (int64_t at = 0; at < outputs / PANEL * panel; at += 64 + block * PANEL / 2) {
                for (int64_t i = 0; i < PANEL; ++i) reinterpret_cast<float*>(to + at)[i] = size / 4.3F;
            }
            products.push_back({4, block, wide, outputs, to, nullptr, nullptr});
            return;
        }
        auto* to = reinterpret_cast<int8_t*>(bytes.back().reserve(outputs * wide));
        integers.emplace_back(static_cast<size_t>(outputs));
        floats.emplace_back(static_cast<size_t>(outputs), size / 73.0F / 127.0F);
        for (int64_t output = 0; output < outputs; ++output) {
            for (int64_t k = 0; k < wide; ++k) {
                const int weight = k < inputs ? number(-127, 127) : 0;
                to[output / PANEL * PANEL * wide + k / 4 * 4 * PANEL + output % PANEL * 4 + k % 4] =
                    static_cast<int8_t>(weight);
                integers.back()[static_cast<size_t>(output)] += 128 * weight;
            }
        }
        products.push_back({8, 0, wide, outputs, to, floats.back().data(), integers.back().data()});
    }

    void* decoder(int threads) const {
        void* made = nullptr;
        const int status =
            neo_edge_decoder_new(&widths, products.data(), vectors.data(), axis.data(), threads, &made);
        return status == NEO_EDGE_DONE ? made : nullptr;
    }
};

struct Tokens {
    std::vector<float> embeddings;
    std::vector<int32_t> positions;  // [S][3]
    std::vector<int32_t> visible;
};

// Text with a picture in it, whose tokens see its end.
Tokens some_tokens(const Model& model, int64_t count) {
    Tokens made;
    const int64_t from = count / 4, to = count / 2;
    for (int64_t at = 0; at < count * model.widths.hidden; ++at) made.embeddings.push_back(normal());
    for (int64_t s = 0; s < count; ++s) {
        const bool picture = s >= from && s < to;
        for (const int64_t position : {picture ? from : s, picture ? s % 5 : 0, picture ? s % 3 : 0}) {
            made.positions.push_back(static_cast<int32_t>(position));
        }
        made.visible.push_back(static_cast<int32_t>(picture ? to : s + 1));
    }
    return made;
}

// Caches of some sequences that hold as many tokens as fit.
struct State {
    int64_t batch, capacity;
    std::vector<std::vector<float>> keys, values;
    std::vector<float*> key_places, value_places;

    State(const Model& model, int64_t sequences, int64_t positions) : batch(sequences), capacity(positions) {
        const auto count =
            static_cast<size_t>(batch * model.widths.kv_heads * capacity * model.widths.head_dim);
        for (int64_t layer = 0; layer < model.widths.layers; ++layer) {
            keys.emplace_back(2 * count, UNTOUCHED);
            values.emplace_back(count, UNTOUCHED);
        }
        for (auto& each : keys) key_places.push_back(each.data());
        for (auto& each : values) value_places.push_back(each.data());
    }
};

// Tokens [begin, end) of the sequences, the one at `row` from its begins[row] on; logits of all of them.
std::vector<float> run(const Model& model, void* decoder, State& state,
                       const std::vector<const Tokens*>& sequences, const std::vector<int64_t>& begins,
                       int64_t count) {
    const int64_t wide = model.widths.hidden, batch = static_cast<int64_t>(sequences.size());
    std::vector<float> embeddings(1);  // the first is none of it: they need not lie on a line's border
    std::vector<int32_t> positions, visible, write_index, logits_index;
    for (size_t row = 0; row < sequences.size(); ++row) {
        const Tokens& tokens = *sequences[row];
        const int64_t begin = begins[row];
        embeddings.insert(embeddings.end(), tokens.embeddings.begin() + begin * wide,
                          tokens.embeddings.begin() + (begin + count) * wide);
        for (int axis = 0; axis < 3; ++axis) {
            for (int64_t s = begin; s < begin + count; ++s)
                positions.push_back(tokens.positions[static_cast<size_t>(3 * s + axis)]);
        }
        for (int64_t s = begin; s < begin + count; ++s) {
            visible.push_back(tokens.visible[static_cast<size_t>(s)]);
            logits_index.push_back(static_cast<int32_t>(s - begin));
        }
        write_index.push_back(static_cast<int32_t>(begin));
    }
    std::vector<float> logits(static_cast<size_t>(batch * count * model.widths.vocab), UNTOUCHED);
    neo_edge_step step{};
    step.batch = batch;
    step.tokens = step.rows = count;
    step.capacity = state.capacity;
    step.inputs_embeds = embeddings.data() + 1;
    step.position_ids = positions.data();
    step.visible_length = visible.data();
    step.write_index = write_index.data();
    step.logits_index = logits_index.data();
    step.key_caches = state.key_places.data();
    step.value_caches = state.value_places.data();
    step.logits = logits.data();
    if (neo_edge_decoder_run(decoder, &step) != NEO_EDGE_DONE) return {};
    return logits;
}

// The worst row's root mean square difference, as a share of the standard deviation.
double difference(const float* found, const float* wanted, int64_t rows, int64_t width) {
    double worst = 0.0;
    for (int64_t row = 0; row < rows; ++row) {
        double squares = 0.0, sum = 0.0, errors = 0.0;
        for (int64_t at = row * width; at < (row + 1) * width; ++at) {
            const double error = static_cast<double>(found[at]) - wanted[at];
            errors += error * error;
            sum += wanted[at];
            squares += static_cast<double>(wanted[at]) * wanted[at];
        }
        const double variance = squares - sum * sum / static_cast<double>(width);
        const double share = std::sqrt(errors / std::max(variance, 1e-30));
        if (!(share <= worst)) worst = share;
    }
    return worst;
}

struct Case {
    neo_edge_widths widths;
    std::vector<int64_t> blocks;
    int64_t tokens;
};

bool differs(const Case& c, const char* what, double found) {
    const neo_edge_widths& w = c.widths;
    std::printf("hidden %d heads %d/%d of %d mlp %d vocab %d, first block %d, %d tokens: %s differ by %.3g\n",
                static_cast<int>(w.hidden), static_cast<int>(w.heads), static_cast<int>(w.kv_heads),
                static_cast<int>(w.head_dim), static_cast<int>(w.mlp), static_cast<int>(w.vocab),
                static_cast<int>(c.blocks[0]), static_cast<int>(c.tokens), what, found);
    return false;
}

// Of one sequence: what was written, and that nothing else was.
bool same_caches(const Case& c, const char* what, const State& found, int64_t row, const State& wanted,
                 int64_t filled) {
    const neo_edge_widths& w = c.widths;
    for (size_t layer = 0; layer < static_cast<size_t>(w.layers); ++layer) {
        for (const int64_t width : {2 * w.head_dim, w.head_dim}) {
            const auto& ours = width == w.head_dim ? found.values[layer] : found.keys[layer];
            const auto& theirs = width == w.head_dim ? wanted.values[layer] : wanted.keys[layer];
            for (int64_t head = 0; head < w.kv_heads; ++head) {
                const float* at = ours.data() + (row * w.kv_heads + head) * found.capacity * width;
                const float* other = theirs.data() + head * wanted.capacity * width;
                const double error = difference(at, other, filled, width);
                if (!(error <= TOLERANCE)) return differs(c, what, error);
                for (int64_t i = filled * width; i < found.capacity * width; ++i) {
                    if (at[i] != UNTOUCHED) return differs(c, "places behind the tokens", 1.0);
                }
            }
        }
    }
    return true;
}

bool check(const Case& c) {
    const Model model(c.widths, c.blocks);
    const int64_t vocab = c.widths.vocab;
    void* decoder = model.decoder(3);
    void* alone = model.decoder(1);
    if (decoder == nullptr || alone == nullptr) return differs(c, "no decoder was made: both", 1.0);
    const Tokens tokens = some_tokens(model, c.tokens);
    State whole(model, 1, c.tokens);  // exactly full
    const std::vector<float> wanted = run(model, decoder, whole, {&tokens}, {0}, c.tokens);
    bool good = !wanted.empty();
    State same(model, 1, c.tokens);
    if (good && run(model, alone, same, {&tokens}, {0}, c.tokens) != wanted)
        good = differs(c, "numbers of threads", 0.0);

    // Tokens that see the end of a picture have to come with it.
    const int64_t parts[] = {c.tokens / 2, c.tokens - c.tokens / 2};
    State halves(model, 1, c.tokens + 3);
    int64_t begin = 0;
    for (const int64_t part : parts) {
        if (!good || part == 0) continue;
        const std::vector<float> found = run(model, decoder, halves, {&tokens}, {begin}, part);
        const double error = difference(found.data(), wanted.data() + begin * vocab, part, vocab);
        if (!(error <= TOLERANCE)) good = differs(c, "logits of parts", error);
        begin += part;
    }
    good = good && same_caches(c, "caches of parts", halves, 0, whole, c.tokens);

    // The second half one by one, of two sequences that have come to different lengths, with room for a
    // third.
    State batch(model, 3, c.tokens + 1);
    State single(model, 1, c.tokens);
    const int64_t half = c.tokens / 2, first_part = half + 1;
    for (size_t row = 0; good && row < 2; ++row) {
        State filled(model, 1, c.tokens + 1);
        const int64_t length = row == 0 ? half : std::min(first_part, c.tokens);
        if (length > 0) run(model, decoder, filled, {&tokens}, {0}, length);
        for (size_t layer = 0; layer < filled.keys.size(); ++layer) {
            const auto at = static_cast<int64_t>(row);
            std::copy(filled.keys[layer].begin(), filled.keys[layer].end(),
                      batch.keys[layer].begin() + at * static_cast<int64_t>(filled.keys[layer].size()));
            std::copy(filled.values[layer].begin(), filled.values[layer].end(),
                      batch.values[layer].begin() + at * static_cast<int64_t>(filled.values[layer].size()));
        }
    }
    for (int64_t at = half; good && at + 1 < c.tokens; ++at) {
        const std::vector<float> found = run(model, decoder, batch, {&tokens, &tokens}, {at, at + 1}, 1);
        const double error = difference(found.data(), wanted.data() + at * vocab, 2, vocab);
        if (!(error <= TOLERANCE)) good = differs(c, "logits of a batch", error);
    }
    good = good && same_caches(c, "caches of a batch", batch, 0, whole, std::max(c.tokens - 1, half)) &&
           (c.tokens < 2 || same_caches(c, "caches of a batch", batch, 1, whole, c.tokens));
    for (auto& each : batch.keys) good = good && each.back() == UNTOUCHED;
    neo_edge_decoder_release(decoder);
    State again(model, 1, c.tokens);
    good = good && run(model, decoder, again, {&tokens}, {0}, c.tokens) == wanted;
    neo_edge_decoder_delete(decoder);
    neo_edge_decoder_delete(alone);
    return good;
}

// A forked process has none of the threads: it computes alone, and does not wait for them at the end.
bool check_fork() {
    const Case c{{2, 64, 2, 1, 16, 64, 48, 1e-6F}, std::vector<int64_t>(10, 0), 20};
    const Model model(c.widths, c.blocks);
    void* decoder = model.decoder(3);
    const Tokens tokens = some_tokens(model, c.tokens);
    State state(model, 1, c.tokens);
    const std::vector<float> wanted = run(model, decoder, state, {&tokens}, {0}, c.tokens);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the threads doze
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        const bool same = run(model, decoder, state, {&tokens}, {0}, c.tokens) == wanted;
        neo_edge_decoder_delete(decoder);
        _exit(same ? 0 : 1);
    }
    int status = -1;
    const bool ended = waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!ended) std::printf("a forked process ended with %d\n", status);
    const bool same = run(model, decoder, state, {&tokens}, {0}, c.tokens) == wanted;
    neo_edge_decoder_delete(decoder);
    return ended && same;
}

}  // namespace

int main() {
    const std::vector<int64_t> eight(10, 0), mixed{64, 0, 64, 64, 0, 32, 128, 0, 64, 0};
    const std::vector<std::vector<int64_t>> kinds = {eight, mixed, std::vector<int64_t>(10, 32),
                                                     std::vector<int64_t>(10, 128)};
    const neo_edge_widths widths[] = {
        {2, 64, 2, 1, 16, 48, 16, 1e-6F},   {1, 80, 8, 1, 16, 112, 48, 1e-6F},
        {2, 96, 3, 3, 32, 144, 272, 1e-6F}, {1, 128, 6, 2, 48, 320, 80, 1e-6F},
        {1, 256, 2, 2, 256, 96, 64, 1e-6F}, {1, 112, 7, 1, 80, 208, 1040, 1e-6F},
    };
    for (const neo_edge_widths& each : widths) {
        for (const std::vector<int64_t>& blocks : kinds) {
            for (const int64_t tokens : {1, 2, 9, 40, 137}) {
                if (!check({each, blocks, tokens})) return 1;
            }
        }
    }
    if (!check({widths[0], mixed, 1300}) || !check_fork()) return 1;
    std::puts("ok");
    return 0;
}
