// A step of the decoder: every layer in ten loops over all threads.
#include "decoder.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <system_error>
#include <vector>

#include "attention.h"
#include "elementwise.h"
#include "pool.h"
#include "products.h"
#include "types.h"

namespace neo_edge {
namespace {

constexpr int LAYER_PRODUCTS = 9, LAYER_VECTORS = 8;
constexpr int64_t TOKENS_AT_ONCE = 8;      // that one thread rotates
constexpr int64_t ATTENTION_TOKENS = 128;  // of one key head that one thread takes
constexpr int AXES = 3;                    // t, h, w

struct Layer {
    const Product *query, *query_hw, *key, *key_hw, *value, *output, *gate, *up, *down;
    const float *input_norm, *query_norm, *query_norm_h, *query_norm_w, *key_norm, *key_norm_h, *key_norm_w,
        *mlp_norm;
};

// More threads than processors that they may run on take turns, and every loop waits for the last one's.
int useful(int threads) {
    cpu_set_t processors;
    if (sched_getaffinity(0, sizeof(processors), &processors) != 0)
        return threads;  // more than it has room for
    return std::min(threads, CPU_COUNT(&processors));
}

class Decoder {
public:
    Decoder(const neo_edge_widths& widths, const neo_edge_product* products, const float* const* vectors,
            const int32_t* axis, int threads)
        : widths_(widths),
          shape_{widths.heads, widths.kv_heads, 2 * widths.head_dim, widths.head_dim},
          axis_(axis, axis + widths.head_dim),
          pool_(useful(threads)),
          row_scratch_(static_cast<size_t>(pool_.threads())),
          attention_scratch_(static_cast<size_t>(pool_.threads())),
          panel_scratch_(static_cast<size_t>(pool_.threads())) {
        const int64_t count = LAYER_PRODUCTS * widths.layers + 1;
        int64_t longest = 0;
        for (int64_t at = 0; at < count; ++at) {
            const neo_edge_product& one = products[at];
            products_.push_back({one.bits, one.block, one.inputs, one.outputs,
                                 static_cast<const uint8_t*>(one.weights), one.scales, one.corrections});
            longest = std::max(longest, one.inputs);
        }
        for (int64_t layer = 0; layer < widths.layers; ++layer) {
            const Product* p = products_.data() + LAYER_PRODUCTS * layer;
            const float* const* v = vectors + LAYER_VECTORS * layer;
            layers_.push_back({p, p + 1, p + 2, p + 3, p + 4, p + 5, p + 6, p + 7, p + 8, v[0], v[1], v[2],
                               v[3], v[4], v[5], v[6], v[7]});
        }
        final_norm_ = vectors[LAYER_VECTORS * widths.layers];
        frequency_ = vectors[LAYER_VECTORS * widths.layers + 1];
        for (Buffer<float>& each : row_scratch_) each.reserve(longest);
        for (Buffer<float>& each : attention_scratch_) each.reserve(attention_scratch_floats(shape_));
        for (Buffer<uint8_t>& each : panel_scratch_) each.reserve(int4_scratch_bytes(longest));
    }

    int run(const neo_edge_step& step) {
        const std::lock_guard<std::mutex> guard(busy_);
        const DenormalsFlushed flushed;
        if (!sound(step)) return NEO_EDGE_BAD_INPUT;
        const int64_t rows = step.batch * step.tokens;
        reserve(rows);
        std::memcpy(stream_.data(), step.inputs_embeds,
                    static_cast<size_t>(rows * widths_.hidden) * sizeof(float));
        find_angles(step);
        for (int64_t layer = 0; layer < widths_.layers; ++layer) {
            attention_part(step, layers_[static_cast<size_t>(layer)], layer);
            mlp_part(layers_[static_cast<size_t>(layer)], rows);
        }
        head(step);
        return NEO_EDGE_DONE;
    }

    void release() {
        const std::lock_guard<std::mutex> guard(busy_);
        for (Buffer<float>* each : {&stream_, &cosines_, &sines_, &query_, &query_hw_, &key_, &key_hw_,
                                    &value_, &turned_, &attended_, &gated_}) {
            each->release();
        }
        activations_.release();
    }

