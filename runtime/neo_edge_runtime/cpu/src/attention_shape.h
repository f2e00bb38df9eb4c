// What attention reads and writes.
#pragma once

#include <cstdint>

namespace neo_edge {

struct AttentionShape {
    int64_t heads, kv_heads;     // heads is a multiple of kv_heads: neighbours share a kv head
    int64_t key_dim, value_dim;  // multiples of 16
};

// New tokens [first, first + count) of one sequence, in the query heads that share one kv head. The queries
// hold the scale already; token s sees cache positions [0, visible[s]), at least one, in any order from token
// to token.
struct AttentionBlock {
    const float* queries;  // token s, head h: queries + s * query_stride + h * key_dim
    int64_t query_stride;
    const float* keys;    // of this sequence and kv head: [C, key_dim]
    const float* values;  // [C, value_dim]
    const int32_t* visible;
    float* out;  // token s, head h: out + s * out_stride + h * value_dim
    int64_t out_stride;
    int64_t kv_head, first, count;
};

}  // namespace neo_edge
