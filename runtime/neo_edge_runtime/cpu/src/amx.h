// Intel AMX: whether this process may use its tiles, and their configuration.
#pragma once

#if defined(__AMX_INT8__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstdint>

namespace neo_edge {

constexpr int64_t TILE_ROWS = 16;  // of 64 bytes

// Compilers do not know that loads of tiles read memory: call it between writing and loading.
inline void finish_writing() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

#if defined(__AMX_INT8__) && defined(__linux__)
#define NEO_EDGE_AMX 1

// Linux keeps the tiles' registers from a process until it asks for them.
inline bool ask_for_amx() {
    constexpr long REQUEST_PERMISSION = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long TILE_DATA = 18;               // XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

inline bool amx_allowed() {
    static const bool allowed = ask_for_amx();
    return allowed;
}

struct alignas(64) TileConfiguration {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// This thread's eight tiles, each 16 rows of 64 bytes, while it lives.
//
// Configured anew each time: other libraries of the process set and release the tiles of the same threads.
class Tiles {
public:
    Tiles() {
        static constexpr TileConfiguration CONFIGURATION{};
        _tile_loadconfig(&CONFIGURATION);
        finish_writing();
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

#else

inline bool amx_allowed() {
    return false;
}

#endif

}  // namespace neo_edge