    // Whether this process is a copy of the one that made the decoder.
    bool forked() const { return getpid() != process_; }

private:
    // Every index stays within its array, whatever the caller says.
    bool sound(const neo_edge_step& step) const {
        if (step.batch < 1 || step.tokens < 1 || step.rows < 0) return false;
        for (int64_t at = 0; at < step.batch; ++at) {
            if (step.write_index[at] < 0 || step.write_index[at] + step.tokens > step.capacity) return false;
        }
        for (int64_t at = 0; at < step.batch * step.tokens; ++at) {
            if (step.visible_length[at] < 1 || step.visible_length[at] > step.capacity) return false;
        }
        for (int64_t at = 0; at < step.batch * step.rows; ++at) {
            if (step.logits_index[at] < 0 || step.logits_index[at] >= step.tokens) return false;
        }
        return true;
    }

    void reserve(int64_t rows) {
        const int64_t all_queries = widths_.heads * widths_.head_dim,
                      all_keys = widths_.kv_heads * widths_.head_dim;
        stream_.reserve(rows * widths_.hidden);
        cosines_.reserve(rows * widths_.head_dim);
        sines_.reserve(rows * widths_.head_dim);
        query_.reserve(rows * all_queries);
        query_hw_.reserve(rows * all_queries);
        key_.reserve(rows * all_keys);
        key_hw_.reserve(rows * all_keys);
        value_.reserve(rows * all_keys);
        turned_.reserve(rows * 2 * all_queries);
        attended_.reserve(rows * all_queries);
        gated_.reserve(rows * widths_.mlp);
    }

    template <class Work>
    void for_tokens(int64_t rows, const Work& work) {
        pool_.run((rows + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE, [&](int64_t item, int) {
            const int64_t end = std::min(rows, (item + 1) * TOKENS_AT_ONCE);
            for (int64_t row = item * TOKENS_AT_ONCE; row < end; ++row) work(row);
        });
    }

    void find_angles(const neo_edge_step& step) {
        for_tokens(step.batch * step.tokens, [&](int64_t row) {
            const int64_t sequence = row / step.tokens, token = row % step.tokens;
            for (int64_t at = 0; at < widths_.head_dim; ++at) {
                const int64_t axis = axis_[static_cast<size_t>(at)];
                const int32_t position = step.position_ids[(sequence * AXES + axis) * step.tokens + token];
                const float angle = static_cast<float>(position) * frequency_[at];
                cosines_.data()[row * widths_.head_dim + at] = std::cos(angle);
                sines_.data()[row * widths_.head_dim + at] = std::sin(angle);
            }
        });
    }

    // Norm of the stream, and the rows for `count` products that read it.
    void round_normed(int64_t rows, const float* weight, const Product* products, int count) {
        activations_.round(pool_, products, count, rows, widths_.hidden, row_scratch_.data(),
                           [&](int64_t row, float* made) {
                               rms_norm(stream_.data() + row * widths_.hidden, weight, widths_.hidden,
                                        widths_.epsilon, made);
                               return made;
                           });
    }

    void round_rows(int64_t rows, const float* source, int64_t width, const Product* product) {
        activations_.round(pool_, product, 1, rows, width, row_scratch_.data(),
                           [&](int64_t row, float*) { return source + row * width; });
    }

    void add_to_stream(int64_t rows, const Product& product) {
        const Target target{&product, stream_.data(), widths_.hidden};
        multiply(pool_, activations_.rows(), rows, &target, 1, panel_scratch_.data(),
                 [](float* at, __m512 result) {
                     _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), result));
                 });
    }

