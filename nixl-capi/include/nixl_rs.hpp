// nixl-rs in C++17: handles that free themselves, views, exceptions. Header only; link nixl_rs.
//
// Every function throws nixl_rs::error with the status and the text of nixl_rs_last_error(),
// unless it says otherwise. Use .get() for what is in nixl_rs.h only.
#ifndef NIXL_RS_HPP
#define NIXL_RS_HPP

#include <nixl_rs.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nixl_rs {

using milliseconds = std::chrono::milliseconds;

class error : public std::runtime_error {
public:
    explicit error(nixl_rs_status status)
        : std::runtime_error(nixl_rs_last_error()), status_(status) {}
    nixl_rs_status status() const noexcept { return status_; }

private:
    nixl_rs_status status_;
};

// Throws for an error; returns NIXL_RS_SUCCESS or NIXL_RS_IN_PROG.
inline nixl_rs_status check(nixl_rs_status status) {
    if (status < 0)
        throw error(status);
    return status;
}

// A view of elements of somebody else's, as C++20's std::span.
template <class T> class span {
public:
    constexpr span() noexcept = default;
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    // Any container with data() and size().
    template <class C, class = decltype(static_cast<T *>(std::declval<C &>().data()))>
    constexpr span(C &container) noexcept : data_(container.data()), size_(container.size()) {}
    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t at) const { return data_[at]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

// Where a view begins, as descriptors name it.
template <class T> std::uint64_t address(span<T> view) noexcept {
    return reinterpret_cast<std::uintptr_t>(view.data());
}

namespace detail {

inline std::uint64_t count(milliseconds time) noexcept {
    return time.count() < 0 ? 0 : static_cast<std::uint64_t>(time.count());
}

// Owns a handle and frees it with `Free`, whose status nobody can be told.
template <class T, nixl_rs_status (*Free)(T *)> class handle {
public:
    handle() noexcept = default;
    explicit handle(T *raw) noexcept : raw_(raw) {}
    handle(handle &&other) noexcept : raw_(other.release()) {}
    handle &operator=(handle &&other) noexcept {
        if (this != &other)
            reset(other.release());
        return *this;
    }
    ~handle() { reset(); }
    T *get() const noexcept { return raw_; }
    T *release() noexcept { return std::exchange(raw_, nullptr); }
    void reset(T *raw = nullptr) noexcept {
        if (T *old = std::exchange(raw_, raw))
            (void)Free(old);
    }
    explicit operator bool() const noexcept { return raw_ != nullptr; }

private:
    T *raw_ = nullptr;
};

inline nixl_rs_status free_agent(nixl_rs_agent *raw) { return nixl_rs_agent_destroy(raw, 1000); }
inline nixl_rs_status free_region(nixl_rs_region *raw) { return nixl_rs_deregister(raw, 1000); }
inline nixl_rs_status free_listener(nixl_rs_listener *raw) { return nixl_rs_listener_stop(raw, 0); }

using blob = handle<nixl_rs_blob, nixl_rs_blob_free>;

// What `call` puts into a blob.
template <class Call> std::string bytes(Call call) {
    nixl_rs_blob *raw = nullptr;
    check(call(&raw));
    blob owned(raw);
    const void *data = nullptr;
    std::size_t len = 0;
    check(nixl_rs_blob_get(raw, &data, &len));
    return std::string(static_cast<const char *>(data), len);
}

} // namespace detail

enum class op : std::uint32_t { read = NIXL_RS_READ, write = NIXL_RS_WRITE };

// Registered memory. Its destructor waits a second for peers; deregister() says how that went.
class region : public detail::handle<nixl_rs_region, detail::free_region> {
public:
    using handle::handle;
    nixl_rs_region_info_t info() const {
        nixl_rs_region_info_t info{};
        info.size = sizeof info;
        check(nixl_rs_region_info(get(), &info));
        return info;
    }
    span<unsigned char> bytes() const {
        const auto found = info();
        auto *first = reinterpret_cast<unsigned char *>(static_cast<std::uintptr_t>(found.addr));
        return {first, static_cast<std::size_t>(found.len)};
    }
    // On an error the memory must stay, and so does the handle.
    void deregister(milliseconds timeout) {
        check(nixl_rs_deregister(get(), detail::count(timeout)));
        release();
    }
};

namespace detail {

inline std::vector<const nixl_rs_region *> raw(span<const region *const> regions) {
    std::vector<const nixl_rs_region *> all;
    for (std::size_t i = 0; i < regions.size(); i++)
        all.push_back(regions.data()[i]->get());
    return all;
}

} // namespace detail

// Blocks of memory, in order.
class list : public detail::handle<nixl_rs_list, nixl_rs_list_free> {
public:
    explicit list(std::uint32_t kind = NIXL_RS_DRAM) {
        nixl_rs_list *raw = nullptr;
        check(nixl_rs_list_create(kind, &raw));
        reset(raw);
    }
    void push(const nixl_rs_desc &block) { check(nixl_rs_list_push(get(), &block, 1)); }
    void push(span<const nixl_rs_desc> blocks) {
        check(nixl_rs_list_push(get(), blocks.data(), blocks.size()));
    }
    void push_run(const nixl_rs_run &run) { check(nixl_rs_list_push_runs(get(), &run, 1)); }
    std::uint64_t size() const {
        std::uint64_t len = 0;
        check(nixl_rs_list_len(get(), &len));
        return len;
    }
};

using local = detail::handle<nixl_rs_local, nixl_rs_local_free>;
using remote = detail::handle<nixl_rs_remote, nixl_rs_remote_free>;

struct post_options {
    // Delivered to the target after the data.
    std::optional<std::string_view> notification;
    // Zero: as the agent's configuration says.
    milliseconds deadline{0};
};

// A transfer. Its destructor cancels it if it is active.
class request : public detail::handle<nixl_rs_request, nixl_rs_request_free> {
public:
    using handle::handle;
    // Whether it is done already.
    bool post(const post_options &options = {}) {
        nixl_rs_post_options raw{};
        raw.size = sizeof raw;
        if (options.notification) {
            const auto text = *options.notification;
            raw.notification = text.data() ? text.data() : "";
            raw.notification_len = text.size();
        }
        raw.deadline_ms = detail::count(options.deadline);
        return check(nixl_rs_request_post(get(), &raw)) == NIXL_RS_SUCCESS;
    }
    // Does not throw.
    nixl_rs_status status() const noexcept { return nixl_rs_request_status(get()); }
    // Whether it ended in time; throws what it failed with.
    bool wait(milliseconds timeout) {
        return check(nixl_rs_request_wait(get(), detail::count(timeout))) == NIXL_RS_SUCCESS;
    }
    void cancel() { check(nixl_rs_request_cancel(get())); }
    // `done` is called once for each post, on the thread that ended it; nullptr takes it away.
    void on_complete(nixl_rs_callback done, void *user) {
        check(nixl_rs_request_on_complete(get(), done, user));
    }
    // The path, its lanes, and why earlier paths failed: a line each, for people.
    std::string receipt_text() const {
        return detail::bytes([&](auto out) { return nixl_rs_request_receipt_text(get(), out); });
    }
    nixl_rs_receipt receipt() const {
        nixl_rs_receipt receipt{};
        receipt.size = sizeof receipt;
        check(nixl_rs_request_receipt(get(), &receipt));
        return receipt;
    }
    nixl_rs_request_info_t info() const {
        nixl_rs_request_info_t info{};
        info.size = sizeof info;
        check(nixl_rs_request_info(get(), &info));
        return info;
    }
};

struct notification {
    std::string from, data;
    std::uint64_t generation;
    bool verified;
};

class agent : public detail::handle<nixl_rs_agent, detail::free_agent> {
public:
    // `config` is TOML; nullptr takes the file and the variables of the environment.
    explicit agent(const std::string &name, const char *config = nullptr) {
        nixl_rs_agent_options options{};
        options.size = sizeof options;
        options.config = config;
        nixl_rs_agent *raw = nullptr;
        check(nixl_rs_agent_create(name.c_str(), &options, &raw));
        reset(raw);
    }
    // Ends it; on an error registered memory must stay.
    void close(milliseconds timeout) {
        check(nixl_rs_agent_destroy(release(), detail::count(timeout)));
    }
    std::string name() const {
        return detail::bytes([&](auto out) { return nixl_rs_agent_name(get(), out); });
    }
    std::uint64_t generation() const {
        std::uint64_t generation = 0;
        check(nixl_rs_agent_generation(get(), &generation));
        return generation;
    }
    int event_fd() const {
        int fd = -1;
        check(nixl_rs_agent_event_fd(get(), &fd));
        return fd;
    }
    bool progress(std::chrono::microseconds wait) const {
        int did = 0;
        const auto us = wait.count() < 0 ? 0 : static_cast<std::uint64_t>(wait.count());
        check(nixl_rs_agent_progress(get(), us, &did));
        return did != 0;
    }

    // Memory that peers on this host can map.
    region allocate(std::size_t len) const {
        nixl_rs_region *raw = nullptr;
        check(nixl_rs_allocate(get(), len, nullptr, &raw));
        return region(raw);
    }
    // The caller's memory, which stays until it was deregistered.
    region register_memory(void *memory, std::size_t len) const {
        nixl_rs_region *raw = nullptr;
        check(nixl_rs_register(get(), memory, len, nullptr, &raw));
        return region(raw);
    }

    std::string metadata() const {
        return detail::bytes([&](auto out) { return nixl_rs_metadata(get(), out); });
    }
    // Of some regions only, with or without how to reach this agent.
    std::string partial_metadata(span<const region *const> regions, bool with_card) const {
        const auto raw = detail::raw(regions);
        return detail::bytes([&](auto out) {
            return nixl_rs_partial_metadata(get(), raw.data(), raw.size(), with_card, out);
        });
    }
    // Tells peers to forget the regions.
    std::string withdrawal(span<const region *const> regions) const {
        const auto raw = detail::raw(regions);
        return detail::bytes(
            [&](auto out) { return nixl_rs_withdrawal(get(), raw.data(), raw.size(), out); });
    }
    void send_metadata(const std::string &host_and_port) const {
        check(nixl_rs_send_metadata(get(), host_and_port.c_str(), nullptr));
    }
    // The peer's name.
    std::string load_metadata(std::string_view blob) const {
        return detail::bytes([&](auto out) {
            return nixl_rs_load_metadata(get(), blob.data(), blob.size(), out);
        });
    }
    std::string fetch_metadata(const std::string &host_and_port) const {
        return detail::bytes([&](auto out) {
            return nixl_rs_fetch_metadata(get(), host_and_port.c_str(), nullptr, out);
        });
    }
    std::vector<std::string> peers() const {
        const std::string all =
            detail::bytes([&](auto out) { return nixl_rs_agent_peers(get(), out); });
        std::vector<std::string> names;
        for (std::size_t at = 0; at < all.size(); at += names.back().size() + 1)
            names.emplace_back(all.c_str() + at);
        return names;
    }
    void remove_peer(const std::string &peer) const {
        check(nixl_rs_agent_remove_peer(get(), peer.c_str()));
    }
    void connect(const std::string &peer, milliseconds timeout) const {
        check(nixl_rs_agent_connect(get(), peer.c_str(), detail::count(timeout)));
    }
    // Moves a nonce, and throws if it does not arrive.
    void prove(const std::string &peer, op what, milliseconds timeout) const {
        check(nixl_rs_agent_prove(get(), peer.c_str(), static_cast<std::uint32_t>(what),
                                  detail::count(timeout)));
    }
    nixl_rs_counters counters() const {
        nixl_rs_counters counters{};
        counters.size = sizeof counters;
        check(nixl_rs_agent_counters(get(), &counters));
        return counters;
    }
    std::string explain(const std::string &peer, op what, std::uint64_t count,
                        std::uint64_t block_len) const {
        return detail::bytes([&](auto out) {
            return nixl_rs_agent_explain(get(), peer.c_str(), static_cast<std::uint32_t>(what),
                                         count, block_len, out);
        });
    }

    local prepare(const list &blocks) const {
        nixl_rs_local *raw = nullptr;
        check(nixl_rs_prepare_local(get(), blocks.get(), &raw));
        return local(raw);
    }
    remote prepare(const std::string &peer, const list &blocks) const {
        nixl_rs_remote *raw = nullptr;
        check(nixl_rs_prepare_remote(get(), peer.c_str(), blocks.get(), &raw));
        return remote(raw);
    }
    // Between blocks by index, paired in order; an empty view takes all.
    request make(op what, const local &ours, span<const std::uint32_t> here, const remote &theirs,
                 span<const std::uint32_t> there) const {
        nixl_rs_request *raw = nullptr;
        check(nixl_rs_request_make(get(), static_cast<std::uint32_t>(what), ours.get(),
                                   here.empty() ? nullptr : here.data(), here.size(), theirs.get(),
                                   there.empty() ? nullptr : there.data(), there.size(), &raw));
        return request(raw);
    }
    request create(op what, const list &ours, const std::string &peer, const list &theirs) const {
        nixl_rs_request *raw = nullptr;
        check(nixl_rs_request_create(get(), static_cast<std::uint32_t>(what), ours.get(),
                                     peer.c_str(), theirs.get(), &raw));
        return request(raw);
    }

    void notify(const std::string &peer, std::string_view data) const {
        check(nixl_rs_notify(get(), peer.c_str(), data.data(), data.size()));
    }
    // Nothing when none came in time.
    std::optional<notification> take_notification(milliseconds timeout) const {
        nixl_rs_notification *raw = nullptr;
        check(nixl_rs_take_notification(get(), detail::count(timeout), &raw));
        if (raw == nullptr)
            return std::nullopt;
        detail::handle<nixl_rs_notification, nixl_rs_notification_free> owned(raw);
        nixl_rs_notification_view view{};
        view.size = sizeof view;
        check(nixl_rs_notification_get(raw, &view));
        return notification{view.from, std::string(static_cast<const char *>(view.data), view.len),
                            view.generation, view.verified != 0};
    }
};

// Serves an agent's metadata on loopback, and takes that of others.
class listener : public detail::handle<nixl_rs_listener, detail::free_listener> {
public:
    explicit listener(const agent &served, const char *host_and_port = nullptr) {
        nixl_rs_listener *raw = nullptr;
        check(nixl_rs_listener_start(served.get(), host_and_port, nullptr, &raw));
        reset(raw);
    }
    std::string address() const {
        return detail::bytes([&](auto out) { return nixl_rs_listener_address(get(), out); });
    }
};

} // namespace nixl_rs

#endif
