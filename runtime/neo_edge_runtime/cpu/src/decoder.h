// A decoder on host caches, for callers in other languages. Sizes and orders are those of `layout.py`.
#pragma once

#include <cstdint>

extern "C" {

struct neo_edge_widths {
    int64_t layers, hidden, heads, kv_heads, head_dim, mlp, vocab;
    float epsilon;
};

// A matrix of the packed file; its memory must outlive the decoder.
struct neo_edge_product {
    int64_t bits, block, inputs, outputs;
    const void* weights;
    const float* scales;
    const int32_t* corrections;
};

// One run: S tokens of B sequences. Shapes as in the graph contract.
struct neo_edge_step {
    int64_t batch, tokens, capacity, rows;  // B, S, C, N
    const float* inputs_embeds;             // [B, S, hidden]
    const int32_t* position_ids;            // [B, 3, S]
    const int32_t* visible_length;          // [B, S]
    const int32_t* write_index;             // [B]
    const int32_t* logits_index;            // [B, N]
    float* const* key_caches;               // a layer: [B, kv_heads, C, 2d]
    float* const* value_caches;             // a layer: [B, kv_heads, C, d]
    float* logits;                          // [B, N, vocab]
};

enum neo_edge_status { NEO_EDGE_DONE, NEO_EDGE_OUT_OF_MEMORY, NEO_EDGE_NO_THREADS, NEO_EDGE_BAD_INPUT };

#define NEO_EDGE_PUBLIC __attribute__((visibility("default")))

// `products`: nine a layer and the head; `vectors`: eight a layer, the final norm and the frequencies;
// `axis`: [d]; `threads`: most that share a loop, the caller among them.
NEO_EDGE_PUBLIC int neo_edge_decoder_new(const neo_edge_widths* widths, const neo_edge_product* products,
                                         const float* const* vectors, const int32_t* axis, int threads,
                                         void** decoder);
// One run at a time; others wait.
NEO_EDGE_PUBLIC int neo_edge_decoder_run(void* decoder, const neo_edge_step* step);
// Gives what runs work in back.
NEO_EDGE_PUBLIC void neo_edge_decoder_release(void* decoder);
// Does nothing in a process forked from the one that made it.
NEO_EDGE_PUBLIC void neo_edge_decoder_delete(void* decoder);
// What products of several rows are computed with.
NEO_EDGE_PUBLIC const char* neo_edge_kernels(void);

}  // extern "C"
