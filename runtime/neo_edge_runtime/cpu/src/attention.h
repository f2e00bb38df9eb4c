// Attention over the cache in float32, with a softmax that is carried along: scores are never stored as a
// whole.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention_amx.h"
#include "attention_decode.h"
#include "attention_prefill.h"
#include "attention_shape.h"

namespace neo_edge {

// Floats of scratch that one thread hands to attend(), whatever the context.
inline int64_t attention_scratch_floats(const AttentionShape& shape) {
    int64_t most = std::max(decode_scratch_floats(shape), prefill_scratch_floats(shape));
#if defined(NEO_EDGE_AMX_ATTENTION)
    most = std::max(most, tile_scratch_floats(shape));
#endif
    return most;
}

// It is fastest where `scratch` begins with a cache line.
inline void attend(const AttentionShape& shape, const AttentionBlock& block, float* scratch) {
    if (block.count == 1) {
        attend_one(shape, block, scratch);
        return;
    }
#if defined(NEO_EDGE_AMX_ATTENTION)
    if (block.count * (shape.heads / shape.kv_heads) >= ROWS_FOR_TILES && amx_allowed()) {
        attend_with_tiles(shape, block, scratch);
        return;
    }
#endif
    attend_many(shape, block, scratch);
}

}  // namespace neo_edge
