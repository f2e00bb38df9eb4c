// Runs thousands of loops: every item once, nothing behind the end of a loop, whoever was asleep meanwhile.
#include "pool.h"

#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

namespace {

constexpr int64_t MOST_ITEMS = 100;

// What one loop does. `counts` are plain numbers: a thread checker sees whether their writes reach the
// caller.
struct Loop {
    int threads;
    std::vector<int> counts = std::vector<int>(MOST_ITEMS);
    std::vector<int> of_thread = std::vector<int>(8);
    std::atomic<bool> over{false};
    std::atomic<bool> late{false}, stranger{false};

    void item(int64_t index, int thread) {
        if (over.load()) late.store(true);
        if (thread < 0 || thread >= threads) return stranger.store(true);
        ++counts[static_cast<size_t>(index)];
        ++of_thread[static_cast<size_t>(thread)];
        volatile int work = 0;
        for (int64_t turn = 0; turn < 40 * (index % 7); ++turn) work = work + 1;
    }
};

bool holds(neo_edge::Pool& pool, int threads, int64_t items, std::vector<std::unique_ptr<Loop>>& kept) {
    auto loop = std::make_unique<Loop>();
    loop->threads = threads;
    pool.run(items, [&](int64_t index, int thread) { loop->item(index, thread); });
    loop->over.store(true);
    int64_t done = 0;
    for (int64_t index = 0; index < MOST_ITEMS; ++index) {
        const int count = loop->counts[static_cast<size_t>(index)];
        if (count != (index < items ? 1 : 0)) {
            std::printf("%d threads, %d items: item %d ran %d times\n", threads, static_cast<int>(items),
                        static_cast<int>(index), count);
            return false;
        }
    }
    for (const int count : loop->of_thread) done += count;
    kept.push_back(std::move(loop));  // one that comes late must find it
    return done == items;
}

bool check(int threads, int loops) {
    constexpr int64_t SIZES[] = {0, 1, 2, 100};
    std::vector<std::unique_ptr<Loop>> kept;
    neo_edge::Pool pool(threads);
    if (pool.threads() != threads) return false;
    for (int at = 0; at < loops; ++at) {
        // Between two loops of a step nobody sleeps, between two steps all do, and here and there some are
        // about to.
        if (at % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        if (at % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(at % 300));
        if (!holds(pool, threads, SIZES[at * 2654435761U >> 7 & 3], kept)) return false;
    }
    for (const auto& loop : kept) {
        if (loop->late || loop->stranger) {
            std::printf("%d threads: %s\n", threads,
                        loop->late ? "an item ran behind its loop" : "unknown thread");
            return false;
        }
    }
    return true;
}

// Two items that wait for each other: one thread alone would never end them.
bool wakes(neo_edge::Pool& pool, std::chrono::milliseconds sleep) {
    std::this_thread::sleep_for(sleep);
    std::atomic<int> begun{0};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    pool.run(2, [&](int64_t, int) {
        begun.fetch_add(1);
        while (begun.load() < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    });
    if (std::chrono::steady_clock::now() < deadline) return true;
    std::printf("no worker came within 20 s after %d ms\n", static_cast<int>(sleep.count()));
    return false;
}

}  // namespace

int main() {
    neo_edge::Pool pool(2);
    for (const int sleep : {0, 1, 20, 0, 0, 5}) {
        if (!wakes(pool, std::chrono::milliseconds(sleep))) return 1;
    }
    for (int threads = 1; threads <= 5; ++threads) {
        if (!check(threads, 2000)) return 1;
        for (int at = 0; at < 20;
             ++at) {  // pools that end at once, before, while and after their workers sleep
            if (!check(threads, at % 3)) return 1;
        }
    }
    std::atomic<int64_t> done{0};
    for (int at = 0; at < 2000; ++at) {  // a worker may come as late as the end itself
        neo_edge::Pool brief(2 + at % 4);
        std::this_thread::sleep_for(std::chrono::microseconds(at % 200));
        brief.run(2, [&](int64_t, int) { done.fetch_add(1); });
    }
    if (done.load() != 4000) return 1;
    std::puts("ok");
    return 0;
}
