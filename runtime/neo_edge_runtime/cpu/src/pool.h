// Threads that share the items of one loop after another, with microseconds between the loops.
#pragma once

#include <immintrin.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace neo_edge {

// Subnormal numbers cost hundreds of cycles and mean nothing here; the caller's own setting comes back at the
// end.
class DenormalsFlushed {
public:
    DenormalsFlushed() : before_(_mm_getcsr()) { _mm_setcsr(before_ | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO); }
    ~DenormalsFlushed() { _mm_setcsr(before_); }
    DenormalsFlushed(const DenormalsFlushed&) = delete;
    DenormalsFlushed& operator=(const DenormalsFlushed&) = delete;

private:
    static constexpr unsigned FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x40;
    unsigned before_;
};

// The caller and `threads - 1` workers. Loops of one caller at a time.
class Pool {
public:
    explicit Pool(int threads) : threads_(threads) {
        workers_.reserve(static_cast<size_t>(threads - 1));
        try {
            for (int thread = 1; thread < threads; ++thread) {
                workers_.emplace_back([this, thread] { serve(thread); });
            }
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Pool() { stop(); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // work(item, thread) for every item; an item goes to the thread that asks next. Returns when all are
    // done. It must throw nothing: no thread could be told.
    template <class Work>
    void run(int64_t items, const Work& work) {
        if (items <= 1 || workers_.empty()) {
            for (int64_t item = 0; item < items; ++item) work(item, 0);
            return;
        }
        items_ = items;
        next_.store(0, std::memory_order_relaxed);
        context_ = &work;
        call_ = [](const void* context, int64_t item, int thread) {
            (*static_cast<const Work*>(context))(item, thread);
        };
        const uint64_t round = (state_.load(std::memory_order_relaxed) >> ROUND_SHIFT) + 1;
        state_.store(round << ROUND_SHIFT | OPEN, std::memory_order_seq_cst);
        if (sleeping_.load(std::memory_order_seq_cst) > 0) {
            {
                const std::lock_guard<std::mutex> guard(mutex_);
            }
            awake_.notify_all();
        }
        take_items(0);
        // A worker that has not come by now need not: nothing is left.
        state_.fetch_and(~OPEN, std::memory_order_acq_rel);
        for (int spins = 0; (state_.load(std::memory_order_acquire) & INSIDE) != 0; ++spins) {
            if (spins < SPINS) {
                _mm_pause();
            } else {
                std::this_thread::yield();
            }
        }
    }

private:
    // One word: how many workers are inside, whether one may enter, and the loop's number.
    static constexpr uint64_t INSIDE = 0xFFFF, OPEN = 0x10000;
    static constexpr int ROUND_SHIFT = 17;
    static constexpr int SPINS = 4000;  // some 0.1 ms: longer than what lies between two loops of a step

    void serve(int thread) {
        const DenormalsFlushed flushed;
        uint64_t seen = 0;
        while (true) {
            uint64_t state = wait_for_round(seen);
            if (stopped_.load(std::memory_order_relaxed)) return;
            while ((state & OPEN) != 0) {
                if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
                    take_items(thread);
                    state_.fetch_sub(1, std::memory_order_acq_rel);
                    break;
                }
            }
            seen = state >> ROUND_SHIFT;
        }
    }

    uint64_t wait_for_round(uint64_t seen) {
        // A worker that came too late for one loop may have seen the next number already, that of the end,
        // too.
        const auto called = [&] {
            return stopped_.load(std::memory_order_relaxed) ||
                   state_.load(std::memory_order_seq_cst) >> ROUND_SHIFT != seen;
        };
        for (int spins = 0; spins < SPINS; ++spins) {
            if (called()) return state_.load(std::memory_order_acquire);
            _mm_pause();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1, std::memory_order_seq_cst);
        awake_.wait(lock, called);
        sleeping_.fetch_sub(1, std::memory_order_relaxed);
        return state_.load(std::memory_order_acquire);
    }

    void take_items(int thread) {
        const auto call = call_;
        const void* context = context_;
        const int64_t items = items_;
        for (int64_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < items;)
            call(context, item, thread);
    }

    void stop() {
        stopped_.store(true, std::memory_order_relaxed);
        state_.fetch_add(uint64_t{1} << ROUND_SHIFT, std::memory_order_seq_cst);
        {
            const std::lock_guard<std::mutex> guard(mutex_);
        }
        awake_.notify_all();
        for (std::thread& worker : workers_) worker.join();
    }

    const int threads_;
    std::vector<std::thread> workers_;
    void (*call_)(const void*, int64_t, int) = nullptr;
    const void* context_ = nullptr;
    int64_t items_ = 0;
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<uint64_t> state_{0};
    alignas(64) std::atomic<int> sleeping_{0};
    std::atomic<bool> stopped_{false};
    std::mutex mutex_;
    std::condition_variable awake_;
};

}  // namespace neo_edge