    void attention_part(const neo_edge_step& step, const Layer& layer, int64_t number) {
        const int64_t rows = step.batch * step.tokens;
        const int64_t all_queries = widths_.heads * widths_.head_dim,
                      all_keys = widths_.kv_heads * widths_.head_dim;
        round_normed(rows, layer.input_norm, layer.query, 5);
        const Target targets[] = {{layer.query, query_.data(), all_queries},
                                  {layer.query_hw, query_hw_.data(), all_queries},
                                  {layer.key, key_.data(), all_keys},
                                  {layer.key_hw, key_hw_.data(), all_keys},
                                  {layer.value, value_.data(), all_keys}};
        multiply(pool_, activations_.rows(), rows, targets, 5, panel_scratch_.data(),
                 [](float* at, __m512 result) { _mm512_storeu_ps(at, result); });
        float *keys = step.key_caches[number], *values = step.value_caches[number];
        for_tokens(rows, [&](int64_t row) { turn_and_keep(step, layer, row, keys, values); });
        attend_all(step, keys, values);
        round_rows(rows, attended_.data(), all_queries, layer.output);
        add_to_stream(rows, *layer.output);
    }

    // A head's T part and its H and W parts, normed and turned: 2d numbers at `out`.
    void turn(const float* part, const float* part_hw, const float* const* norms, const float* cosines,
              const float* sines, float* out) const {
        const int64_t whole = widths_.head_dim, half = whole / 2;
        rms_norm(part, norms[0], whole, widths_.epsilon, out);
        rms_norm(part_hw, norms[1], half, widths_.epsilon, out + whole);
        rms_norm(part_hw + half, norms[2], half, widths_.epsilon, out + whole + half);
        rotate_pairs(out, cosines, sines, 2 * whole);
    }

    void turn_and_keep(const neo_edge_step& step, const Layer& layer, int64_t row, float* keys,
                       float* values) {
        const int64_t d = widths_.head_dim, sequence = row / step.tokens;
        const int64_t place = step.write_index[sequence] + row % step.tokens;
        const float *cosines = cosines_.data() + row * d, *sines = sines_.data() + row * d;
        const float* const query_norms[] = {layer.query_norm, layer.query_norm_h, layer.query_norm_w};
        const float* const key_norms[] = {layer.key_norm, layer.key_norm_h, layer.key_norm_w};
        for (int64_t head = 0; head < widths_.heads; ++head) {
            const int64_t at = (row * widths_.heads + head) * d;
            turn(query_.data() + at, query_hw_.data() + at, query_norms, cosines, sines,
                 turned_.data() + 2 * at);
        }
        for (int64_t head = 0; head < widths_.kv_heads; ++head) {
            const int64_t at = (row * widths_.kv_heads + head) * d;
            const int64_t kept = ((sequence * widths_.kv_heads + head) * step.capacity + place) * d;
            turn(key_.data() + at, key_hw_.data() + at, key_norms, cosines, sines, keys + 2 * kept);
            std::memcpy(values + kept, value_.data() + at, static_cast<size_t>(d) * sizeof(float));
        }
    }

    void attend_all(const neo_edge_step& step, const float* keys, const float* values) {
        const int64_t d = widths_.head_dim, tokens = step.tokens;
        const int64_t blocks = (tokens + ATTENTION_TOKENS - 1) / ATTENTION_TOKENS;
        const int64_t a_sequence = widths_.kv_heads * blocks;
        pool_.run(step.batch * a_sequence, [&](int64_t item, int thread) {
            // The last blocks see most: they go first, so that no thread is left with a long one.
            const int64_t sequence = item / a_sequence,
                          block = blocks - 1 - item % a_sequence / widths_.kv_heads;
            const int64_t head = item % widths_.kv_heads, cache = sequence * widths_.kv_heads + head;
            const int64_t first = block * ATTENTION_TOKENS, row = sequence * tokens;
            AttentionBlock work{};
            work.queries = turned_.data() + row * widths_.heads * 2 * d;
            work.query_stride = widths_.heads * 2 * d;
            work.keys = keys + cache * step.capacity * 2 * d;
            work.values = values + cache * step.capacity * d;
            work.visible = step.visible_length + row;
            work.out = attended_.data() + row * widths_.heads * d;
            work.out_stride = widths_.heads * d;
            work.kv_head = head;
            work.first = first;
            work.count = std::min(ATTENTION_TOKENS, tokens - first);
            attend(shape_, work, attention_scratch_[static_cast<size_t>(thread)].data());
        });
    }

