// Attention over the cache in float32, with a softmax that is carried along: scores are never stored as a
// whole.
#pragma once

#include "attention_amx.h"
#include "attention_decode.h"
#include "attention_prefill.h"
#include "attention_shape.h"

namespace neo_edge {

// Floats of scratch that one thread hands to attend(), whatever the context.
inline int64_t attention_scratch_floats(const AttentionShape& shape) {
    const int64_t decode = decode_scratch_floats(shape);
    int64_t most = greatest(decode, prefill_scratch_floats(shape));
#if defined(NEO_EDGE_AMX_ATTENTION)
    most = greatest(most, tile_scratch_floats(shape));
#endif
    return most + SCRATCH_ALIGNMENT;
}

inline void attend(const AttentionShape& shape, const AttentionBlock& block, float* scratch) {
    const auto address = reinterpret_cast<uintptr_t>(scratch);
    constexpr uintptr_t LINE = SCRATCH_ALIGNMENT * sizeof(float);
    float* aligned = scratch + (LINE - address % LINE) % LINE / sizeof(float);
    if (block.count == 1) {
        attend_one(shape, block, aligned);
        return;
    }
#if defined(NEO_EDGE_AMX_ATTENTION)
    if (block.count * (shape.heads / shape.kv_heads) >= ROWS_FOR_TILES && amx_allowed()) {
        attend_with_tiles(shape, block, aligned);
        return;
    }
#endif
    attend_many(shape, block, aligned);
}

}  // namespace neo_edge
