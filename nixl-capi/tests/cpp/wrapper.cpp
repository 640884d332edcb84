// The C++ wrapper: two agents, every byte checked; errors; handles that move.
#include <nixl_rs.hpp>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

constexpr std::size_t block = 4096, blocks = 8;
constexpr std::chrono::milliseconds patience{10000};

void must(bool good, const char *what) {
    if (!good) {
        std::fprintf(stderr, "not so: %s\n", what);
        std::exit(1);
    }
}

unsigned char pattern(std::size_t number, std::size_t at) {
    return static_cast<unsigned char>(number * 37 + at * 11 + at / 256);
}

static_assert(!std::is_copy_constructible_v<nixl_rs::agent>);
static_assert(std::is_nothrow_move_constructible_v<nixl_rs::request>);
static_assert(!std::is_copy_assignable_v<nixl_rs::region>);

void count(void *user, nixl_rs_status status) {
    if (status == NIXL_RS_SUCCESS)
        static_cast<std::atomic<int> *>(user)->fetch_add(1);
}

// A region that the peer learns of later, and is told to forget.
void parts(nixl_rs::agent &prefill, nixl_rs::agent &decode) {
    nixl_rs::region late = prefill.allocate(block), memory = decode.allocate(block);
    const std::array<const nixl_rs::region *, 1> all{&late};
    must(decode.load_metadata(prefill.partial_metadata(all, false)) == "prefill", "a part");
    for (std::size_t at = 0; at < block; at++)
        late.bytes().data()[at] = pattern(9, at);
    nixl_rs::list here, there;
    here.push({nixl_rs::address(memory.bytes()), block, 0});
    there.push({nixl_rs::address(late.bytes()), block, 0});
    auto request = decode.create(nixl_rs::op::read, here, "prefill", there);
    std::atomic<int> ends{0};
    request.on_complete(count, &ends);
    request.post();
    must(request.wait(patience), "it ends");
    while (ends.load() == 0)
        std::this_thread::yield();
    request.on_complete(nullptr, nullptr);
    for (std::size_t at = 0; at < block; at++)
        must(memory.bytes().data()[at] == pattern(9, at), "the bytes of the late block");
    decode.load_metadata(prefill.withdrawal(all));
    try {
        decode.create(nixl_rs::op::read, here, "prefill", there);
        must(false, "an exception");
    } catch (const nixl_rs::error &e) {
        must(e.status() < 0, "it was forgotten");
    }
    memory.deregister(patience);
    late.deregister(patience);
}

void moves(const char *config) {
    nixl_rs::agent prefill("prefill", config), decode("decode", config);
    must(prefill.name() == "prefill", "the name");
    nixl_rs::region cache = prefill.allocate(block * blocks);
    nixl_rs::region memory = decode.allocate(block * blocks);
    auto there = cache.bytes(), here = memory.bytes();
    for (std::size_t i = 0; i < blocks; i++)
        for (std::size_t at = 0; at < block; at++)
            there[i * block + at] = pattern(i, at);
    must(decode.load_metadata(prefill.metadata()) == "prefill", "the peer's name");
    must(prefill.load_metadata(decode.metadata()) == "decode", "the peer's name");

    nixl_rs::list local, remote;
    local.push_run({nixl_rs::address(here), block, 0, block, blocks});
    for (std::size_t i = 0; i < blocks; i++)
        remote.push({nixl_rs::address(there) + i * block, block, 0});
    must(local.size() == blocks && remote.size() == blocks, "the lists' lengths");
    auto ours = decode.prepare(local);
    auto theirs = decode.prepare("prefill", remote);
    const std::array<std::uint32_t, 3> from{7, 2, 5}, to{0, 1, 2};
    auto request = decode.make(nixl_rs::op::read, ours, to, theirs, from);
    must(request.status() == NIXL_RS_ERR_NOT_POSTED, "not posted");
    request.post({"pulled", patience});
    must(request.wait(patience), "it ends");
    for (std::size_t i = 0; i < from.size(); i++)
        for (std::size_t at = 0; at < block; at++)
            must(here[i * block + at] == pattern(from[i], at), "the bytes of a block");
    must(request.receipt().bytes == from.size() * block, "what was moved");

    auto heard = prefill.take_notification(patience);
    must(heard && heard->data == "pulled" && heard->from == "decode", "the notification");
    must(heard->verified, "its sender is known");
    must(!prefill.take_notification(std::chrono::milliseconds(0)), "there was one");

    nixl_rs::request moved = std::move(request);
    must(!request && moved, "a handle moves");
    moved.post();
    must(moved.wait(patience), "it is posted again");
    must(!decode.explain("prefill", nixl_rs::op::read, 3, block).empty(), "the table");
    decode.prove("prefill", nixl_rs::op::read, patience);
    must(decode.peers() == std::vector<std::string>{"prefill"}, "the peers");
    must(decode.generation() != prefill.generation(), "two incarnations");
    must(prefill.counters().notifications_received == 1, "the counters");
    must(moved.receipt_text().rfind("path ", 0) == 0, "the receipt in words");
    parts(prefill, decode);
    memory.deregister(patience);
    cache.deregister(patience);
    decode.close(patience);
}

void errors() {
    nixl_rs::agent agent("alone", "backends = [\"ipc\"]");
    try {
        agent.prepare("nobody", nixl_rs::list());
        must(false, "an exception");
    } catch (const nixl_rs::error &e) {
        must(e.status() == NIXL_RS_ERR_INVALID_PARAM, "the status");
        must(e.what()[0] != '\0', "the text");
    }
    try {
        agent.notify("nobody", "x");
        must(false, "an exception");
    } catch (const nixl_rs::error &e) {
        must(e.status() == NIXL_RS_ERR_NOT_FOUND, "the status");
    }
    nixl_rs::list list;
    nixl_rs::list other = std::move(list);
    must(nixl_rs_list_free(other.get()) == NIXL_RS_SUCCESS, "freed by hand");
    // Freed once more by its destructor, which is no crash.
}

} // namespace

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        moves(argv[i]);
    if (argc < 2) {
        moves("backends = [\"ipc\"]");
        moves("backends = [\"tcp\"]");
    }
    errors();
    std::printf("all is well\n");
}