    void mlp_part(const Layer& layer, int64_t rows) {
        round_normed(rows, layer.mlp_norm, layer.gate, 2);
        multiply_gated(pool_, activations_.rows(), rows, *layer.gate, *layer.up, gated_.data(), widths_.mlp,
                       panel_scratch_.data());
        round_rows(rows, gated_.data(), widths_.mlp, layer.down);
        add_to_stream(rows, *layer.down);
    }

    void head(const neo_edge_step& step) {
        const int64_t rows = step.batch * step.rows;
        if (rows == 0) return;
        const Product& product = products_.back();
        activations_.round(pool_, &product, 1, rows, widths_.hidden, row_scratch_.data(),
                           [&](int64_t index, float* made) {
                               const int64_t row = index / step.rows * step.tokens + step.logits_index[index];
                               const float* from = stream_.data() + row * widths_.hidden;
                               rms_norm(from, final_norm_, widths_.hidden, widths_.epsilon, made);
                               return made;
                           });
        const Target target{&product, step.logits, widths_.vocab};
        multiply(pool_, activations_.rows(), rows, &target, 1, panel_scratch_.data(),
                 [](float* at, __m512 result) { _mm512_storeu_ps(at, result); });
    }

    const pid_t process_ = getpid();
    const neo_edge_widths widths_;
    const AttentionShape shape_;
    const std::vector<int32_t> axis_;
    std::vector<Product> products_;
    std::vector<Layer> layers_;
    const float *final_norm_ = nullptr, *frequency_ = nullptr;
    Pool pool_;
    std::mutex busy_;
    std::vector<Buffer<float>> row_scratch_, attention_scratch_;  // one a thread
    std::vector<Buffer<uint8_t>> panel_scratch_;
    Activations activations_;
    Buffer<float> stream_, cosines_, sines_, query_, query_hw_, key_, key_hw_, value_, turned_, attended_,
        gated_;
};

// What the kernels have no masks for.
bool computable(const neo_edge_widths& widths, const neo_edge_product* products) {
    for (const int64_t width : {widths.hidden, widths.head_dim, widths.mlp, widths.vocab}) {
        if (width < PANEL || width % PANEL != 0) return false;
    }
    if (widths.kv_heads < 1 || widths.heads % widths.kv_heads != 0) return false;
    for (int64_t at = 0; at <= LAYER_PRODUCTS * widths.layers; ++at) {
        const neo_edge_product& one = products[at];
        const bool blocks = one.block == 32 || one.block == 64 || one.block == 128;
        const bool eight = one.bits == 8 && one.inputs % DEPTH == 0;
        const bool four = one.bits == 4 && blocks && one.inputs % one.block == 0;
        if ((!eight && !four) || one.outputs % PANEL != 0) return false;
    }
    return true;
}

}  // namespace
}  // namespace neo_edge

using neo_edge::Decoder;

int neo_edge_decoder_new(const neo_edge_widths* widths, const neo_edge_product* products,
                         const float* const* vectors, const int32_t* axis, int threads, void** decoder) {
    *decoder = nullptr;
    if (threads < 1 || !neo_edge::computable(*widths, products)) return NEO_EDGE_BAD_INPUT;
    try {
        *decoder = new Decoder(*widths, products, vectors, axis, threads);
    } catch (const std::bad_alloc&) {
        return NEO_EDGE_OUT_OF_MEMORY;
    } catch (const std::system_error&) {
        return NEO_EDGE_NO_THREADS;
    }
    return NEO_EDGE_DONE;
}

int neo_edge_decoder_run(void* decoder, const neo_edge_step* step) {
    try {
        return static_cast<Decoder*>(decoder)->run(*step);
    } catch (const std::bad_alloc&) {
        return NEO_EDGE_OUT_OF_MEMORY;
    }
}

void neo_edge_decoder_release(void* decoder) {
    static_cast<Decoder*>(decoder)->release();
}

void neo_edge_decoder_delete(void* decoder) {
    Decoder* one = static_cast<Decoder*>(decoder);
    if (!one->forked()) delete one;  // its threads are another process's: nobody would ever see their end
}

const char* neo_edge_kernels(void) {
    return neo_edge::amx_allowed() ? "AMX" : "AVX-512 VNNI";
}
